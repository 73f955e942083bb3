"""A folder of samples takes the videos of one recipe, from one run at a time."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latte_ms.generation.sample_folder import RECORD, SampleFolder, SampleRecord, read_record
from latte_ms.generation.video_files import VideoFiles
from latte_ms.runtime import Rank

FILES = VideoFiles(formats=["png"])
VIDEO = np.zeros((2, 4, 4, 3), np.uint8)
STEMS = ["0000", "0001"]
SETTINGS = {"seed": 3, "weights": "ab" * 32, "sampler": {"num_steps": 250, "eta": 0.0}}
RECORD_3 = SampleRecord(SETTINGS, {"weights": "first.pt"}, count=3)


def begun(path: Path, record: SampleRecord = RECORD_3, stems: list[str] = STEMS) -> SampleFolder:
    """A folder as a run leaves it that was stopped before its first video."""
    with SampleFolder(path, FILES, Rank()) as folder:
        folder.begin(lambda: record, stems)
    return folder


def refused(path: Path, record: SampleRecord, message: str) -> None:
    before = (path / RECORD).read_bytes()
    with pytest.raises(ValueError, match=message):
        begun(path, record)
    assert (path / RECORD).read_bytes() == before


def changed(**settings: Any) -> SampleRecord:
    return dataclasses.replace(RECORD_3, settings=SETTINGS | settings)


def test_the_same_recipe_goes_on(tmp_path: Path) -> None:
    begun(tmp_path).save("0000", VIDEO)
    written = (tmp_path / "0000.png").stat().st_mtime_ns
    (tmp_path / ".0001.png.77.partial").write_bytes(b"half")
    folder = begun(tmp_path)
    assert [folder.has(stem) for stem in STEMS] == [True, False]
    folder.save("0000", VIDEO + 1)
    assert (tmp_path / "0000.png").stat().st_mtime_ns == written, "a finished video stays"
    assert {path.name for path in tmp_path.iterdir()} == {RECORD, "0000.png"}
    record = read_record(tmp_path)
    assert record is not None
    assert (record.settings, record.count) == (SETTINGS, 3)


def test_another_recipe_is_refused_by_what_differs(tmp_path: Path) -> None:
    begun(tmp_path).save("0000", VIDEO)
    advice = "Choose another folder, or the same values"
    steps = {"num_steps": 50, "eta": 0.0}
    refused(tmp_path, changed(sampler=steps), rf"sampler.num_steps was 250, is 50. {advice}")
    refused(tmp_path, changed(seed=4), "holds videos of another recipe: seed was 3, is 4")
    other = dataclasses.replace(changed(weights="cd" * 32), sources={"weights": "second.pt"})
    message = r"weights was first.pt \(SHA-256 abababababab...\), is second.pt \(SHA-256 cdcdcd"
    refused(tmp_path, other, message)
    fewer = dataclasses.replace(RECORD_3, count=2)
    refused(tmp_path, fewer, "num_videos was 3, is 2")


def test_the_place_of_the_same_weights_does_not_matter(tmp_path: Path) -> None:
    begun(tmp_path).save("0000", VIDEO)
    begun(tmp_path, dataclasses.replace(RECORD_3, sources={"weights": "moved.pt"}))


def test_more_videos_of_the_same_recipe_are_added(tmp_path: Path) -> None:
    begun(tmp_path).save("0000", VIDEO)
    begun(tmp_path, dataclasses.replace(RECORD_3, count=5))
    refused(tmp_path, RECORD_3, "num_videos was 5, is 3")


def test_a_folder_without_videos_takes_any_recipe(tmp_path: Path) -> None:
    begun(tmp_path)
    begun(tmp_path, changed(seed=4))
    record = read_record(tmp_path)
    assert record is not None
    assert record.settings["seed"] == 4


def test_prompts_are_added_unless_a_name_stands_for_two(tmp_path: Path) -> None:
    first = dataclasses.replace(RECORD_3, count=0, names={"a_b_seed0": "a-b"})
    begun(tmp_path, first).save("a_b_seed0", VIDEO)
    second = dataclasses.replace(first, names={"a_cat_seed0": "a cat"})
    begun(tmp_path, second)
    record = read_record(tmp_path)
    assert record is not None
    assert record.names == first.names | second.names
    other = dataclasses.replace(first, names={"a_b_seed0": "a b!"})
    refused(tmp_path, other, "a_b_seed0 was the prompt 'a-b', is 'a b!'")


def test_videos_of_unknown_origin_are_not_taken_over(tmp_path: Path) -> None:
    FILES.save(tmp_path / "0001", VIDEO)
    with pytest.raises(ValueError, match=rf"holds 0001.png, and no {RECORD} that says"):
        begun(tmp_path)
    begun(tmp_path, stems=["0002"])


@pytest.mark.parametrize("name", ["0001.mp4", "0001.gif", "0001"])
def test_a_part_of_the_files_of_a_video_is_not_replaced(name: str, tmp_path: Path) -> None:
    """All files of a name are written together: one of unknown origin would be lost."""
    files = VideoFiles(formats=["mp4", "gif", "frames"])
    (tmp_path / name).write_bytes(b"a file of someone")
    with (
        SampleFolder(tmp_path, files, Rank()) as folder,
        pytest.raises(ValueError, match=rf"holds {name}, and no {RECORD} that says"),
    ):
        folder.begin(lambda: RECORD_3, STEMS)
    assert {path.name for path in tmp_path.iterdir()} == {name}
    (tmp_path / name).rename(tmp_path / "0001.txt")
    with SampleFolder(tmp_path, files, Rank()) as folder:
        folder.begin(lambda: RECORD_3, STEMS)


def test_what_is_known_of_a_recipe_is_checked_before_the_rest(tmp_path: Path) -> None:
    """Without checksums of weights, and without writing anything."""

    def check(**settings: Any) -> None:
        record = dataclasses.replace(RECORD_3, settings=settings)
        with SampleFolder(tmp_path, FILES, Rank()) as folder:
            folder.check(lambda: record, STEMS)

    check(seed=4)
    assert list(tmp_path.iterdir()) == []
    begun(tmp_path).save("0000", VIDEO)
    before = (tmp_path / RECORD).read_bytes()
    check(seed=3)
    with pytest.raises(ValueError, match=r"holds videos of another recipe: seed was 3, is 4. C"):
        check(seed=4)
    assert (tmp_path / RECORD).read_bytes() == before
    (tmp_path / RECORD).unlink()
    with pytest.raises(ValueError, match=rf"holds 0000.png, and no {RECORD}"):
        check(seed=3)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b"{}", b'{"kind": "latte_ms samples", "version": 2, "settings": {}}']
    + [json.dumps({"kind": "latte_ms samples", "version": 1, **fields}).encode()
       for fields in ({"settings": 1}, {"settings": {}, "count": "2"}, {"other": 3})],
)  # fmt: skip
def test_a_damaged_record_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RECORD).write_bytes(content)
    with pytest.raises(ValueError, match=RECORD) as error:
        begun(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_two_runs_do_not_fill_a_folder_at_a_time(tmp_path: Path) -> None:
    with SampleFolder(tmp_path, FILES, Rank()):
        with (
            pytest.raises(ValueError, match=r"`output` .* is in use by process"),
            SampleFolder(tmp_path, FILES, Rank()),
        ):
            pass
        with SampleFolder(tmp_path, FILES, Rank(1, 2)):
            pass  # another rank of the same run
    begun(tmp_path)
