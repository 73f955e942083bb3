"""Files and folders appear when they are complete, and replace older ones or leave them."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from latte_ms.atomic import WriteError, atomic_file, atomic_folder, remove_folder, remove_partial


def hidden(path: Path, suffix: str) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}{suffix}")


def make_folder(path: Path, text: str) -> None:
    path.mkdir()
    (path / "content").write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file"
    with atomic_file(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert names(target.parent) == ["file"]


def test_a_file_is_unchanged_after_an_exception(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def write() -> None:
        with atomic_file(target) as temporary:
            temporary.write_text("new")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_left_partial_file_is_not_continued(tmp_path: Path) -> None:
    target = tmp_path / "file"
    hidden(target, ".partial").write_text("left")
    with atomic_file(target) as temporary, temporary.open("a") as file:
        file.write("new")
    assert target.read_text() == "new"
    assert names(tmp_path) == ["file"]


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "parent" / "folder"
    with atomic_folder(target) as temporary:
        (temporary / "content").write_text("new")
        assert not target.exists()
    assert (target / "content").read_text() == "new"
    assert names(target.parent) == ["folder"]


def test_a_folder_replaces_an_older_one(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    make_folder(target, "old")
    (target / "extra").write_text("old")
    with atomic_folder(target) as temporary:
        (temporary / "content").write_text("new")
    assert (target / "content").read_text() == "new"
    assert names(target) == ["content"]
    assert names(tmp_path) == ["folder"]


def test_a_folder_is_unchanged_after_an_exception(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    make_folder(target, "old")

    def write() -> None:
        with atomic_folder(target) as temporary:
            (temporary / "content").write_text("new")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write()
    assert (target / "content").read_text() == "old"
    assert names(tmp_path) == ["folder"]


def test_a_left_partial_folder_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    left = hidden(target, ".partial")
    make_folder(left, "left")
    (left / "extra").write_text("left")
    with atomic_folder(target) as temporary:
        (temporary / "content").write_text("new")
    assert names(target) == ["content"]
    assert (target / "content").read_text() == "new"
    assert names(tmp_path) == ["folder"]


def test_the_old_folder_survives_a_failing_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "folder"
    make_folder(target, "old")
    rename = Path.rename

    def failing(self: Path, other: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError("no rename")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="no rename"), atomic_folder(target) as temporary:
        (temporary / "content").write_text("new")
    assert (target / "content").read_text() == "old"
    assert names(tmp_path) == ["folder"]


def test_a_file_without_room_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(WriteError) as caught, file_limit(1000), atomic_file(target) as temporary:
        temporary.write_bytes(bytes(2000))
    assert caught.value.errno == errno.EFBIG
    assert str(caught.value).startswith(f"{target} cannot be written: File too large. ")
    assert "run the same command again" in str(caught.value)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_full_disk_is_named_with_the_final_path_inside_a_folder(tmp_path: Path) -> None:
    def write() -> None:
        with (
            atomic_folder(tmp_path / "folder") as temporary,
            atomic_file(temporary / "member"),
        ):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(WriteError) as caught:
        write()
    assert str(caught.value) == (
        f"{tmp_path}/folder/member cannot be written: No space left on device. Free some space, or "
        "choose another folder, and run the same command again."
    )
    assert names(tmp_path) == []


def test_an_input_that_cannot_be_read_keeps_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no_input"), atomic_file(tmp_path / "file"):
        (tmp_path / "no_input").read_text()
    assert names(tmp_path) == []


def test_a_folder_that_is_removed_leaves_nothing(tmp_path: Path) -> None:
    make_folder(tmp_path / "folder", "old")
    make_folder(hidden(tmp_path / "folder", ".removed"), "of a killed process with this number")
    remove_folder(tmp_path / "folder")
    assert names(tmp_path) == []


def test_left_parts_are_removed(tmp_path: Path) -> None:
    make_folder(tmp_path / "folder", "complete")
    make_folder(tmp_path / ".folder.12.partial", "partial")
    make_folder(tmp_path / ".folder.12.replaced", "old")
    make_folder(tmp_path / ".folder.12.removed", "half")
    (tmp_path / ".file.12.partial").write_text("partial")
    remove_partial(tmp_path)
    assert names(tmp_path) == ["folder"]
    assert (tmp_path / "folder" / "content").read_text() == "complete"


def test_a_folder_whose_replacement_is_missing_is_restored(tmp_path: Path) -> None:
    make_folder(tmp_path / ".folder.12.partial", "new")
    make_folder(tmp_path / ".folder.12.replaced", "old")
    remove_partial(tmp_path)
    assert names(tmp_path) == ["folder"]
    assert (tmp_path / "folder" / "content").read_text() == "old"
