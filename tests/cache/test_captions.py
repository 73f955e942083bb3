"""The cache of captions: what it holds, how it is made whole again, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from latte_ms import config
from latte_ms.cache.captions import CachedCaptions
from latte_ms.data.captions import read_captions
from latte_ms.runtime import Rank
from latte_ms.text import PromptEncoder
from latte_ms.training import assembly
from latte_ms.training.caption_encoder import EncodedCaptions
from latte_ms.training.recipe import T2VTrainConfig, TrainConfig
from scripts import encode

ROOT = Path(__file__).parents[2]
TEXTS = ["a red star moving up", "a blue circle", "a GREEN  square", "an orange star moving down"]
Recipe = Callable[..., T2VTrainConfig]


@pytest.fixture(scope="module")
def captions_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("captions") / "captions.csv"
    rows = [f"{i}.mp4,{text}" for i, text in enumerate([*TEXTS, TEXTS[0]])]
    path.write_text("\n".join(["path,caption", *rows]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def t2v(captions_file: Path) -> Recipe:
    """A function of overrides, with `__` for dots, to the recipe of the shapes' captions."""

    def made(**changes: object) -> T2VTrainConfig:
        values = {
            "data__path": "unused",
            "data__captions": captions_file,
            "caption_cache__dtype": "float32",
            "caption_cache__captions_per_file": 3,
            "loop__output": "unused",
            **changes,
        }
        overrides = [f"{key.replace('__', '.')}={value}" for key, value in values.items()]
        cfg = config.load(TrainConfig, ROOT / "configs" / "shapes" / "train_t2v.yaml", overrides)
        assert isinstance(cfg, T2VTrainConfig)
        return cfg

    return made


@pytest.fixture(scope="module")
def encoder(t2v: Recipe) -> PromptEncoder:
    """The text encoder of the shapes: compiled once."""
    return assembly.caption_encoder(t2v(caption_cache__path="unused"))


@pytest.fixture(scope="module")
def fill(t2v: Recipe, encoder: PromptEncoder) -> Callable[..., T2VTrainConfig]:
    """A function that fills the cache in a folder as the script does; returns the recipe."""

    def filled(folder: Path, **changes: object) -> T2VTrainConfig:
        cfg = t2v(caption_cache__path=folder, **changes)
        encode.encode_captions(cfg, encoder, folder, Rank(), None)
        return cfg

    return filled


@pytest.fixture
def filled(fill: Callable[..., T2VTrainConfig], tmp_path: Path) -> T2VTrainConfig:
    return fill(tmp_path / "cache")


def opened(cfg: T2VTrainConfig) -> CachedCaptions:
    """The embeddings as training opens them: without the text encoder."""
    found = assembly.caption_embeddings(cfg, read_captions(cfg.data.captions), True)
    assert isinstance(found, CachedCaptions)
    return found


def test_the_cache_holds_what_the_encoder_gives(
    filled: T2VTrainConfig, encoder: PromptEncoder
) -> None:
    expected = EncodedCaptions(read_captions(filled.data.captions).texts, encoder, True, 1.0)
    cached = opened(filled)
    np.testing.assert_array_equal(cached.unconditional, expected.unconditional)
    for numbers in (np.array([[0, 3], [2, 0]]), np.array([1]), np.array(2)):
        (ours, our_mask), (theirs, mask) = cached(numbers), expected(numbers)
        assert (ours.dtype, our_mask.dtype) == (theirs.dtype, mask.dtype)
        np.testing.assert_array_equal(our_mask, mask)
        # Encoded in other groups: products of other sizes round otherwise.
        assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


def test_the_files_are_as_documented(filled: T2VTrainConfig) -> None:
    folder = Path(filled.caption_cache.path)
    index = json.loads((folder / "index.json").read_text())
    assert (index["kind"], index["num_captions"], index["complete"]) == (
        "latte_ms caption cache",
        4,
        True,
    )
    files = {path.name: load_file(path) for path in folder.glob("*.safetensors")}
    assert {name: sorted(arrays) for name, arrays in files.items()} == {
        "captions-000000.safetensors": ["rows.0", "rows.1", "rows.2"],
        "captions-000001.safetensors": ["rows.3"],
        "empty.safetensors": ["rows.empty"],
    }
    assert files["empty.safetensors"]["rows.empty"].shape == (120, 64)
    rows = files["captions-000000.safetensors"]["rows.1"]
    assert 1 < len(rows) < 20  # the tokens alone
    assert rows.dtype == np.float32


def test_float16_is_the_default_and_half_as_large(
    fill: Callable[..., T2VTrainConfig], filled: T2VTrainConfig, tmp_path: Path
) -> None:
    half = fill(tmp_path / "half", caption_cache__dtype="float16")
    assert half.caption_cache.dtype == type(half.caption_cache)().dtype
    numbers = np.arange(4)
    exact, rounded = opened(filled)(numbers)[0], opened(half)(numbers)[0]
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() <= 2**-11 * np.abs(exact).max()


