"""Mutated videos, and the process that tries to read them.

    python tests/data/fuzz_videos.py FOLDER

reads every file of FOLDER as training and the data check do. It prints how many could be read, how
many were refused with DecodeError, and the largest memory in MB. SIGALRM ends it when one file
takes more than 10 seconds; any other exception ends it with a traceback.
"""

import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from latte_ms.data.video_file import DecodeError, decode_all, index_video, read_frames
from tests.memory import peak_mib

SECONDS_PER_FILE = 10
_EXTREMES = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x00010000)


def mutants(sources: Iterable[Path], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """`count` names and contents made from `sources` in turn."""
    files = [(path.suffix, path.read_bytes()) for path in sources]
    mutations = (flip_bits, truncate, edit_numbers, swap_blocks, overwrite, repeat_block)
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        suffix, data = files[number % len(files)]
        mutate = mutations[int(rng.integers(len(mutations)))]
        yield f"{number:03d}_{mutate.__name__}{suffix}", bytes(mutate(bytearray(data), rng))


def flip_bits(data: bytearray, rng: np.random.Generator) -> bytearray:
    for place in rng.integers(0, 8 * len(data), int(rng.integers(1, 100))):
        data[place // 8] ^= 1 << (place % 8)
    return data


def truncate(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data[: int(rng.integers(len(data)))]


def edit_numbers(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Four-byte fields of the head or the tail, where containers keep their tables."""
    for _ in range(int(rng.integers(1, 9))):
        near = int(rng.integers(0, min(1500, len(data) - 4)))
        start = near if rng.random() < 0.6 else len(data) - 4 - near
        value = _EXTREMES[int(rng.integers(len(_EXTREMES)))]
        data[start : start + 4] = value.to_bytes(4, "big" if rng.random() < 0.5 else "little")
    return data


def swap_blocks(data: bytearray, rng: np.random.Generator) -> bytearray:
    size = int(rng.integers(1, max(2, len(data) // 4)))
    first, second = sorted(rng.integers(0, len(data) - size, 2).tolist())
    one, two = data[first : first + size], data[second : second + size]
    data[first : first + size], data[second : second + size] = two, one
    return data


def overwrite(data: bytearray, rng: np.random.Generator) -> bytearray:
    size = int(rng.integers(1, max(2, len(data) // 8)))
    start = int(rng.integers(0, len(data) - size))
    data[start : start + size] = rng.bytes(size)
    return data


def repeat_block(data: bytearray, rng: np.random.Generator) -> bytearray:
    size = int(rng.integers(1, max(2, len(data) // 8)))
    start = int(rng.integers(0, len(data) - size))
    return data[:start] + data[start : start + size] * int(rng.integers(2, 9)) + data[start:]


def read_all(folder: Path) -> tuple[int, int]:
    """How many files could be read to the end, and how many were refused."""
    read = refused = 0
    for path in sorted(folder.iterdir()):
        print(path.name, flush=True)
        signal.alarm(SECONDS_PER_FILE)
        try:
            index = index_video(path)
            read_frames(path, range(min(16, index.num_frames)), index)
            read_frames(path, [index.num_frames - 1], index)
            for frame in decode_all(path):
                frame.pixels()
            read += 1
        except DecodeError:
            refused += 1
        signal.alarm(0)
    return read, refused


if __name__ == "__main__":
    result = read_all(Path(sys.argv[1]))
    print(*result, peak_mib())
