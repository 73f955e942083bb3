"""The weights in configs/shapes/weights: small, and videos move in the requested direction."""

import subprocess
import sys
from pathlib import Path

import pytest

from examples.moving_shapes import make_shapes
from examples.moving_shapes.evaluate_shapes import find_videos, judge, summarise
from examples.moving_shapes.shapes import MOTIONS, unseen_prompts
from latte_ms import config
from latte_ms.generation.latte_recipe import LatteRecipe
from latte_ms.generation.text_recipe import TextToVideoRecipe
from scripts import sample, sample_t2v

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "configs" / "shapes" / "sample.yaml"
T2V_RECIPE = ROOT / "configs" / "shapes" / "t2v.yaml"
MAX_BYTES = 6_000_000  # of each pipeline
TWO_OF_EACH = ["num_images_per_prompt=2", "formats=[mp4]"]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe names its weights from there."""
    monkeypatch.chdir(ROOT)


def test_the_weights_of_the_recipe_are_a_small_download() -> None:
    cfg = config.load(LatteRecipe, RECIPE)
    files = [path for part in (cfg.weights, cfg.vae) for path in Path(part).glob("*.safetensors")]
    assert len(files) == 2
    assert sum(file.stat().st_size for file in files) < MAX_BYTES


@pytest.mark.slow
def test_one_video_per_direction_moves_in_it(tmp_path: Path) -> None:
    """The recipe as it stands; its videos depend on their seeds alone."""
    sample.main(["--config", str(RECIPE), f"output={tmp_path}"])
    videos = find_videos(tmp_path, combinations=True)
    report = summarise([judge(path, asked) for path, asked in videos])
    assert report["count"] == 8
    assert report["accuracy_per_class"] == [1.0] * 8, report["confusion"]
    for name in ("right_colour", "right_shape"):
        assert report[name] >= 7 / 8, (name, report)


@pytest.mark.extended
def test_at_least_90_percent_of_128_videos_show_their_class_throughout(tmp_path: Path) -> None:
    recipe = ["--config", str(RECIPE.relative_to(ROOT))]
    settings = ["num_videos=128", "classes=[]", "batch_size=16", f"output={tmp_path}"]
    subprocess.run([sys.executable, "scripts/sample.py", *recipe, *settings], check=True)
    script = "examples/moving_shapes/evaluate_shapes.py"
    minimum = ["--combinations", "--minimum", "0.9", "--constant", "0.9"]
    command = [sys.executable, script, str(tmp_path), *minimum]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "of 128 videos" in result.stdout


@pytest.mark.extended
def test_a_video_is_inverted_and_sampled_under_another_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All samples start from its noise: seeds do not matter, classes do."""
    videos = tmp_path / "videos"
    options = {"--videos-per-class": 1, "--size": 64, "--num-frames": 16, "--target": videos}
    monkeypatch.setattr(
        sys, "argv", ["make_shapes.py", *(str(x) for o in options.items() for x in o)]
    )
    assert make_shapes.main() == 0
    video = min(videos.rglob("*.mp4"))
    arguments = ["--config", str(RECIPE), "sampler.num_steps=3", "batch_size=2", "formats=[png]"]
    arguments += [
        "sampler.eta=0.0",
        f"inversion.video={video}",
        "inversion.label=0",
        "inversion.frame_interval=1",
    ]
    arguments += ["classes=[3,5]"]
    sample.main([*arguments, f"output={tmp_path / 'a'}"])
    sample.main([*arguments, "seed=7", f"output={tmp_path / 'b'}"])
    names = ("a/3_seed0", "b/3_seed7", "a/5_seed1")
    first, again, other = (tmp_path / f"{name}.png" for name in names)
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()


def test_the_pipeline_of_the_prompts_is_a_small_download() -> None:
    folder = Path(config.load(TextToVideoRecipe, T2V_RECIPE).pipeline)
    files = list(folder.rglob("*.safetensors"))
    assert {file.parent.name for file in files} == {"transformer", "text_encoder", "vae"}
    assert sum(file.stat().st_size for file in folder.rglob("*")) < MAX_BYTES


@pytest.mark.slow
def test_prompts_that_the_network_has_not_seen(tmp_path: Path) -> None:
    """Those of the recipe, which a command line without a recipe takes, and one of the caller's."""
    recipe = config.load(TextToVideoRecipe, T2V_RECIPE)
    assert set(recipe.prompts) <= set(unseen_prompts())
    assert sorted(MOTIONS) == sorted(prompt.split(" moving ")[1] for prompt in recipe.prompts)
    sample_t2v.main([f"output={tmp_path}"])
    report = summarise([judge(path, asked) for path, asked in find_videos(tmp_path)])
    assert report["count"] == 8
    for name in ("accuracy", "right_colour", "right_shape"):
        assert report[name] >= 7 / 8, (name, report)


@pytest.mark.extended
def test_at_least_90_percent_of_128_videos_of_unseen_prompts_show_them(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(unseen_prompts()), encoding="utf-8")
    sample_t2v.main([f"output={tmp_path / 'out'}", f"prompts_file={prompts}", *TWO_OF_EACH])
    found = find_videos(tmp_path / "out")
    report = summarise([judge(path, asked) for path, asked in found])
    assert report["count"] == 128
    for name in ("accuracy", "right_colour", "right_shape", "constant_colour", "constant_shape"):
        assert report[name] >= 0.9, (name, report)