def test_what_is_missing_or_damaged_is_made_again(
    fill: Callable[..., T2VTrainConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "cache"
    fill(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "empty.safetensors").unlink()
    damaged = folder / "captions-000000.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-5] ^= 1
    damaged.write_bytes(content)
    (folder / ".captions-000001.safetensors.7.partial").write_bytes(b"half")
    fill(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert "A damaged file is written again: " in caplog.text
    assert str(damaged) in caplog.text


def test_a_damaged_file_is_named_when_it_is_read(filled: T2VTrainConfig) -> None:
    path = Path(filled.caption_cache.path) / "captions-000000.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    cached = opened(filled)
    cached(np.array([3]))  # of the other file
    with pytest.raises(ValueError, match=r"captions-000000.*entry 2 is not as its checksum"):
        cached(np.array([0]))


@pytest.mark.parametrize("change", ["missing", "cut", "other"])
def test_a_file_that_is_missing_or_of_another_cache_is_refused_at_once(
    fill: Callable[..., T2VTrainConfig], filled: T2VTrainConfig, tmp_path: Path, change: str
) -> None:
    path = Path(filled.caption_cache.path) / "captions-000001.safetensors"
    if change == "missing":
        path.unlink()
    elif change == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        fill(tmp_path / "other", caption_cache__dtype="float16")
        path.write_bytes((tmp_path / "other" / path.name).read_bytes())
    with pytest.raises(ValueError, match="captions-000001"):
        opened(filled)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"caption_cache__dtype": "float16"}, "`caption_cache.dtype` is 'float16', was 'float32'"),
        ({"caption_cache__captions_per_file": 2}, "`caption_cache.captions_per_file` is 2, was 3"),
        ({"clean_captions": "false"}, "`clean_captions` is False, was True"),
        ({"text_precision": "float16"}, "`text_precision` is 'float16', was 'float32'"),
        ({"network__caption_channels": 32}, "`network.caption_channels` is 32, was 64"),
    ],
)
def test_training_must_ask_for_what_was_encoded(
    t2v: Recipe, filled: T2VTrainConfig, changes: dict[str, object], message: str
) -> None:
    cfg = t2v(caption_cache__path=filled.caption_cache.path, **changes)
    with pytest.raises(ValueError, match=message):
        opened(cfg)


def test_other_captions_are_refused(
    t2v: Recipe, filled: T2VTrainConfig, encoder: PromptEncoder, tmp_path: Path
) -> None:
    """To be trained on, and to be encoded into the same folder."""
    other = tmp_path / "other.csv"
    lines = Path(filled.data.captions).read_text(encoding="utf-8").splitlines()
    other.write_text("\n".join([lines[0], *reversed(lines[1:])]), encoding="utf-8")
    folder = Path(filled.caption_cache.path)
    cfg = t2v(caption_cache__path=folder, data__captions=other)
    with pytest.raises(ValueError, match="4 captions that are not the 4 that were encoded"):
        opened(cfg)
    with pytest.raises(ValueError, match="holds another cache: texts_sha256 was"):
        encode.encode_captions(cfg, encoder, folder, Rank(), None)


def test_a_folder_that_is_no_finished_cache_is_refused(
    t2v: Recipe, filled: T2VTrainConfig, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=r"latte-encode has filled, got .*nowhere: index"):
        opened(t2v(caption_cache__path=tmp_path / "nowhere"))
    path = Path(filled.caption_cache.path) / "index.json"
    values = json.loads(path.read_text())
    for changes, message in (
        ({"complete": False}, "is not complete: run latte-encode again"),
        ({"kind": "latte_ms latent cache"}, "is damaged: it is no index of a latte_ms caption"),
        ({"version": 2}, "is damaged: `version` must be 1, got 2"),
        ({"num_captions": 0}, "is damaged: `num_captions` must be"),
        ({"settings": {}}, "is damaged: `settings` must have the keys"),
        ({"more": 1}, "is damaged: TypeError"),
    ):
        path.write_text(json.dumps({**values, **changes}))
        with pytest.raises(ValueError, match=message):
            opened(filled)


def test_keys_without_a_folder_and_a_folder_without_an_encoder_are_refused(
    t2v: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"`caption_cache.path` must name a folder"):
        t2v()
    without = t2v(caption_cache__path=tmp_path, text_encoder="''", tokenizer="''")
    with pytest.raises(ValueError, match="`text_encoder` must"):
        encode.folders_of(without)
    both = t2v(caption_cache__path=tmp_path, latent_cache__path=tmp_path)
    with pytest.raises(ValueError, match="must be two folders"):
        encode.folders_of(both)
