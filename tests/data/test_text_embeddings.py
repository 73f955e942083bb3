"""Prepared text embeddings: what is read from the file, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from latte_ms.data.text_embeddings import TextEmbeddings

SHAPE = (2, 3)


def written(path: Path, **arrays: np.ndarray) -> Path:
    save_file(arrays, path)
    return path


def array(value: float, dtype: type = np.float32) -> np.ndarray:
    return np.full(SHAPE, value, dtype)


def test_arrays_are_read_by_the_path_of_the_video(tmp_path: Path) -> None:
    path = tmp_path / "texts.safetensors"
    save_file({"run/a b.mp4": array(1.5), "c.avi": array(0.1, np.float16)}, path)
    embeddings = TextEmbeddings(path, SHAPE)
    assert sorted(embeddings.names) == ["c.avi", "run/a b.mp4"]
    assert embeddings.unconditional is None
    np.testing.assert_array_equal(embeddings["run/a b.mp4"], array(1.5))
    half = embeddings["c.avi"]
    assert half.dtype == np.float32
    np.testing.assert_array_equal(half, array(0.1, np.float16).astype(np.float32))
    embeddings.check_names(["c.avi"], "data.path")


def test_the_unconditional_embedding_is_no_video(tmp_path: Path) -> None:
    path = written(tmp_path / "t.safetensors", a=array(1), unconditional=array(7, np.float16))
    embeddings = TextEmbeddings(str(path), SHAPE)
    assert embeddings.names == ("a",)
    assert embeddings.unconditional.dtype == np.float32
    np.testing.assert_array_equal(embeddings.unconditional, array(7))
    with pytest.raises(KeyError, match="unconditional"):
        embeddings["unconditional"]


def test_videos_without_an_embedding_are_named(tmp_path: Path) -> None:
    embeddings = TextEmbeddings(written(tmp_path / "t.safetensors", a=array(1)), SHAPE)
    names = ["a", *(f"v{i}.mp4" for i in range(5))]
    message = r"t.safetensors; 5 of 6 have none: v0.mp4, v1.mp4, v2.mp4, \.\.\.$"
    with pytest.raises(ValueError, match=message):
        embeddings.check_names(names, "data.path")
    with pytest.raises(ValueError, match=r"`data.path` .*; 1 of 2 have none: v0.mp4\.$"):
        embeddings.check_names(names[:2], "data.path")
    with pytest.raises(KeyError, match=r"t.safetensors holds no text embedding of 'v0.mp4'"):
        embeddings["v0.mp4"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((3, 2), np.float32), r"t.safetensors: 'b' must be \(2, 3\), got \(3, 2\)\."),
        (np.zeros((1, 2, 3), np.float32), r"'b' must be \(2, 3\), got \(1, 2, 3\)\."),
        (np.zeros(SHAPE), r"'b' must be float16 or float32, got F64\."),
        (np.zeros(SHAPE, np.int32), r"'b' must be float16 or float32, got I32\."),
    ],
)
def test_an_array_that_does_not_fit_is_named(
    tmp_path: Path, value: np.ndarray, message: str
) -> None:
    path = written(tmp_path / "t.safetensors", a=array(1), b=value)
    with pytest.raises(ValueError, match=message):
        TextEmbeddings(path, SHAPE)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"`text_embeddings` is not a file: .*none"):
        TextEmbeddings(tmp_path / "none.safetensors", SHAPE)
    path = tmp_path / "t.safetensors"
    path.write_bytes(b"no header")
    with pytest.raises(ValueError, match=r"t.safetensors is not a safetensors file: "):
        TextEmbeddings(path, SHAPE)
