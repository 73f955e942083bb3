"""The largest memory of this process, from Linux's own record.

`getrusage` reports the larger of a process and of the parent that it was forked from, which hides
what a small child of a large test process takes.
"""

from pathlib import Path


def reset_peak() -> None:
    """Let the record begin anew, at what the process holds now."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> int:
    """The most memory that was resident at a time, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM:"))  # such as "VmHWM:  1024 kB"
    return int(peak.split()[1]) // 1024
