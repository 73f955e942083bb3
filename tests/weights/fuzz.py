"""Reads damaged and hostile weight files one after the other, in a process of limited memory.

    python -m tests.weights.fuzz COUNT SEED

The last line is a JSON object: how many were read and refused, and what should not have happened.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from tests.memory import peak_mib
from tests.weights import hostile

SECONDS, MEMORY = 10, 1 << 30


def run(count: int, seed: int, folder: Path) -> dict[str, object]:
    """Read `count` files; `faults` has what is neither a clean read nor a WeightError."""
    trace, faults, slowest = folder / "trace", [], 0.0
    counts = {"read": 0, "refused": 0}
    for i, (suffix, data) in enumerate(hostile.hostile_files(count, seed, folder, trace)):
        path = folder / f"file{suffix}"
        path.write_bytes(data)
        start = time.monotonic()
        try:
            with hostile.limited(SECONDS, MEMORY):
                message = hostile.verdict(path)
        except (Exception, hostile.TooLong) as error:
            faults.append(f"{i} {suffix} {type(error).__name__}: {error}"[:300])
            continue
        slowest = max(slowest, time.monotonic() - start)
        counts["refused" if message else "read"] += 1
        if message and (message.count(str(path)) != 1 or len(message) > 2000):
            faults.append(f"{i} {suffix} {message[:300]}")
    if trace.exists():
        faults.append("code from a file was run")
    return {**counts, "slowest": round(slowest, 3), "faults": faults}


if __name__ == "__main__":
    before, held = resource.getrusage(resource.RUSAGE_SELF), peak_mib()
    with tempfile.TemporaryDirectory() as temporary:
        report = run(int(sys.argv[1]), int(sys.argv[2]), Path(temporary))
    after = resource.getrusage(resource.RUSAGE_SELF)
    report["cpu"] = round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1)
    report["memory"] = (peak_mib() - held) << 20
    print(json.dumps(report))
