"""`calc_metrics.py` from the command to the file of figures, for scores of the generated set."""

import json
from pathlib import Path

import numpy as np
import pytest

from latte_ms.media import write_mp4
from scripts import calc_metrics
from tests.metrics.test_clip import random_clip, save_tokenizer


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
    output = tmp_path / "figures.json"
    places = [f"generated={videos}", f"cache={tmp_path / 'kept'}", f"output={output}"]
    calc_metrics.main([*places, f"clip_model={clip}", "metrics=[clip_score]"])
    assert "2 generated clips of 16 frames, CLIP, model.safetensors" in capsys.readouterr().out
    record = json.loads(output.read_text())["clip_score"]
    assert record["videos"].keys() == {path.name for path in videos.iterdir()}
    assert record["mean"] == pytest.approx(np.mean(list(record["videos"].values())))
    assert record["num_frames"] == 16
    (tmp_path / "prompts.csv").write_text(
        "path,caption\na_red_star_seed1.mp4,a red star\n"
        "a_red_star_moving_up_seed0.mp4,a red star moving up\n"
    )
    captions = f"captions={tmp_path / 'prompts.csv'}"
    calc_metrics.main([*places, captions, f"clip_model={clip}", "metrics=[clip_score]"])
    assert json.loads(output.read_text())["clip_score"] == record


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
