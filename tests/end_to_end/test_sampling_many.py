"""Sets of samples: the reference's layout, frames for the metrics, runs that go on, ranks."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor
from PIL import Image

from examples.moving_shapes import make_shapes
from latte_ms import config
from latte_ms.data.video_file import index_video, read_video
from latte_ms.generation.latte_recipe import LatteRecipe
from latte_ms.generation.latte_sampler import LatteSampler
from latte_ms.generation.sample_folder import SampleFolder
from latte_ms.metrics.clips import ClipRule, Clips, find_videos
from latte_ms.metrics.i3d import I3D
from latte_ms.runtime import Rank
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.latte import Latte
from latte_ms.weights.network import save
from scripts import calc_metrics, sample, train
from tests.end_to_end.test_sample_t2v import msrun
from tests.processes import run_here

ROOT = Path(__file__).parents[2]
Arguments = Callable[..., list[str]]


@pytest.fixture(scope="module")
def weights(sizes: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network none of whose weights is zero: videos depend on class and noise."""
    network = Latte(LatteConfig(**sizes, conditioning="class", num_classes=8), seed=0)  # type: ignore[arg-type]
    rng = np.random.default_rng(5)
    for parameter in network.trainable_params():
        noise = 0.1 * rng.standard_normal(parameter.shape, np.float32)
        parameter.asnumpy()[...] += noise
    path = tmp_path_factory.mktemp("weights") / "latte.safetensors"
    save(network, path)
    return path


@pytest.fixture(scope="module")
def keys(weights: Path, vae: Path, sizes: dict[str, object]) -> list[str]:
    """A recipe without its output: classes are drawn, files are numbered."""
    values = {"weights": weights, "vae": vae, "sampler.num_steps": 3, "runtime.jit_level": "O0"}
    values |= {f"network.{name}": value for name, value in sizes.items()}
    values |= {"network.conditioning": "class", "network.num_classes": 8}
    values |= {"file_names": "numbers", "batch_size": 2, "seed": 11}
    return [f"{key}={value}" for key, value in values.items()]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("recipe") / "sample.yaml"
    path.write_text("sampler: {method: ddpm}\n")
    return ["--config", str(path)]


@pytest.fixture(scope="module")
def run(recipe: list[str], keys: list[str]) -> Callable[..., int]:
    """What the script does after it has built the networks; they are compiled once."""
    built: list[LatteSampler] = []

    def call(*overrides: str) -> int:
        cfg = config.load(LatteRecipe, recipe[1], [*keys, *overrides])
        built.extend([] if built else [sample.build(cfg)])
        with SampleFolder(cfg.output, cfg.files, Rank()) as folder:
            return sample.fill(cfg, built[0], folder, Rank())

    return call


