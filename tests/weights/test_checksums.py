"""Fingerprints of files and folders that are read in part."""

from pathlib import Path

import pytest

from latte_ms.weights import checksums
from latte_ms.weights.checksums import quick_fingerprint


def test_names_sizes_and_contents_count_and_hidden_files_do_not(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").write_bytes(b"weights")
    (tmp_path / "a" / "y").write_bytes(b"")
    found = [quick_fingerprint(tmp_path / "a")]
    (tmp_path / "a" / ".hidden").write_bytes(b"1")
    assert quick_fingerprint(tmp_path / "a") == found[0]
    (tmp_path / "a").rename(tmp_path / "c")
    assert quick_fingerprint(tmp_path / "c") == found[0], "its own place does not matter"
    (tmp_path / "c" / "b" / "x").write_bytes(b"Weights")
    found.append(quick_fingerprint(tmp_path / "c"))
    (tmp_path / "c" / "b" / "x").rename(tmp_path / "c" / "x")
    found.append(quick_fingerprint(tmp_path / "c"))
    found.append(quick_fingerprint(tmp_path / "c" / "x"))
    assert len(set(found)) == 4


@pytest.mark.parametrize("size", [256, 257, 1000, 4096])
def test_a_large_file_is_read_at_its_ends_and_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(checksums, "_PIECE_BYTES", 1)
    path = tmp_path / "weights"
    content = bytearray(size)
    path.write_bytes(content)
    before = quick_fingerprint(path)
    seen = []
    for place in (0, 1, size // 2, size - 1):
        content[place] ^= 1
        path.write_bytes(content)
        content[place] ^= 1
        seen.append(quick_fingerprint(path) != before)
    assert (seen[0], seen[-1]) == (True, True)
    for block in range(0, size, size // 100):
        changed = bytearray(size)
        length = -(-size // 128)
        changed[block : block + length] = b"1" * len(changed[block : block + length])
        path.write_bytes(changed)
        assert quick_fingerprint(path) != before, "no change of 1/128 of the file is missed"
