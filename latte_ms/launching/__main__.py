"""`python -m latte_ms.launching MSRUN_OPTIONS SCRIPT ...`: msrun's options and its work."""

from latte_ms.launching.manager import main

if __name__ == "__main__":
    main()
