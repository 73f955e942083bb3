"""Training of `LatteT2V` on captions: the script, exact resumption, samples, refused settings."""

import csv
import json
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from examples.moving_shapes.shapes import CAPTION_FILE
from latte_ms import config, weights
from latte_ms.runtime import Rank
from latte_ms.training import assembly
from latte_ms.training.history import read_history
from latte_ms.training.randomness import draw
from latte_ms.training.recipe import T2VTrainConfig, TrainConfig
from scripts import encode, sample_t2v, train
from tools import make_pipeline

ROOT = Path(__file__).parents[2]
FILES = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")
SIZES = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_layers": 1,
    "sample_size": 8,
    "patch_size": 2,
}


@pytest.fixture(scope="module")
def t2v_arguments(arguments: object, videos: Path, vae: Path) -> list[str]:
    """Clips of 4 frames with 2 images, half of the captions dropped; add overrides."""
    return arguments(  # type: ignore[operator, no-any-return]
        "train_t2v.yaml",
        data__path=videos,
        data__image_size=32,
        data__num_frames=4,
        data__num_joint_images=2,
        vae=vae,
        caption_dropout=0.5,
        optimizer__warmup_steps=1,
        loop__max_steps=3,
        loop__batch_size=2,
        loop__log_every=1,
        loop__save_every=2,
        **{f"network__{name}": value for name, value in SIZES.items()},
    )


