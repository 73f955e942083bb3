"""Videos, autoencoder, Latte, samples: each script on the output of the one before."""

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from latte_ms import config, weights
from latte_ms.data.video_file import read_video
from latte_ms.generation.latte_recipe import LatteRecipe
from latte_ms.parallel.lock import FolderLock
from latte_ms.training import assembly
from latte_ms.training.history import read_history
from latte_ms.training.recipe import TrainConfig
from latte_ms.transformer.latte import Latte
from latte_ms.vae.configuration import AutoencoderConfig
from scripts import sample, train, train_autoencoder
from tools import posthoc_ema

Arguments = Callable[..., list[str]]


@pytest.fixture(scope="module")
def latte(train_arguments: list[str], videos: Path) -> Path:
    """A run of three updates, continued by the same command to five; its folder."""
    output = videos.parent / "latte"
    train.main(train_arguments)
    assert [p.name for p in (output / "checkpoints").iterdir()] == ["0000003"]
    train.main([*train_arguments, "loop.max_steps=5"])
    return output


@pytest.mark.slow
def test_every_option_of_the_loss_and_the_averages_trains_and_resumes(
    train_arguments: list[str], tmp_path: Path
) -> None:
    options = {
        "diffusion.min_snr_gamma": 5,
        "diffusion.contrastive_weight": 0.05,
        "diffusion.timestep_sampling": "loss_aware",
        "diffusion.alignment_weight": 0.04,
        "diffusion.alignment_student_blocks": 1,
        "diffusion.alignment_teacher_blocks": 2,
        "diffusion.alignment_gap": 0.2,
        "optimizer.ema_warmup": "true",
        "optimizer.ema_start_step": 1,
        "optimizer.ema_sigma_rels": "[0.1]",
        "optimizer.ema_snapshot_every": 2,
        "recompute": 1,
        "loop.output": tmp_path,
    }
    arguments = [*train_arguments, *(f"{key}={value}" for key, value in options.items())]
    for max_steps in (3, 4):
        train.main([*arguments, f"loop.max_steps={max_steps}"])
    rows = read_history(tmp_path / "history.csv")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(np.isfinite([row["loss"], row["alignment"]]).all() for row in rows)
    optimizer = weights.read(tmp_path / "checkpoints" / "0000004" / "optimizer.safetensors")
    assert optimizer["timestep_counts"].sum() == 4 * 2, "updates times the batch"
    target = tmp_path / "chosen"
    assert posthoc_ema.main([str(tmp_path), "--sigma-rel=0.12", f"--target={target}"]) == 0
    network = Latte(config.load(TrainConfig, tmp_path / "config.yaml").network, seed=None)
    weights.load(network, target, "ema")
    with pytest.raises(SystemExit):
        train.main([*arguments, "diffusion.min_snr_gamma=1"])


@pytest.fixture(scope="module")
def sample_arguments(
    arguments: Arguments, latte: Path, vae: Path, sizes: dict[str, object]
) -> list[str]:
    return arguments(
        "sample.yaml",
        weights=latte / "checkpoints" / "0000005",
        vae=vae,
        output=latte.parent / "samples",
        sampler__num_steps=3,
        classes="[2,5]",
        batch_size=2,
        **{f"network__{name}": value for name, value in sizes.items()},
    )


