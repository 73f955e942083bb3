"""The script that samples from prompts, as a user runs it, on a tiny pipeline."""

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from huggingface_hub.utils import reset_sessions
from PIL import Image

from latte_ms import config
from latte_ms.generation.pipelines.latte import LattePipeline
from latte_ms.generation.sample_folder import RECORD
from latte_ms.generation.text_recipe import TextToVideoRecipe
from latte_ms.media import write_mp4
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
        "prompts": "[]",
        "num_inference_steps": 2,
        "height": 16,
        "width": 16,
        "video_length": 4,
        "temporal_decoder": "false",
    }
    overrides = [f"{name}={value}" for name, value in small.items()]
    return ["--config", str(RECIPES / "t2v.yaml"), *overrides]


def written(folder: Path) -> list[str]:
    """All but the record."""
    return sorted(path.name for path in folder.iterdir() if path.name != RECORD)


def test_videos_of_prompts(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a file instead of the recipe's prompts; two formats."""
    (tmp_path / "prompts.txt").write_text("A cat, on a beach\na dog\n# no prompt\n")
    more = ["prompts=[a bird]", f"prompts_file={tmp_path / 'prompts.txt'}"]
    sample_t2v.main([*arguments, *more, "formats=[mp4,gif]", "seed=3", "fps=5"])
    names = ["A_cat_on_a_beach_seed3.gif", "A_cat_on_a_beach_seed3.mp4"]
    assert written(tmp_path / "out") == [*names, "a_dog_seed3.gif", "a_dog_seed3.mp4"]
    with av.open(str(tmp_path / "out" / names[1])) as container:
        assert container.streams.video[0].average_rate == 5
        assert sum(1 for _ in container.decode(video=0)) == 4
    output = capsys.readouterr()
    assert "2 prompts in" in output.out
    assert "%|" not in output.err, "no bar where there is no terminal"


@pytest.mark.slow
def test_prompts_are_added_and_finished_ones_stay(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As folders of frames; a prompt that lacks one of its videos is sampled again."""
    more = ["formats=[frames]", "num_images_per_prompt=2"]
    sample_t2v.main([*arguments, *more, "prompts=[a cat, a dog]"])
    out = tmp_path / "out"
    names = ["a_cat_seed0", "a_cat_seed1", "a_dog_seed0", "a_dog_seed1"]
    assert written(out) == names
    assert len(list((out / "a_cat_seed0").glob("*.png"))) == 4
    lost = {path.name: path.read_bytes() for path in (out / "a_dog_seed1").iterdir()}
    shutil.rmtree(out / "a_dog_seed1")
    kept = (out / "a_dog_seed0").stat().st_mtime_ns
    capsys.readouterr()
    sample_t2v.main([*arguments, *more, "prompts=[a cat, a dog]"])
    assert "1 prompts in" in capsys.readouterr().out
    assert (out / "a_dog_seed0").stat().st_mtime_ns == kept
    assert {path.name: path.read_bytes() for path in (out / "a_dog_seed1").iterdir()} == lost
    refusals = {
        "num_inference_steps=3": "num_inference_steps was 2, is 3",
        "transformer=nowhere": "transformer was '', is 'nowhere'.",  # before it is looked for
        "prompts=[a cat!]": "a_cat_seed0 was the prompt 'a cat', is 'a cat!'",
    }
    for override, message in refusals.items():
        with pytest.raises(SystemExit) as end:
            sample_t2v.main([*arguments, *more, "prompts=[a cat]", override])
        assert end.value.code == 2
        assert message in capsys.readouterr().err


def test_a_pipeline_with_other_weights_is_another_one(
    arguments: list[str], folder: Path, tmp_path: Path
) -> None:
    """A transformer of the same sizes under the same path."""
    shutil.copytree(folder, tmp_path / "pipeline")
    cfg = config.load(TextToVideoRecipe, arguments[1], [*arguments[2:], "prompt=a"])
    names = {"a": ["a_seed0"]}
    moved = dataclasses.replace(cfg, pipeline=str(tmp_path / "pipeline"))
    record, same = (sample_t2v.record_of(recipe, names) for recipe in (cfg, moved))
    assert record.conflicts(same) == []
    weights = next((tmp_path / "pipeline" / "transformer").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (conflict,) = record.conflicts(sample_t2v.record_of(moved, names))
    assert conflict.startswith(f"pipeline was {folder} (SHA-256 ")


@pytest.mark.slow
def test_images(arguments: list[str], tmp_path: Path) -> None:
    arguments[1] = str(RECIPES / "t2i.yaml")
    sample_t2v.main([*arguments, "prompt=a cat", "video_length=1", "num_images_per_prompt=2"])
    assert written(tmp_path / "out") == ["a_cat_seed0.png", "a_cat_seed1.png"]
    with Image.open(tmp_path / "out" / "a_cat_seed0.png") as image:
        assert image.size == (16, 16)


@pytest.mark.slow
def test_video_to_video(arguments: list[str], tmp_path: Path) -> None:
    """The middle of a file with frames of another size."""
    frames = np.random.default_rng(0).integers(0, 256, (12, 24, 40, 3), np.uint8)
    write_mp4(tmp_path / "in.mp4", frames)
    arguments[1] = str(RECIPES / "v2v.yaml")
    more = [f"video={tmp_path / 'in.mp4'}", "frame_interval=2", "strength=0.5"]
    sample_t2v.main([*arguments, *more, "prompt=snow", "formats=[png]"])
    assert written(tmp_path / "out") == ["snow_seed0.png"]
    with Image.open(tmp_path / "out" / "snow_seed0.png") as image:
        assert image.size == (64, 16), "four frames side by side"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no video", "`video` must be a video that can be decoded, got "),
        (None, "`video` must have at least 4 frames, for 4 at an interval of 1, got 3: "),
    ],
)
def test_a_broken_or_short_video_ends_the_script(
    arguments: list[str],
    tmp_path: Path,
    content: bytes | None,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before the pipeline is read."""
    path = tmp_path / "in.mp4"
    if content is None:
        write_mp4(path, np.zeros((3, 16, 16, 3), np.uint8))
    else:
        path.write_bytes(content)
    arguments[1] = str(RECIPES / "v2v.yaml")
    more = ["prompt=a", f"video={path}", "frame_interval=1", "pipeline=/nowhere/at all"]
    with pytest.raises(SystemExit) as end:
        sample_t2v.main([*arguments, *more])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert f"error: {message}" in error
    assert str(path) in error


def test_an_output_that_cannot_be_written(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reported before the pipeline is read."""
    (tmp_path / "file").touch()
    for name in ("file", "file/below"):
        more = ["prompt=a", f"output={tmp_path / name}", "pipeline=/nowhere/at all"]
        with pytest.raises(SystemExit) as end:
            sample_t2v.main([*arguments, *more])
        assert end.value.code == 2
        message = (
            f"error: `output` must be a folder that can be written to, got {tmp_path / name}: "
        )
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_one_failure_does_not_affect_other_prompts(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that cannot be written, because a folder has its name."""
    sample_t2v.main([*arguments, "prompts=[good]", "formats=[png]"])
    (tmp_path / "out" / "bad_seed0.png").mkdir()
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        sample_t2v.main([*arguments, "prompts=[good, bad, better]", "formats=[png]"])
    assert end.value.code == 1
    assert written(tmp_path / "out") == ["bad_seed0.png", "better_seed0.png", "good_seed0.png"]
    output = capsys.readouterr()
    assert "1 prompts in" in output.out
    assert "failed: 'bad': WriteError" in output.err


@pytest.mark.slow
def test_steps_and_memory(arguments: list[str]) -> None:
    """Options whose effect is not visible in the files."""
    more = ["prompt=a", "slicing=true", "tile_size=32", "decode_chunk_size=null"]
    more += ["scheduler=euler", "timesteps=[900,100,7]"]
    cfg = config.load(TextToVideoRecipe, arguments[1], [*arguments[2:], *more])
    (request,) = cfg.requests().values()
    assert request.decode_chunk_size is None
    pipeline = sample_t2v.build(cfg)
    pipeline.check(request)
    assert pipeline.components["vae"]._loaded() is None, "its settings wait until it is loaded"
    assert pipeline.vae.slicing
    assert pipeline.vae.tile_size == 32
    pipeline.generate(dataclasses.replace(request, output_type="latent"))
    assert pipeline.num_timesteps == 3


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """huggingface_hub offline; its sessions cache that setting."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    reset_sessions()
    yield
    reset_sessions()


@pytest.mark.usefixtures("offline")
def test_a_revision_of_the_hub(arguments: list[str], folder: Path, tmp_path: Path) -> None:
    """From a cache in huggingface_hub's layout."""
    root = tmp_path / "models--someone--latte-small"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "v2").write_text("0" * 40)
    (root / "snapshots").mkdir()
    (root / "snapshots" / ("0" * 40)).symlink_to(folder)
    more = ["prompt=a", "pipeline=someone/latte-small", f"cache_dir={tmp_path}"]
    cfg = config.load(TextToVideoRecipe, arguments[1], [*arguments[2:], *more, "revision=v2"])
    assert sample_t2v.build(cfg).limits().video_length == 4
    cfg = config.load(TextToVideoRecipe, arguments[1], [*arguments[2:], *more])
    with pytest.raises(OSError, match="`someone/latte-small` cannot be downloaded from the hub"):
        sample_t2v.build(cfg)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("height=24", "`height` must be divisible by 16"),
        ("video_length=3", "`video_length` must be 1 or the transformer's 4, got 3"),
        ("pipeline=/nowhere/at all", "`/nowhere/at all` is neither a folder nor an id of the hub"),
        ("variant=fp16", "`variant` (='fp16') is in no component"),
        ("num_inference_steps=2000", "`num_inference_steps` must be from 1 to 1000, got 2000"),
        ("video=nowhere.mp4", "`video` is not a file: nowhere.mp4"),
        ("tile_size=20", "`tile_size` must be a multiple of 32 pixels, 4 latent pixels, got 20"),
        ("timesteps=[999,1]", "`timesteps` cannot be chosen with DDIMScheduler"),
        ("revision=main", "`revision` (='main') needs a `pipeline` of the hub, got the folder"),
        (f"cache_dir={__file__}", f"`cache_dir` must be a folder, got the file {__file__}"),
        ("num_inference_step=2", "Unknown key 'num_inference_step'. Nearest: num_inference_steps"),
    ],
)
def test_mistakes_end_the_script_at_once(
    arguments: list[str], override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        sample_t2v.main([*arguments, "prompt=a cat", override])
    assert end.value.code == 2
    assert f"error: {message}" in capsys.readouterr().err


def msrun(script: Path, arguments: list[str], port: int, folder: Path) -> tuple[int, str]:
    """Run two processes of `script`; returns the exit status and their output."""
    first = {"PYTHONPATH": str(ROOT), "PATH": str(Path(sys.executable).parent)}
    joined = {key: os.pathsep.join([v, os.environ.get(key, "")]) for key, v in first.items()}
    logs = folder / "logs"
    command = [str(Path(sys.executable).with_name("msrun")), "--worker_num=2"]
    command += ["--local_worker_num=2", f"--master_port={port}", f"--log_dir={logs}"]
    command += ["--join=True", str(script), *arguments, "runtime.distributed=true"]
    done = subprocess.run(command, env={**os.environ, **joined}, cwd=folder, timeout=600)
    return done.returncode, "".join(p.read_text(errors="replace") for p in logs.glob("*.log"))


@pytest.mark.slow
def test_prompts_are_divided_among_ranks(
    arguments: list[str], tmp_path: Path, free_port: int
) -> None:
    """Two processes write the files that one writes, each prompt once, with equal images."""
    more = ["prompts=[one, two, three]", "formats=[png]", "runtime.jit_level=O0"]
    sample_t2v.main([*arguments, *more])
    alone = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.png")}
    shutil.rmtree(tmp_path / "out")
    script = ROOT / "scripts" / "sample_t2v.py"
    status, text = msrun(script, [*arguments, *more], free_port, tmp_path)
    assert status == 0
    both = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.png")}
    assert both.keys() == alone.keys()
    for name in alone:
        images = [Image.open(tmp_path / "out" / name)]
        assert images[0].size == (64, 16)
    assert text.count("prompts in") == 2
    assert both == alone


@pytest.mark.extended
def test_a_failure_waits_for_the_other_ranks(
    arguments: list[str], tmp_path: Path, free_port: int
) -> None:
    """The first has few steps and a prompt that fails; the second has many steps."""
    (tmp_path / "out" / "bad_seed0.png").mkdir(parents=True)
    script = tmp_path / "uneven.py"
    script.write_text(
        "import os, sys\n"
        "from scripts import sample_t2v\n"
        "slow = ['num_inference_steps=500'] if os.environ['RANK_ID'] == '1' else []\n"
        "sample_t2v.main([*sys.argv[1:], *slow])\n"
    )
    more = ["prompts=[bad, two, three, four]", "formats=[png]", "runtime.jit_level=O0"]
    status, text = msrun(script, [*arguments, *more], free_port, tmp_path)
    assert status != 0
    names = ("bad", "four", "three", "two")
    assert written(tmp_path / "out") == [f"{name}_seed0.png" for name in names]
    assert "failed: 'bad': WriteError" in text
    assert "1 prompts in" in text
    assert "2 prompts in" in text
