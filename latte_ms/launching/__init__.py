"""Starting the processes of a distributed run on one or several machines, and ending them together.

`python -m latte_ms.launching` is MindSpore's `msrun --join=True` with another end: when a process
dies, the others are ended and its rank is named. The scripts in `scripts/launch` start it.
"""