@pytest.mark.slow
def test_the_autoencoder_is_saved_in_diffusers_layout(
    autoencoder_arguments: list[str], videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_autoencoder.main(autoencoder_arguments)
    run = videos.parent / "autoencoder"
    vae = run / "vae"
    assert sorted(p.name for p in vae.iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    saved = AutoencoderConfig.from_json(vae / "config.json")
    assert saved.block_out_channels == (4, 8, 8)
    assert saved.scaling_factor != AutoencoderConfig().scaling_factor, "it was measured"
    rows = read_history(run / "history.csv")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert {"loss", "reconstruction", "kl"} <= set(rows[0])
    other, expected = "network.latent_channels=8", "network.latent_channels was 4, is 8"
    ends(train_autoencoder.main, [*autoencoder_arguments, other], capsys, expected)


def test_the_same_command_resumes_training(latte: Path) -> None:
    rows = read_history(latte / "history.csv")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert all(np.isfinite([row["loss"], row["grad_norm"]]).all() for row in rows)
    names = {p.name for p in latte.iterdir()}
    assert names == {"checkpoints", "config.yaml", "curves.png", "history.csv"}
    saved = config.load(TrainConfig, latte / "config.yaml")
    assert saved.loop.max_steps == 5
    assert saved.network.hidden_size == 16


def test_samples_are_videos_and_a_contact_sheet(
    latte: Path, sample_arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    sample.main(sample_arguments)
    output = latte.parent / "samples"
    assert "2 videos in" in capsys.readouterr().out
    stems = ("2_seed0", "5_seed1")
    files = {f"{stem}.{suffix}" for stem in stems for suffix in ("mp4", "gif")}
    assert {p.name for p in output.iterdir()} == {*files, "contact_sheet.png", "samples.json"}
    with av.open(str(output / "2_seed0.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate) == ("h264", 8)
        assert (stream.width, stream.height) == (32, 32)
        assert len(list(container.decode(stream))) == 4
    with Image.open(output / "contact_sheet.png") as sheet:
        assert sheet.size == (4 * 36 + 4, 2 * (32 + 14 + 4) + 4)


def test_training_begins_with_the_entry_that_is_chosen(
    latte: Path, train_arguments: list[str]
) -> None:
    folder = latte / "checkpoints" / "0000005"
    chosen = [f"initial_weights={folder}"]
    for entry in ("ema", "model"):
        overrides = [*train_arguments[2:], *chosen, f"initial_entry={entry}"]
        cfg = config.load(TrainConfig, train_arguments[1], overrides)
        network = assembly.build_network(cfg)
        expected = weights.read(folder, entry)["final_layer.linear.weight"]
        np.testing.assert_array_equal(network.final_layer.linear.weight.asnumpy(), expected)


@pytest.mark.slow
def test_steps_are_counted_for_a_respacing(sample_arguments: list[str], tmp_path: Path) -> None:
    overrides = [*sample_arguments[2:], "sampler.num_steps=ddim4", f"output={tmp_path / 'new'}"]
    recipe = config.load(LatteRecipe, sample_arguments[1], overrides)
    assert recipe.sampler.schedule().num_steps == 4
    sample.main([*sample_arguments[:2], *overrides])
    assert (tmp_path / "new" / "5_seed1.mp4").is_file()


def ends(
    main: Callable[[list[str]], None],
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    *expected_parts: str,
) -> None:
    """`main` exits with status 2 and a message with `expected_parts` instead of a traceback."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    message = capsys.readouterr().err.split("error: ")[-1]
    for part in expected_parts:
        assert part in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("override", "expected_parts"),
    [
        ("data.path=/nowhere", ["/nowhere"]),
        ("vae=/nowhere", ["`vae` must be a folder", "/nowhere"]),
        ("vae_precision=bfloat16", ["`vae_precision` bfloat16 has no CPU kernels"]),
        ("initial_weights=/nowhere.pt", ["/nowhere.pt"]),
        ("network.hidden_sise=16", ["network.hidden_sise", "network.hidden_size"]),
        ("data.num_frames=3", ["`data.num_frames` (=3)", "`network.num_frames` (=4)"]),
        ("diffusion.noise_schedule=cubic", ["cubic"]),
        ("diffusion.loss=mae", ["mae"]),
        ("loop.max_steps=many", ["loop.max_steps", "many"]),
        ("loop.batch_size=17", ["`batch_size` (=17)", "(=16)"]),
        ("runtime.device=TPU", ["`runtime.device`", "TPU"]),
        ("runtime.distributed=true", ["`runtime.distributed`"]),
        ("data.classes=false", ["`data.classes` (=False)"]),
        ("cache_latents=true", ["`cache_latents` is gone", "latent_cache.path"]),
        ("latent_cache.path=/nowhere", ["a folder that latte-encode has filled, got /nowhere"]),
    ],
)
def test_a_mistake_in_training_ends_with_one_message(
    train_arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    override: str,
    expected_parts: list[str],
) -> None:
    output = tmp_path / "run"
    ends(train.main, [*train_arguments, f"loop.output={output}", override], capsys, *expected_parts)
    assert not output.exists()


@pytest.mark.parametrize("main", [train.main, train_autoencoder.main, sample.main])
def test_an_output_that_is_a_file_ends_a_script_at_once(
    main: Callable[[list[str]], None],
    train_arguments: list[str],
    autoencoder_arguments: list[str],
    sample_arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "file"
    file.touch()
    arguments, key = {
        train.main: (train_arguments, "loop.output"),
        train_autoencoder.main: (autoencoder_arguments, "loop.output"),
        sample.main: (sample_arguments, "output"),
    }[main]
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main([*arguments, f"{key}={file}"])
    assert caught.value.code == 2
    written = capsys.readouterr().err
    assert written.startswith(f"error: `{key}` must be a folder that can be written to, got {file}")


@pytest.mark.slow
def test_a_run_that_diverges_ends_with_one_message(
    train_arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wild = ["optimizer.learning_rate=1e30", "loop.max_steps=20"]
    words = [
        "The gradient norm of update ",
        "Videos of its batch: ",
        ".mp4",
        "`optimizer.learning_rate`",
    ]
    ends(train.main, [*train_arguments, *wild, f"loop.output={tmp_path}"], capsys, *words)


def test_the_folder_of_another_run_is_left_alone(
    latte: Path, train_arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    files = [latte / "history.csv", latte / "config.yaml"]
    before = [file.read_text() for file in files]
    words = ["another run", "network.depth was 2, is 4"]
    ends(train.main, [*train_arguments, "network.depth=4"], capsys, *words)
    assert [file.read_text() for file in files] == before


def test_a_second_training_into_a_folder_is_refused(
    train_arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FolderLock(tmp_path, "loop.output"):
        words = ["`loop.output`", f"in use by process {os.getpid()} on "]
        ends(train.main, [*train_arguments, f"loop.output={tmp_path}"], capsys, *words)


@pytest.mark.parametrize(
    ("override", "expected_parts"),
    [
        ("weights=/nowhere", ["/nowhere"]),
        ("entry=best", ["`entry`", "best"]),
        ("vae=/nowhere", ["`vae` must be a folder"]),
        ("vae_precision=bfloat16", ["`vae_precision` bfloat16 has no CPU kernels"]),
        ("num_videos=1", ["`num_videos` (=1)", "`classes` (=2)"]),
        ("network.hidden_size=32", ["`network.hidden_size` (=32)", "as the checkpoint"]),
        ("network.num_frames=8", ["`network.num_frames` (=8)", "as the checkpoint"]),
        ("classes=[8]", ["`classes` must be in [0, 8), got 8"]),
        ("sampler.num_steps=0", ["`sampler.num_steps`"]),
        ("sampler.methd=ddpm", ["sampler.methd", "sampler.method"]),
    ],
)
def test_a_mistake_in_sampling_ends_with_one_message(
    sample_arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    override: str,
    expected_parts: list[str],
) -> None:
    ends(sample.main, [*sample_arguments, override], capsys, *expected_parts)


@pytest.mark.parametrize(
    ("override", "expected_parts"),
    [
        ("data.path=/nowhere", ["/nowhere"]),
        ("data.image_size=34", ["`data.image_size` (=34)", "(=4)"]),
        ("network.norm_num_groups=3", ["`norm_num_groups` (=3)"]),
        ("reconstruction=cubed", ["`reconstruction`", "cubed"]),
        ("kl_weight=-1", ["`kl_weight`"]),
        ("frames_per_video=0", ["`frames_per_video`"]),
    ],
)
def test_a_mistake_in_training_the_autoencoder_ends_with_one_message(
    vae: Path,
    autoencoder_arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    override: str,
    expected_parts: list[str],
) -> None:
    ends(train_autoencoder.main, [*autoencoder_arguments, override], capsys, *expected_parts)


@pytest.mark.parametrize("text", ["data: [1, 2", "- a\n- b\n", "data: \x00\x01", "\xff\xfe"])
@pytest.mark.parametrize("main", [train.main, sample.main, train_autoencoder.main])
def test_a_damaged_recipe_is_named(
    main: Callable[[list[str]], None],
    text: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text.encode("latin-1"))
    ends(main, ["--config", str(path)], capsys, "`--config`", str(path))


def test_a_dry_run_prints_the_recipe_and_tries_one_batch(
    train_arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The configuration alone is standard output, and nothing is written."""
    capsys.readouterr()
    output = tmp_path / "run"
    with caplog.at_level(logging.INFO), pytest.raises(SystemExit) as caught:
        train.main([*train_arguments, f"loop.output={output}", "--dry-run"])
    assert caught.value.code == 0
    assert not output.exists()
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert config.load(TrainConfig, tmp_path / "printed.yaml").loop.output == str(output)
    assert re.search(
        r"The first batch has loss [\d.]+, mse [\d.]+\. Its videos: .*\.mp4", caplog.text
    )
    assert re.search(r"length +3 updates, 0.375 epochs of 16 videos", caplog.text)


@pytest.mark.slow
def test_previews_change_nothing_that_is_trained(
    latte: Path, train_arguments: list[str], tmp_path: Path
) -> None:
    options = ["preview.every=2", "preview.num_videos=3", "preview.num_steps=2", "loop.max_steps=5"]
    train.main([*train_arguments, *options, f"loop.output={tmp_path}"])
    names = {f"000000{n}.{suffix}" for n in (2, 4) for suffix in ("mp4", "png")}
    assert {path.name for path in (tmp_path / "previews").iterdir()} == names
    assert read_video(tmp_path / "previews" / "0000002.mp4").shape == (4, 32, 3 * 32, 3)
    files = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")
    ours, theirs = (folder / "checkpoints" / "0000005" for folder in (tmp_path, latte))
    assert all((ours / name).read_bytes() == (theirs / name).read_bytes() for name in files)


@pytest.mark.parametrize(
    ("override", "expected_part"),
    [
        ("loop.batch_size=17", "`batch_size` (=17)"),
        ("vae=/nowhere", "`vae` must be a folder"),
        ("preview={every: 1, num_steps: 1001}", "`preview.num_steps` must be from 1 to "),
    ],
)
def test_a_dry_run_finds_mistakes_beyond_the_recipe(
    train_arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    override: str,
    expected_part: str,
) -> None:
    arguments = [*train_arguments, f"loop.output={tmp_path / 'run'}", override, "--dry-run"]
    ends(train.main, arguments, capsys, expected_part)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_into_the_folder_of_another_run_says_so(
    latte: Path, train_arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in latte.rglob("*")}
    arguments = [*train_arguments, "network.depth=4", "--dry-run"]
    ends(train.main, arguments, capsys, "another run", "network.depth was 2, is 4")
    assert {path: path.stat().st_mtime_ns for path in latte.rglob("*")} == before
