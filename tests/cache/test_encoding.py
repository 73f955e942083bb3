"""Filling a cache: the same bytes by any path, broken videos, damaged files, other settings."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open

from latte_ms.cache.encoding import LatentEncoder, missing
from latte_ms.cache.index import read_index
from latte_ms.cache.layout import Layout
from latte_ms.cache.reading import CachedClips
from latte_ms.config import to_yaml
from latte_ms.data.loader import Loader, LoaderConfig
from latte_ms.training.recipe import TrainConfig
from latte_ms.vae.codec import Codec
from scripts import encode

ROOT = Path(__file__).parents[2]
Recipe = Callable[..., TrainConfig]
FILES = ("latents-000000.safetensors", "latents-000001.safetensors")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def copy(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "copy"))


def test_the_files_are_as_documented(plain: Path) -> None:
    index = json.loads((plain / "index.json").read_text())
    assert (index["kind"], index["version"], index["complete"]) == (
        "latte_ms latent cache",
        1,
        True,
    )
    assert index["names"] == [f"{'ab'[i % 2]}/{i}.mp4" for i in (0, 2, 4, 1, 3, 5)]
    assert (index["labels"], index["class_names"]) == ([0, 0, 0, 1, 1, 1], ["a", "b"])
    assert index["latent_shape"] == [3, 4, 8, 8]
    assert sorted(path.name for path in plain.iterdir()) == ["index.json", *FILES]
    with safe_open(plain / FILES[1], "numpy") as file:
        assert sorted(file.keys()) == ["mean.4.0", "mean.5.0", "std.4.0", "std.5.0"]
        assert sorted(file.metadata()) == ["cache", "format", "sha256.4.0", "sha256.5.0"]


def test_shares_of_two_ranks_are_the_files_of_one(
    recipe: Recipe, plain: Path, codec: Codec, tmp_path: Path
) -> None:
    cfg = recipe(latent_cache__path=tmp_path)
    dataset = encode.build_dataset(cfg)
    encode.begin(tmp_path, encode.build_index(cfg, dataset, codec))
    index = read_index(tmp_path)
    assert index is not None
    layout = Layout(tmp_path, index)
    for shard in (1, 0):
        LatentEncoder(layout, dataset, codec, 2).write([shard], hide_progress=True)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (plain / name).read_bytes()
    with pytest.raises(ValueError, match="is not complete: run latte-encode again"):
        CachedClips(cfg.data, cfg.latent_cache)


def change_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [change_a_byte, cut, Path.unlink, Path.touch])
def test_a_damaged_file_is_named_in_training_and_made_again(
    recipe: Recipe,
    fill: Callable[..., TrainConfig],
    copy: Path,
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    before, path = contents(copy), copy / FILES[1]
    if damage is Path.touch:
        path.write_bytes(b"")
    else:
        damage(path)
    cfg = recipe(latent_cache__path=copy)
    with pytest.raises((ValueError, OSError), match="latents-000001") as caught:
        next(Loader(CachedClips(cfg.data, cfg.latent_cache), LoaderConfig(6)).endless())
    assert "\n" not in str(caught.value)
    fill(copy)
    assert ("latents-000001" in caplog.text) == (damage is not Path.unlink)
    assert "latents-000000" not in caplog.text
    assert contents(copy) == before


def test_files_of_another_cache_are_not_mixed_in(
    recipe: Recipe, several: TrainConfig, copy: Path
) -> None:
    shutil.copy(Path(several.latent_cache.path) / FILES[0], copy / FILES[0])
    cfg = recipe(latent_cache__path=copy)
    with pytest.raises(ValueError, match=r"latents-000000.*belongs to another cache"):
        CachedClips(cfg.data, cfg.latent_cache)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__frame_interval": 2}, "data.frame_interval was 1, is 2"),
        ({"latent_cache__dtype": "float16"}, "latent_cache.dtype was 'float32', is 'float16'"),
        ({"data__classes": "false", "network__conditioning": "none"}, "data.classes was True"),
    ],
)
def test_a_folder_with_other_settings_is_left_alone(
    fill: Callable[..., TrainConfig], copy: Path, changes: dict[str, object], message: str
) -> None:
    before = contents(copy)
    with pytest.raises(ValueError, match=f"holds another cache: .*{message}"):
        fill(copy, **changes)
    assert contents(copy) == before


def test_a_video_that_cannot_be_read_is_named_and_left_out(
    fill: Callable[..., TrainConfig],
    videos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = tmp_path / "videos"
    shutil.copytree(videos, data)
    (data / "a" / "2.mp4").write_bytes((videos / "a" / "2.mp4").read_bytes()[:300])
    cfg = fill(tmp_path / "cache", data__path=data)
    assert "5 videos of 6" in (written := capsys.readouterr().out)
    assert "skipped: a/2.mp4" in written
    index = read_index(tmp_path / "cache")
    assert index is not None
    assert list(index.broken) == ["a/2.mp4"]
    clips = CachedClips(cfg.data, cfg.latent_cache)
    assert clips.names == [name for name in index.names if name != "a/2.mp4"]
    assert clips.labels.tolist() == [0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"kind": "other"}, {"labels": [9] * 6}, {"names": []}, {"broken": {"x": ""}}],
)
def test_a_damaged_index_is_named(recipe: Recipe, copy: Path, change: dict[str, object]) -> None:
    values = json.loads((copy / "index.json").read_text())
    (copy / "index.json").write_text(json.dumps({**values, **change}))
    cfg = recipe(latent_cache__path=copy)
    with pytest.raises(ValueError, match=r"index.json is damaged: .*"):
        CachedClips(cfg.data, cfg.latent_cache)


@pytest.mark.slow
def test_a_killed_encoder_goes_on_to_the_same_bytes(
    recipe: Recipe, fill: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    folders = [tmp_path / "whole", tmp_path / "killed"]
    file = tmp_path / "recipe.yaml"
    cfg = recipe(latent_cache__path=folders[1], latent_cache__videos_per_file=1)
    file.write_text(to_yaml(cfg))
    fill(folders[0], latent_cache__videos_per_file=1)
    command = [sys.executable, str(ROOT / "scripts" / "encode.py"), "--config", str(file)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while process.poll() is None and not (folders[1] / "latents-000001.safetensors").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(list(folders[1].glob("latents-*.safetensors"))) < 6
    assert subprocess.run(command, env=environment, check=False).returncode == 0
    ours, theirs = contents(folders[1]), contents(folders[0])
    assert {name for name in ours if not name.startswith(".")} == theirs.keys()
    assert all(ours[name] == theirs[name] for name in theirs)


def test_only_missing_files_are_encoded(plain: Path) -> None:
    index = read_index(plain)
    assert index is not None
    layout = Layout(plain, index)
    assert missing({i: layout.path(i) for i in range(2)}, layout.check, hide_progress=True) == []
