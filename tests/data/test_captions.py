"""Files of captions: what is read, and errors that name the line."""

import csv
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.moving_shapes.shapes import CAPTION_FILE
from latte_ms.data.captions import read_captions
from latte_ms.data.datasets import DataConfig, VideoDataset

ROOT = Path(__file__).parents[2]


def write(folder: Path, content: str | bytes, name: str = "captions.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_csv_and_jsonl_hold_the_same(tmp_path: Path, mark: str, newline: str):
    rows = [
        ("a/0 1.mp4", "one, two"),
        ("b.mp4", 'a "quoted" word'),
        ("a/0 1.mp4", "ein Käfer, 日本語"),
        ("c.mp4", "one, two"),
    ]
    table = [
        "id,caption , path",
        '1,"one, two",a/0 1.mp4',
        '2,"a ""quoted"" word"," ./b.mp4 "',
        "",
        '3," ein Käfer, 日本語",a/0 1.mp4',
        '4,"one, two",c.mp4',
    ]
    lines = [json.dumps({"path": p, "caption": c, "x": [1]}, ensure_ascii=p == "b.mp4")
             for p, c in rows]  # fmt: skip
    for name, content in (("captions.csv", table), ("captions.JSONL", [*lines, ""])):
        captions = read_captions(write(tmp_path, mark + newline.join(content), name))
        assert captions.texts == ("one, two", 'a "quoted" word', "ein Käfer, 日本語")
        assert captions.caption_ids == {"a/0 1.mp4": (0, 2), "b.mp4": (1,), "c.mp4": (0,)}
        assert captions.names == ["a/0 1.mp4", "b.mp4", "c.mp4"]
        first = {"captions.csv": 2, "captions.JSONL": 1}[name]
        assert captions.lines["b.mp4"] == first + 1
        chosen = [captions.choose(0, share) for share in (0.0, 0.49, 0.5, 1 - 1e-16)]
        assert chosen == [0, 0, 2, 2]


def test_a_caption_may_span_lines(tmp_path: Path):
    path = write(tmp_path, 'path,caption\na.mp4,"one\ntwo"\nb.mp4,\n')
    with pytest.raises(ValueError, match="Line 4: the caption is empty"):
        read_captions(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must begin with a line that names the columns path and caption"),
        ("path,text\na.mp4,b\n", "names the columns path and caption, each once; got .*'text'"),
        ("path,path,caption\n", "each once"),
        ("path,caption\n", "must hold at least one caption, got none"),
        ("path,caption\na.mp4,one,two\n", "Line 2 has 3 values for 2 columns.*double quotes"),
        ("path,caption\na.mp4,\n ,b\n", "Line 2: the caption is empty. Line 3: the path is empty"),
        ('path,caption\na.mp4,"b\n', "is not valid CSV"),
        ("path,caption\n/data/a.mp4,b\n", "Line 2: the path must lie under .*'/data/a.mp4'"),
        ("path,caption\n../a.mp4,b\n", "Line 2: the path must lie under the folder"),
        ("path,caption\na\\0.mp4,b\n", "Line 2: the path must have forward slashes"),
        (b"path,caption\na.mp4,b\nb.mp4,\xff\n", "must be UTF-8; line 3 is not"),
        ("path,caption\na.mp4,b\0\n", "Line 2: NUL|is not valid CSV: line contains NUL"),
        ("path,caption\n" + "a.mp4,\n" * 7, "Line 6: .* And 2 more"),
    ],
)
def test_errors_in_csv_name_the_line(tmp_path: Path, content: str | bytes, message: str):
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=message) as error:
        read_captions(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "Line 2 is not valid JSON"),
        ('["a.mp4", "b"]', "Line 2 must be an object with texts under the keys path and caption"),
        ('{"path": "a.mp4"}', "Line 2 must be an object.*got {'path': 'a.mp4'}"),
        ('{"path": "a.mp4", "caption": 1}', "Line 2 must be an object"),
        ('{"path": "a.mp4", "caption": "\\ud800"}', "Line 2: NUL and unpaired surrogates"),
        ("[" * 100_000, "Line 2 is not valid JSON"),
    ],
)
def test_errors_in_jsonl_name_the_line(tmp_path: Path, line: str, message: str):
    good = '{"path": "a.mp4", "caption": "b"}'
    with pytest.raises(ValueError, match=message):
        read_captions(write(tmp_path, f"{good}\n{line}\n", "captions.jsonl"))


def test_repeated_lines_are_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path = write(tmp_path, "path,caption\na.mp4,b\na.mp4,c\na.mp4, b\n")
    with caplog.at_level(logging.WARNING):
        assert read_captions(path).caption_ids == {"a.mp4": (0, 1)}
    assert "1 lines are left out: line 4 repeats line 2" in caplog.text


def test_missing_files_and_other_formats(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="`captions` is not a file"):
        read_captions(tmp_path / "captions.csv")
    with pytest.raises(ValueError, match=r"must be a file of \.csv or \.jsonl"):
        read_captions(tmp_path / "captions.txt")


def test_the_file_names_the_videos_of_a_data_set(shapes: Path, tmp_path: Path):
    """In its order; other videos in the folder are not read."""
    with (shapes / CAPTION_FILE).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[::-7]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path = write(tmp_path, lines, "captions.jsonl")
    dataset = VideoDataset(
        DataConfig(str(shapes), image_size=16, num_frames=4, frame_interval=1, captions=str(path))
    )
    assert dataset.names == [row["path"] for row in rows]
    assert dataset.captions is not None
    assert dataset.captions.names == dataset.names
    assert dataset.captions.texts[dataset.captions.choose(2, 0.5)] == rows[2]["caption"]
    assert dataset.item(2, np.random.default_rng(0))["video"].shape == (4, 3, 16, 16)

    write(tmp_path, lines + '{"path": "none.mp4", "caption": "b"}', "captions.jsonl")
    with pytest.raises(
        ValueError, match=r"captions\.jsonl\) must name video files.*1 of 8 .*line 8"
    ):
        VideoDataset(DataConfig(str(shapes), captions=str(path)))


def test_images_are_clips_of_one_frame(tmp_path: Path):
    colours = {"a.png": (255, 0, 0), "b/c.jpg": (0, 0, 255)}
    for name, colour in colours.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (24, 16), colour).save(tmp_path / name)
    path = write(tmp_path, "path,caption\nb/c.jpg,blue\na.png,red\n")
    config = DataConfig(
        str(tmp_path), kind="images", image_size=8, num_frames=1, captions=str(path)
    )
    item = VideoDataset(config).item(1, np.random.default_rng(0))
    assert item["video"].shape == (1, 3, 8, 8)
    np.testing.assert_allclose(item["video"].mean((0, 2, 3)), [1, -1, -1], atol=0.01)
    listed = VideoDataset(DataConfig(str(tmp_path), kind="images", num_frames=1)).names
    assert listed == ["a.png", "b/c.jpg"]  # without captions: all images, sorted

    command = [sys.executable, "tools/check_data.py", str(tmp_path), "kind=images", "num_frames=1"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "sizes: 24x16 (2)" in result.stdout


def test_options_that_contradict_captions():
    with pytest.raises(ValueError, match="`num_frames` must be 1 for `kind` images, got 16"):
        DataConfig("x", kind="images")
    with pytest.raises(ValueError, match="`classes` must be false with `captions`"):
        DataConfig("x", classes=True, captions="c.csv")
    with pytest.raises(ValueError, match="Give one of `captions` and `text_embeddings`"):
        DataConfig("x", text_embeddings="e.safetensors", captions="c.csv")