@pytest.fixture(scope="module")
def whole(run: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five videos of an unbroken run."""
    output = tmp_path_factory.mktemp("whole") / "out"
    assert run("num_videos=5", f"output={output}") == 5
    return output


def videos_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.mp4")}


def test_the_layout_is_that_of_the_reference(whole: Path) -> None:
    """Exactly as many files as were asked for, although batches of two are sampled."""
    names = {f"{number:04d}.mp4" for number in range(5)}
    assert {path.name for path in whole.iterdir()} == {*names, "contact_sheet.png", "samples.json"}
    assert len(set(videos_of(whole).values())) == 5
    for name in names:
        assert index_video(whole / name).fps == 8
        assert read_video(whole / name).shape == (4, 32, 32, 3)
    with Image.open(whole / "contact_sheet.png") as sheet:
        assert sheet.size == (4 * 36 + 4, 5 * (32 + 14 + 4) + 4)


def test_a_run_that_was_stopped_samples_what_is_missing(
    run: Callable[..., int], whole: Path, tmp_path: Path
) -> None:
    """Of three videos one is lost; then the set grows to five."""
    output = f"output={tmp_path / 'out'}"
    assert run(output, "num_videos=3") == 3
    lost, sheet = (tmp_path / "out" / name for name in ("0001.mp4", "contact_sheet.png"))
    lost.unlink()
    sheet.unlink()
    kept = (tmp_path / "out" / "0000.mp4").stat().st_mtime_ns
    assert run(output, "num_videos=5") == 5, "whole batches: 0 and 1, 2 and 3, 4"
    assert (tmp_path / "out" / "0000.mp4").stat().st_mtime_ns == kept
    assert videos_of(tmp_path / "out") == videos_of(whole)
    assert sheet.read_bytes() == (whole / sheet.name).read_bytes()
    assert run(output, "num_videos=5") == 0
    assert not (tmp_path / "out" / ".lock").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sampler.num_steps=2", "sampler.num_steps was 3, is 2"),
        ("seed=12", "seed was 11, is 12"),
        ("num_videos=4", "num_videos was 5, is 4"),
        ("formats=[gif]", "formats was ['mp4'], is ['gif']"),
        ("file_names=seeds", "file_names was 'numbers', is 'seeds'"),
    ],
)
def test_another_recipe_in_the_folder_is_refused(
    recipe: list[str],
    keys: list[str],
    whole: Path,
    override: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before the weights are looked for."""
    before = {path: path.stat().st_mtime_ns for path in whole.iterdir()}
    changed = [f"output={whole}", "weights=nowhere.safetensors", override]
    with pytest.raises(SystemExit) as ended:
        sample.main([*recipe, *keys, "num_videos=5", *changed])
    assert ended.value.code == 2
    assert f"holds videos of another recipe: {message}. Choose" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in whole.iterdir()} == before


