"""The script that samples from texts, as a user runs it, on a tiny pipeline."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from latte_ms.data.video_writer import write_mp4
from latte_ms.generation.pipeline import LattePipeline
from latte_ms.transformer.latte_t2v import LatteT2V
from latte_ms.transformer.t2v_configuration import LatteT2VConfig
from scripts import sample_t2v

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "configs" / "t2v"


@pytest.fixture(scope="module")
def folder(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of 4 frames of 2 x 2 latents in diffusers' layout."""
    base = tmp_path_factory.mktemp("t2v")
    shutil.copytree(reference / "t2v", base / "full", ignore=shutil.ignore_patterns("*.npz"))
    shutil.copytree(reference / "vae", base / "full" / "vae")
    config = LatteT2VConfig(
        num_attention_heads=2,
        attention_head_dim=4,
        num_layers=1,
        cross_attention_dim=8,
        sample_size=2,
        caption_channels=32,
        video_length=4,
    )
    pipeline = LattePipeline.from_pretrained(base / "full", transformer=LatteT2V(config, seed=0))
    pipeline.save_pretrained(base / "small")
    return base / "small"


@pytest.fixture
def arguments(folder: Path, tmp_path: Path) -> list[str]:
    """The recipe of text to video, made tiny."""
    small = {
        "pipeline": folder,
        "output": tmp_path / "out",
        "runtime.device": "CPU",
        "runtime.precision": "float32",
        "prompts": "[]",
        "num_steps": 2,
        "height": 16,
        "width": 16,
        "video_length": 4,
        "temporal_decoder": "false",
    }
    overrides = [f"{name}={value}" for name, value in small.items()]
    return ["--config", str(RECIPES / "t2v.yaml"), *overrides]


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_videos_of_prompts(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command line and a file; two formats; a picture per frame count of one."""
    (tmp_path / "prompts.txt").write_text("a dog\n# no prompt\n")
    more = ["prompt=A cat, on a beach", f"prompts_file={tmp_path / 'prompts.txt'}"]
    sample_t2v.main([*arguments, *more, "formats=[mp4,gif]", "seed=3", "fps=5"])
    names = ["A_cat_on_a_beach_seed3.gif", "A_cat_on_a_beach_seed3.mp4"]
    assert written(tmp_path / "out") == [*names, "a_dog_seed3.gif", "a_dog_seed3.mp4"]
    with av.open(str(tmp_path / "out" / names[1])) as container:
        assert container.streams.video[0].average_rate == 5
        assert sum(1 for _ in container.decode(video=0)) == 4
    output = capsys.readouterr()
    assert "2 prompts in" in output.out
    assert "prompts: 100%" in output.err
    assert "steps" in output.err


def test_pictures(arguments: list[str], tmp_path: Path) -> None:
    arguments[1] = str(RECIPES / "t2i.yaml")
    sample_t2v.main([*arguments, "prompt=a cat", "video_length=1", "videos_per_prompt=2"])
    assert written(tmp_path / "out") == ["a_cat_seed0.png", "a_cat_seed1.png"]
    with Image.open(tmp_path / "out" / "a_cat_seed0.png") as picture:
        assert picture.size == (16, 16)


def test_video_to_video(arguments: list[str], tmp_path: Path) -> None:
    """The middle of a file, of another size."""
    frames = np.random.default_rng(0).integers(0, 256, (12, 24, 40, 3), np.uint8)
    write_mp4(tmp_path / "in.mp4", frames)
    arguments[1] = str(RECIPES / "v2v.yaml")
    more = [f"video={tmp_path / 'in.mp4'}", "video_interval=2", "strength=0.5"]
    sample_t2v.main([*arguments, *more, "prompt=snow", "formats=[png]"])
    assert written(tmp_path / "out") == ["snow_seed0.png"]
    with Image.open(tmp_path / "out" / "snow_seed0.png") as picture:
        assert picture.size == (64, 16), "four frames side by side"


def test_one_failure_loses_nothing_else(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that cannot be written: its name is taken by a folder."""
    (tmp_path / "out" / "bad_seed0.png").mkdir(parents=True)
    more = ["prompts=[good, bad, better]", "formats=[png]"]
    with pytest.raises(SystemExit, match=r"failed: 'bad': IsADirectoryError"):
        sample_t2v.main([*arguments, *more])
    assert written(tmp_path / "out") == ["bad_seed0.png", "better_seed0.png", "good_seed0.png"]
    assert "2 prompts in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("height=24", "`height` must be divisible by 16"),
        ("video_length=3", "`video_length` must be 1 or the transformer's 4, got 3"),
        ("pipeline=/nowhere/at all", "`/nowhere/at all` is no folder and no id of the hub"),
        ("variant=fp16", "`variant` (='fp16') is in no component"),
        ("num_steps=2000", "`num_inference_steps` must be from 1 to 1000, got 2000"),
        ("video=nowhere.mp4", "`video` names no file: nowhere.mp4"),
        ("nums_step=2", "Unknown key 'nums_step'. Nearest: num_steps"),
    ],
)
def test_mistakes_end_the_program_at_once(
    arguments: list[str], override: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        sample_t2v.main([*arguments, "prompt=a cat", override])
    assert end.value.code == 2
    assert f"error: {words}" in capsys.readouterr().err


@pytest.mark.slow
def test_prompts_are_divided_among_ranks(
    arguments: list[str], tmp_path: Path, free_port: int
) -> None:
    """Two processes make the files of one, each prompt once, the same pictures."""
    more = ["prompts=[one, two, three]", "formats=[png]"]
    sample_t2v.main([*arguments, *more])
    alone = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    shutil.rmtree(tmp_path / "out")
    first = {"PYTHONPATH": str(ROOT), "PATH": str(Path(sys.executable).parent)}
    joined = {key: os.pathsep.join([v, os.environ.get(key, "")]) for key, v in first.items()}
    logs = tmp_path / "logs"
    command = [str(Path(sys.executable).with_name("msrun")), "--worker_num=2"]
    command += ["--local_worker_num=2", f"--master_port={free_port}"]
    command += [f"--log_dir={logs}", "--join=True"]
    command += [str(ROOT / "scripts" / "sample_t2v.py"), *arguments, *more]
    done = subprocess.run(
        [*command, "runtime.distributed=true"], env={**os.environ, **joined}, cwd=tmp_path
    )
    assert done.returncode == 0
    both = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert both.keys() == alone.keys()
    for name in alone:
        pictures = [Image.open(tmp_path / "out" / name)]
        assert pictures[0].size == (64, 16)
    texts = "".join(path.read_text(errors="replace") for path in logs.glob("*.log"))
    assert texts.count("prompts in") == 2
    assert both == alone