@pytest.fixture(scope="module")
def jsonl(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The captions of the videos as JSONL."""
    with (videos / CAPTION_FILE).open(newline="", encoding="utf-8") as file:
        lines = [json.dumps(row) + "\n" for row in csv.DictReader(file)]
    path = tmp_path_factory.mktemp("captions") / "captions.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def trained(arguments: list[str], output: Path, *max_steps: int) -> Path:
    """The last checkpoint after the script ran once per entry of `max_steps`."""
    for number in max_steps:
        train.main([*arguments, f"loop.output={output}", f"loop.max_steps={number}"])
    return output / "checkpoints" / f"{max_steps[-1]:07d}"


@pytest.fixture(scope="module")
def whole(t2v_arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of three unbroken updates."""
    return trained(t2v_arguments, tmp_path_factory.mktemp("runs") / "whole", 3)


def initial(checkpoint: Path, folder: Path) -> dict[str, np.ndarray]:
    """The weights that the run of `checkpoint` started from."""
    cfg = config.load(TrainConfig, checkpoint.parents[1] / "config.yaml")
    weights.save(assembly.build_network(cfg), folder / "start.safetensors")
    return dict(load_file(folder / "start.safetensors"))


@pytest.mark.slow
def test_all_weights_learn(whole: Path, tmp_path: Path) -> None:
    """All but the biases of keys, whose gradients are zero; and no line of the history is lost."""
    start = initial(whole, tmp_path)
    model = load_file(whole / "model.safetensors")
    assert model.keys() == start.keys()
    still = [name for name, value in model.items() if np.array_equal(value, start[name])]
    assert still == [name for name in model if name.endswith("to_k.bias")]
    rows = read_history(whole.parents[1] / "history.csv")
    assert [row["step"] for row in rows] == [1, 2, 3]


@pytest.mark.slow
def test_jsonl_embeddings_made_anew_and_a_resumed_run_give_the_same_bits(
    t2v_arguments: list[str], jsonl: Path, whole: Path, tmp_path: Path
) -> None:
    """Nothing is kept of the captions, and the run goes on after its second update."""
    shutil.copytree(whole.parents[1], tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / whole.name)
    other = [f"data.captions={jsonl}", "caption_memory_gb=0"]
    parts = trained([*t2v_arguments, *other], tmp_path / "parts", 3)
    lines = (parts.parents[1] / "history.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "1", "2", "3"]
    for name in FILES:
        ours, theirs = load_file(parts / name), load_file(whole / name)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)


def conditions(
    arguments: list[str], *overrides: str, dropout: float = 0.0
) -> dict[str, np.ndarray]:
    """Of the videos 0 and 9, with the images 3 and 4 and 5 and 6, as the recipe makes them."""
    cfg = config.load(TrainConfig, arguments[1], [*arguments[2:], "loop.output=x", *overrides])
    batches = train.build_batches(cfg, Rank(0, 1))
    item = {"index": np.array([0, 9]), "image_indices": np.array([[3, 4], [5, 6]])}
    return batches.conditions(item, draw(1, 0, (2, 6, 4, 8, 8), 1000, dropout))


@pytest.fixture(scope="module")
def plain(t2v_arguments: list[str]) -> dict[str, np.ndarray]:
    return conditions(t2v_arguments)


def test_captions_become_embeddings_of_their_own_videos(
    t2v_arguments: list[str], plain: dict[str, np.ndarray], videos: Path
) -> None:
    cfg = config.load(TrainConfig, t2v_arguments[1], [*t2v_arguments[2:], "loop.output=x"])
    assert isinstance(cfg, T2VTrainConfig)
    with (videos / CAPTION_FILE).open(newline="", encoding="utf-8") as file:
        captions = [row["caption"] for row in csv.DictReader(file)]
    chosen = [captions[number] for number in (0, 3, 4, 9, 5, 6)]
    assert len(set(chosen)) > 3
    rows, mask = assembly.caption_encoder(cfg).encode(chosen)
    found = {name: value.reshape(6, *value.shape[2:]) for name, value in plain.items()}
    np.testing.assert_array_equal(found["encoder_attention_mask"], mask)
    np.testing.assert_array_equal(found["encoder_hidden_states"], rows * mask[..., None])


def test_a_dropped_clip_sees_the_empty_prompt_under_the_mask_of_its_caption(
    t2v_arguments: list[str], plain: dict[str, np.ndarray]
) -> None:
    cfg = config.load(TrainConfig, t2v_arguments[1], [*t2v_arguments[2:], "loop.output=x"])
    assert isinstance(cfg, T2VTrainConfig)
    null = assembly.caption_encoder(cfg).encode([""])[0][0]
    dropped = conditions(t2v_arguments, dropout=1.0)
    mask = plain["encoder_attention_mask"]
    np.testing.assert_array_equal(dropped["encoder_attention_mask"], mask)
    np.testing.assert_array_equal(dropped["encoder_hidden_states"], null * mask[..., None])
    assert not np.array_equal(dropped["encoder_hidden_states"], plain["encoder_hidden_states"])


def test_a_streamed_encoder_gives_the_same_embeddings(
    t2v_arguments: list[str], plain: dict[str, np.ndarray]
) -> None:
    streamed = conditions(t2v_arguments, "streamed_text_encoder=true")
    expected = plain["encoder_hidden_states"]
    error = np.abs(streamed["encoder_hidden_states"] - expected).max() / np.abs(expected).max()
    assert error <= 1e-5


def test_captions_that_were_encoded_before_give_the_same_embeddings(
    t2v_arguments: list[str], plain: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Without text encoder and tokenizer, in an order of lines of the recipe's own."""
    cache = [f"caption_cache.path={tmp_path / 'captions'}", "caption_cache.dtype=float32"]
    encode.main([*t2v_arguments, "loop.output=x", *cache])
    cached = conditions(t2v_arguments, *cache, "text_encoder=''", "tokenizer=''")
    assert cached.keys() == plain.keys()
    np.testing.assert_array_equal(cached["encoder_attention_mask"], plain["encoder_attention_mask"])
    # Encoded in other groups: products of other sizes round otherwise.
    expected = plain["encoder_hidden_states"]
    error = np.abs(cached["encoder_hidden_states"] - expected).max()
    assert error <= 1e-5 * np.abs(expected).max()


@pytest.mark.slow
def test_a_run_on_both_caches_needs_no_video_autoencoder_or_text_encoder(
    t2v_arguments: list[str], videos: Path, tmp_path: Path
) -> None:
    caches = [f"{kind}_cache.path={tmp_path / kind}" for kind in ("latent", "caption")]
    encode.main([*t2v_arguments, "loop.output=x", *caches])
    left_out = [f"{key}=''" for key in ("data.path", "vae", "text_encoder", "tokenizer")]
    left_out += [f"data.captions={videos / CAPTION_FILE}"]
    last = trained([*t2v_arguments, *caches, *left_out], tmp_path / "run", 3)
    assert {path.name for path in last.iterdir()} >= set(FILES)
    assert len(read_history(last.parents[1] / "history.csv")) == 3


@pytest.mark.slow
def test_text_to_image_leaves_the_temporal_blocks(
    t2v_arguments: list[str], videos: Path, tmp_path: Path
) -> None:
    """On captioned images, with recomputed blocks and the options of the loss."""
    lines = []
    for number in range(4):
        name, caption = f"a/{number}.png", f"a {('red', 'blue')[number % 2]} star"
        (tmp_path / "a").mkdir(exist_ok=True)
        frames = np.random.default_rng(number).integers(0, 256, (40, 48, 3), np.uint8)
        Image.fromarray(frames).save(tmp_path / name)
        lines.append(json.dumps({"path": name, "caption": caption}) + "\n")
    (tmp_path / "images.jsonl").write_text("".join(lines))
    images = [f"data.path={tmp_path}", f"data.captions={tmp_path / 'images.jsonl'}"]
    images += ["data.kind=images", "data.num_frames=1", "data.num_joint_images=0"]
    images += ["enable_temporal_attentions=false", "network.video_length=4"]
    images += ["recompute=all", "diffusion.min_snr_gamma=5", "diffusion.contrastive_weight=0.05"]
    images += ["diffusion.timestep_sampling=loss_aware"]
    checkpoint = trained([*t2v_arguments, *images], tmp_path / "run", 3)
    start = initial(checkpoint, tmp_path)
    for name, value in load_file(checkpoint / "model.safetensors").items():
        same = name.startswith("temporal_transformer_blocks") or name.endswith("to_k.bias")
        assert np.array_equal(value, start[name]) == same, name


@pytest.mark.slow
def test_the_checkpoint_samples(whole: Path, tmp_path: Path) -> None:
    """From a pipeline's folder made of the run; the scheduler expects the sample, as trained."""
    folder = tmp_path / "pipeline"
    assert make_pipeline.main(["--checkpoint", str(whole), "--target", str(folder)]) == 0
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["prediction_type"] == "sample"
    theirs = diffusers.LatteTransformer3DModel.from_pretrained(folder / "transformer")
    ema = load_file(whole / "ema.safetensors")
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    assert all(np.array_equal(state[name], value) for name, value in ema.items())
    for transformer in (whole, ""):
        output = tmp_path / f"out{bool(transformer)}"
        sample_t2v.main(
            [
                *("--config", str(ROOT / "configs" / "t2v" / "t2v.yaml")),
                *(f"pipeline={folder}", f"transformer='{transformer}'", "prompts=[]"),
                *("prompt=a red star moving up", "temporal_decoder=false", "height=32", "width=32"),
                *("num_inference_steps=2", "video_length=4", f"output={output}", "formats=[png]"),
                "runtime.jit_level=O0",
            ]
        )
    (first,), (second,) = (list((tmp_path / f"out{k}").glob("*.png")) for k in (True, False))
    assert first.name == "a_red_star_moving_up_seed0.png"
    with Image.open(first) as image:
        assert image.size == (128, 32), "four frames side by side"
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.captions=''"], "`data.captions` must be given for `model` LatteT2V"),
        (["data.captions=/none.csv"], "`captions` is not a file: /none.csv"),
        (["tokenizer=''"], "`tokenizer` must be given for `model` LatteT2V"),
        (["initial_weights=/none"], "`initial_weights` is not a file or folder: /none"),
        (["text_encoder=/none"], "/none"),
        (["network.caption_channels=32"], "(=32) must be the `d_model` of `text_encoder` (=64)"),
        (
            ["data.text_embeddings=a.safetensors"],
            "Give one of `data.captions` and `data.text_emb",
        ),
        (["model=Latte2"], "`model` must be one of"),
        (["model=Latte"], "Unknown key 'text_encoder'"),
        (["data.image_size=30"], "`data.image_size` (=30) must be divisible by"),
        (["enable_temporal_attentions=false"], "needs `data.num_frames` 1 and no joint"),
        (["network.video_length=5"], "`data.num_frames` (=4) must equal `network.video_length`"),
        (["network.out_channels=6"], "`network.out_channels` must be `network.in_channels` (=4)"),
        (["initial_partial=true"], "`initial_partial` (=True) needs `initial_weights`"),
    ],
)
def test_a_mistake_ends_the_script_before_any_work(
    t2v_arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    message: str,
) -> None:
    refused([*t2v_arguments, *overrides], tmp_path, capsys, message)


def test_a_caption_without_a_video_is_named_with_its_line(
    t2v_arguments: list[str], videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = (videos / CAPTION_FILE).read_text(encoding="utf-8")
    path = tmp_path / "captions.csv"
    path.write_text(table + "0_east/none.mp4,a star\n", encoding="utf-8")
    arguments = [*t2v_arguments, f"data.captions={path}"]
    refused(arguments, tmp_path, capsys, f"`captions` (={path}) must name video files")
    path.write_text(table + "0_east/00000.mp4,\n", encoding="utf-8")
    refused(arguments, tmp_path, capsys, f"`captions` (={path}): Line 18: the caption is empty.")


def refused(
    arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str], message: str
) -> None:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        train.main([*arguments, f"loop.output={folder / 'run'}"])
    assert caught.value.code == 2
    written = capsys.readouterr().err
    assert message in written
    assert not (folder / "run" / "checkpoints").exists()
