"""Training on prepared text embeddings: the script, exact resumption, refused settings."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from latte_ms import config, weights
from latte_ms.media import file_stems
from latte_ms.training import assembly
from latte_ms.training.recipe import TrainConfig
from scripts import encode, sample, train

pytestmark = pytest.mark.slow

SHAPE = (2, 3)  # tokens, size of an embedding


@pytest.fixture(scope="module")
def embeddings(videos: Path) -> dict[str, np.ndarray]:
    """One array per video, and one for "no caption"."""
    rng = np.random.default_rng(0)
    names = [path.relative_to(videos).as_posix() for path in sorted(videos.rglob("*.mp4"))]
    assert len(names) == 16
    arrays = {name: rng.standard_normal(SHAPE, np.float32) for name in names}
    return {**arrays, "unconditional": np.zeros(SHAPE, np.float16)}


@pytest.fixture(scope="module")
def embeddings_file(
    embeddings: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("embeddings") / "text.safetensors"
    save_file(embeddings, path)
    return path


@pytest.fixture(scope="module")
def text_arguments(train_arguments: list[str], embeddings_file: Path) -> list[str]:
    return [
        *train_arguments,
        f"data.text_embeddings={embeddings_file}",
        "data.classes=false",
        "network.conditioning=text",
        f"network.text_tokens={SHAPE[0]}",
        f"network.text_width={SHAPE[1]}",
        "network.class_dropout_prob=0.5",
    ]


def trained(arguments: list[str], output: Path, *max_steps: int) -> Path:
    """The last checkpoint after the script ran once per entry of `max_steps`."""
    for number in max_steps:
        train.main([*arguments, f"loop.output={output}", f"loop.max_steps={number}"])
    return output / "checkpoints" / f"{max_steps[-1]:07d}"


@pytest.fixture(scope="module")
def cached_arguments(
    text_arguments: list[str], tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """Those of training on a filled latent cache."""
    arguments = [*text_arguments, f"latent_cache.path={tmp_path_factory.mktemp('cache')}"]
    encode.main(arguments)
    return arguments


@pytest.fixture(scope="module")
def cached_run(cached_arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of three updates on cached latents."""
    return trained(cached_arguments, tmp_path_factory.mktemp("runs") / "whole", 3)


def test_a_run_on_text_embeddings_resumes_exactly(
    cached_arguments: list[str], cached_run: Path, tmp_path: Path
) -> None:
    """Also with previews, guided and of the first videos' embeddings, which the whole had not."""
    previews = ["preview.every=2", "preview.num_steps=1", "preview.guidance_scale=2"]
    arguments = [*cached_arguments, "preview.num_videos=3", *previews]
    parts = trained(arguments, tmp_path / "parts", 2, 3)
    assert_equal(parts, cached_run)
    names = {path.name for path in (tmp_path / "parts" / "previews").iterdir()}
    assert names == {"0000002.mp4", "0000002.png"}


def test_a_run_on_encoded_batches_resumes_exactly(
    text_arguments: list[str], tmp_path: Path
) -> None:
    whole = trained(text_arguments, tmp_path / "whole", 3)
    assert_equal(trained(text_arguments, tmp_path / "parts", 2, 3), whole)


def assert_equal(parts: Path, whole: Path) -> None:
    """Both checkpoints hold the same."""
    for name in ("model.safetensors", "ema.safetensors", "optimizer.safetensors"):
        ours, theirs = load_file(parts / name), load_file(whole / name)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)


def test_a_run_trains_the_projection_of_its_embeddings(cached_run: Path) -> None:
    cfg = config.load(TrainConfig, cached_run.parents[1] / "config.yaml")
    network = assembly.build_network(cfg)
    start = network.text_projection.weight.asnumpy().copy()
    weights.load(network, cached_run, "model")
    assert not np.array_equal(network.text_projection.weight.asnumpy(), start)


def test_a_text_checkpoint_is_sampled_by_names_of_embeddings(
    cached_run: Path, embeddings_file: Path, vae: Path, tmp_path: Path
) -> None:
    """The checkpoint records its network; guidance takes the array `unconditional`."""
    first, second = sorted(name for name in load_file(embeddings_file) if "/" in name)[:2]
    recipe = tmp_path / "sample.yaml"
    recipe.write_text("sampler: {method: ddim, num_steps: 2, guidance_scale: 3.0}\n")
    sample.main(
        [
            *("--config", str(recipe), f"weights={cached_run}", f"vae={vae}"),
            *(f"text_embeddings={embeddings_file}", f"prompts=['{first}','{second}']"),
            *(f"output={tmp_path / 'videos'}", "batch_size=2", "formats=[png]"),
        ]
    )
    files = {path.name for path in (tmp_path / "videos").iterdir()}
    stems = file_stems([first, second]).values()
    videos = {f"{stem}_seed{i}.png" for i, stem in enumerate(stems)}
    assert files == {*videos, "contact_sheet.png", "samples.json"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.text_embeddings=/none.safetensors"], "`text_embeddings` is not a file: /none"),
        (["network.text_tokens=4"], "must be (4, 3), got (2, 3)"),
        (
            ["data.text_embeddings=''"],
            "`data.text_embeddings` (='') must name a file for, and only",
        ),
        (["network.conditioning=none"], "only for, `network.conditioning` text (is none)"),
        (["data.classes=true"], "`data.classes` (=True)"),
        (
            ["network.num_joint_images=2"],
            "`data.num_joint_images` (=2) must be 0 for `network.conditioning` text",
        ),
    ],
)
def test_a_mistake_ends_the_script_before_any_work(
    text_arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    message: str,
) -> None:
    refused([*text_arguments, *overrides], tmp_path, capsys, message)


def test_videos_without_an_embedding_end_the_script_before_any_work(
    text_arguments: list[str],
    embeddings: dict[str, np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, *others = embeddings
    save_file({name: embeddings[name] for name in others}, tmp_path / "text.safetensors")
    arguments = [*text_arguments, f"data.text_embeddings={tmp_path / 'text.safetensors'}"]
    refused(arguments, tmp_path, capsys, f"1 of 16 have none: {first}.")


def refused(
    arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str], message: str
) -> None:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        train.main([*arguments, f"loop.output={folder / 'run'}"])
    assert caught.value.code == 2
    written = capsys.readouterr().err
    assert message in written
    assert "encoding videos" not in written
    assert not (folder / "run").exists()