def test_other_weights_in_the_folder_are_refused(
    recipe: list[str],
    keys: list[str],
    whole: Path,
    sizes: dict[str, object],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By their values: a copy under another name is the same."""
    arguments = [*recipe, *keys, "num_videos=5", f"output={whole}"]
    source = next(key for key in keys if key.startswith("weights=")).removeprefix("weights=")
    shutil.copy(source, tmp_path / "copy.safetensors")
    sample.main([*arguments, f"weights={tmp_path / 'copy.safetensors'}"])
    other = Latte(LatteConfig(**sizes, conditioning="class", num_classes=8), seed=1)  # type: ignore[arg-type]
    save(other, tmp_path / "other.safetensors")
    with pytest.raises(SystemExit):
        sample.main([*arguments, f"weights={tmp_path / 'other.safetensors'}"])
    message = capsys.readouterr().err
    assert "weights was " in message
    assert f"is {tmp_path / 'other.safetensors'} (SHA-256 " in message


def test_frames_are_clips_of_the_metrics(
    run: Callable[..., int], whole: Path, tmp_path: Path
) -> None:
    """The clips of the videos, without compression, and no image beside the folders."""
    output, images = tmp_path / "frames", tmp_path / "images"
    run("num_videos=5", "formats=[frames]", f"output={output}")
    run("num_videos=5", "formats=[png]", f"output={images}")
    names = {f"{number:04d}" for number in range(5)}
    assert {path.name for path in output.iterdir()} == {*names, "samples.json"}
    rule = ClipRule(num_frames=4, image_size=0)
    frames, again, videos = (
        Clips(folder, kind, rule)
        for folder, kind in ((output, "frames"), (output, "auto"), (whole, "videos"))
    )
    assert (frames.too_short, frames.fingerprint()) == (0, again.fingerprint())
    assert [clip.frames for clip in frames.clips] == [clip.frames for clip in videos.clips]
    assert [f"{clip.name}.mp4" for clip in frames.clips] == [clip.name for clip in videos.clips]
    for number, clip in enumerate(frames.clips):
        with Image.open(images / f"{clip.name}.png") as image:
            strip = np.concatenate(list(frames.read(number)), axis=1)
            np.testing.assert_array_equal(np.asarray(image), strip)


def start(arguments: list[str]) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "scripts" / "sample.py"), *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def files_of(folder: Path) -> dict[Path, bytes]:
    """All of them, by their paths in the folder."""
    files = [path for path in folder.rglob("*.*") if path.is_file()]
    return {path.relative_to(folder): path.read_bytes() for path in files}


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_unbroken(
    recipe: list[str], keys: list[str], tmp_path: Path
) -> None:
    """Killed twice, at any moment; while it lives, another run is refused."""
    arguments = [*recipe, *keys, "num_videos=24", "sampler.num_steps=20", "formats=[frames,mp4]"]
    output = tmp_path / "killed"
    for count in (3, 11):
        with start([*arguments, f"output={output}"]) as process:
            deadline = time.monotonic() + 200
            while len(videos_of(output)) < count:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGSTOP)  # however long the second one takes to start
            if count == 3:
                with start([*arguments, f"output={output}"]) as second:
                    _, message = second.communicate(timeout=200)
                assert second.returncode == 2
                assert f"is in use by process {process.pid} on" in message
            process.send_signal(signal.SIGKILL)
    assert len(videos_of(output)) < 24
    for folder in (output, tmp_path / "unbroken"):
        sample.main([*arguments, f"output={folder}"])
    first, second = map(files_of, (output, tmp_path / "unbroken"))
    assert len(first) == 24 * (4 + 1 + 1) + 1, "frames with their rate, mp4, and the record"
    assert first == second


@pytest.mark.slow
def test_two_ranks_write_the_files_of_one_process(
    recipe: list[str], keys: list[str], whole: Path, tmp_path: Path, free_port: int
) -> None:
    """A set begun by one process, and continued by two."""
    output = tmp_path / "out"
    arguments = [*recipe, *keys, f"output={output}"]
    sample.main([*arguments, "num_videos=1"])
    script = ROOT / "scripts" / "sample.py"
    status, text = msrun(script, [*arguments, "num_videos=5"], free_port, tmp_path)
    assert status == 0, text
    assert text.count("videos in") == 2
    assert videos_of(output) == videos_of(whole)
    names = {path.name for path in whole.iterdir()}
    assert {path.name for path in output.iterdir()} == names, "one contact sheet, no lock"


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    """I3D with weights under which activations keep their size."""
    rng, network = np.random.default_rng(0), I3D()
    for parameter in network.get_parameters():
        shape = parameter.shape
        scale = np.sqrt(2.0 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
        parameter.set_data(Tensor((scale * rng.standard_normal(shape)).astype(np.float32)))
    save(network, tmp_path / "i3d.safetensors")
    return tmp_path / "i3d.safetensors"


@pytest.mark.slow
def test_train_sample_judge(
    train_arguments: list[str], vae: Path, detector: Path, tmp_path: Path
) -> None:
    """The three commands of docs/metrics.md, on a tiny set: 16 real videos, 8 samples."""
    real, generated, result = (tmp_path / name for name in ("real", "generated", "result.json"))
    options = ["--videos-per-class=2", "--size=32", "--num-frames=12", f"--target={real}"]
    assert run_here(make_shapes.main, *options).returncode == 0
    lengths = ["data.num_frames=9", "data.frame_interval=1", "network.num_frames=9"]
    output = f"loop.output={tmp_path / 'run'}"
    train.main([*train_arguments, f"data.path={real}", *lengths, output])

    recipe = tmp_path / "sample.yaml"
    recipe.write_text("sampler: {num_steps: 2}\nfile_names: numbers\nformats: [frames]\n")
    sampling = [f"weights={tmp_path / 'run' / 'checkpoints' / '0000003'}", f"vae={vae}"]
    sampling += ["num_videos=8", "batch_size=3", "runtime.jit_level=O0", f"output={generated}"]
    sample.main(["--config", str(recipe), *sampling])

    judging = [f"detector={detector}", f"cache={tmp_path / 'cache'}", f"output={result}"]
    judging += ["num_frames=9", "frame_interval=1", "image_size=0"]
    values = {}
    for folder in (real, generated):
        calc_metrics.main([f"real={folder}", f"generated={generated}", *judging])
        found = json.loads(result.read_text())["fvd"]["distance"]
        assert (found["num_real"], found["num_generated"]) == (len(find_videos(folder, "auto")), 8)
        values[folder.name] = found["value"]
    assert np.isfinite(values["real"])
    assert values["real"] > 1000 * abs(values["generated"]), "a set is at no distance from itself"
