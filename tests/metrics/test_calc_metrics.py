"""`calc_metrics.py` from the command to the file of figures, for scores of the generated set."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from latte_ms import weights
from latte_ms.media import write_mp4
from latte_ms.metrics.lpips import LPIPS
from latte_ms.metrics.packages import PACKAGES, weights_folder
from scripts import calc_metrics
from tests.metrics.test_clip import random_clip, save_tokenizer
from tests.metrics.test_pairs import random_arrays


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("generated"), np.random.default_rng(0)
    for name in ("a_red_star_moving_up_seed0", "a_red_star_seed1"):
        write_mp4(folder / f"{name}.mp4", rng.integers(0, 256, (16, 32, 40, 3), np.uint8), 8.0)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    random_clip(save_tokenizer(folder), "quick_gelu").save_pretrained(folder)
    return folder


def test_a_clip_score_is_printed_and_kept(
    videos: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "figures.json"
    places = [f"generated={videos}", f"cache={tmp_path / 'kept'}", f"output={output}"]
    calc_metrics.main([*places, f"clip_model={clip}", "metrics=[clip_score]"])
    assert "2 generated clips of 16 frames, CLIP, model.safetensors" in capsys.readouterr().out
    record = json.loads(output.read_text())["clip_score"]
    assert record["videos"].keys() == {path.name for path in videos.iterdir()}
    assert record["mean"] == pytest.approx(np.mean(list(record["videos"].values())))
    assert record["rule"] | {"num_frames": 16, "image_size": 0} == record["rule"]
    assert (record["protocol_name"], record["seed"]) == ("latte", 0)
    (tmp_path / "prompts.csv").write_text(
        "path,caption\na_red_star_seed1.mp4,a red star\n"
        "a_red_star_moving_up_seed0.mp4,a red star moving up\n"
    )
    captions = f"captions={tmp_path / 'prompts.csv'}"
    output.unlink()
    write_mp4(tmp_path / "other" / "other.mp4", np.zeros((16, 32, 40, 3), np.uint8), 8.0)
    places += [captions, f"clip_model={clip}", f"real={tmp_path / 'other'}"]
    with pytest.raises(SystemExit, match="2"):
        calc_metrics.main([*places, "metrics=[psnr,clip_score]"])
    assert "must hold videos of the same names" in capsys.readouterr().err
    assert json.loads(output.read_text()) == {"clip_score": record}, "kept when it was found"


def test_figures_of_pairs_are_json_and_name_their_network(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal videos have an infinite PSNR, for which JSON has no number."""
    monkeypatch.setenv("LATTE_MS_CACHE", str(tmp_path / "cache"))
    arrays = random_arrays(LPIPS("alexnet"), np.random.default_rng(0))
    file = weights_folder() / PACKAGES["lpips_alexnet"].file
    weights.write(file, {"": weights.from_arrays(arrays)})
    output = tmp_path / "figures.json"
    places = [f"real={videos}", f"generated={videos}", f"output={output}"]
    calc_metrics.main([*places, "metrics=[psnr,lpips_alexnet]"])
    record = json.loads(output.read_text(), parse_constant=pytest.fail)
    assert record["psnr"]["mean"] == "Infinity"
    assert set(record["psnr"]["videos"].values()) == {"Infinity"}
    assert float(record["psnr"]["mean"]) == np.inf
    assert record["lpips_alexnet"]["mean"] == 0.0
    assert record["lpips_alexnet"]["detector"] == {
        "network": "LPIPS alexnet",
        "weights": f"{file.name}, SHA-256 {hashlib.sha256(file.read_bytes()).hexdigest()[:16]}",
    }


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["real={root}/none"], "`real` is not a folder: {root}/none"),
        (["generated={root}/none"], "`generated` is not a folder: {root}/none"),
        (["generated={root}/empty"], "`generated` (={root}/empty) holds no "),
        (["metrics=[fvd]", "detector={root}/none.pt"], "`detector` is not a file: {root}/none.pt"),
        (["output={root}/empty"], "`output` must be a file, got the folder {root}/empty"),
        (
            ["output={root}/file/figures.json"],
            "`output` must be a file in a folder that can be written to, got {root}/file/figures",
        ),
    ],
)
def test_files_that_are_wrong_are_named_by_their_keys(
    keys: list[str],
    message: str,
    videos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    usual = [f"real={videos}", f"generated={videos}", "metrics=[psnr]"]
    with pytest.raises(SystemExit, match="2"):
        calc_metrics.main([*usual, *(key.format(root=tmp_path) for key in keys)])
    assert message.format(root=tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["metrics=[video_is]"], "The weights of c3d are not in the cache"),
        (["metrics=[clip_score]"], "`clip_model` must be a folder for the metrics clip_score"),
        (["metrics=[clip_score]", "clip_model=none"], "`clip_model` must be a folder with config"),
        (["metrics=[video_is,fvd]"], "`real` must be a folder for the metrics video_is, fvd"),
        (["real=none"], "The weights of i3d are not in the cache"),
        (["real=none", "metrics=[psnr]", "captions=none.csv"], "`captions` is not a file"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_read(
    keys: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LATTE_MS_CACHE", str(tmp_path))
    with pytest.raises(SystemExit, match="2"):
        calc_metrics.main([f"generated={tmp_path / 'none'}", *keys])
    assert message in capsys.readouterr().err
