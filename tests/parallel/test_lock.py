"""A lock on a folder: the system's, so that it ends with its process."""

import errno
import fcntl
import logging
from pathlib import Path

import pytest

from latte_ms.parallel.lock import FolderLock


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    with (
        FolderLock(tmp_path, "key"),
        pytest.raises(ValueError, match=r"`key` .* is in use by process"),
        FolderLock(tmp_path, "key"),
    ):
        pass
    with FolderLock(tmp_path, "key"):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert list(tmp_path.iterdir()) == []


def test_a_left_lock_does_not_block(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("process 1 on another machine")
    with FolderLock(tmp_path, "key"):
        assert "process 1 " not in (tmp_path / ".lock").read_text()


def test_a_folder_with_content_stays(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "new", "key"):
        (tmp_path / "new" / "file").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


def test_a_filesystem_without_locks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with caplog.at_level(logging.WARNING), FolderLock(tmp_path, "key"):
        pass
    assert f"{tmp_path} cannot be locked" in caplog.text
    assert "nothing keeps another run out of it" in caplog.text
