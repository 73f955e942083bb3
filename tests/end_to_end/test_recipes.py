"""Every training recipe on made data in the layout of its data set: the batches it trains on."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latte_ms import config, weights
from latte_ms.adapters.cells import has_lora
from latte_ms.data.loader import Loader
from latte_ms.data.video_file import read_video
from latte_ms.media import write_mp4
from latte_ms.runtime import Rank
from latte_ms.training import assembly
from latte_ms.training.history import read_history
from latte_ms.training.latents import OnlineLatents
from latte_ms.training.randomness import draw
from latte_ms.training.recipe import LatteTrainConfig, T2VTrainConfig, TrainConfig
from latte_ms.transformer.latte import Latte
from latte_ms.transformer.latte_t2v import LatteT2V
from latte_ms.transformer.t2v_configuration import LatteT2VConfig
from latte_ms.weights.pretrained import save_pretrained
from scripts import sample, train
from tests.transformer.test_variants import ALL, Choice

ROOT = Path(__file__).parents[2]
RECIPES, WEIGHTS = ROOT / "configs", ROOT / "configs" / "shapes" / "weights"
FILES = sorted(str(path.relative_to(RECIPES)) for path in RECIPES.rglob("train*.yaml"))
FRAMES, LENGTH = 3, 8  # of clips and of videos; the recipes' interval of 3 needs 7
T2V = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "sample_size": 8}
LATTE = {"hidden_size": 16, "num_heads": 2, "depth": 2, "input_size": 8, "patch_size": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos in class folders, folders of frames, images; captions of each; text embeddings."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    captions: dict[str, list[dict[str, str]]] = {"videos": [], "images": []}
    for number in range(10):
        frames = rng.integers(0, 256, (LENGTH, 36, 48, 3), np.uint8)
        video = f"{('Archery', 'Surfing')[number % 2]}/v_g{number:02d}.mp4"
        (root / "videos" / video).parent.mkdir(parents=True, exist_ok=True)
        write_mp4(root / "videos" / video, frames)
        folder = root / "frames" / f"a{number % 2}" / f"clip_{number}"
        folder.mkdir(parents=True)
        for index, frame in enumerate(frames):
            Image.fromarray(frame).save(folder / f"{index}.png")
        (root / "images").mkdir(exist_ok=True)
        Image.fromarray(frames[0]).save(root / "images" / f"{number}.jpg")
        captions["videos"].append({"path": video, "caption": f"video {number}"})
        captions["images"].append({"path": f"{number}.jpg", "caption": f"image {number}"})
    for kind, rows in captions.items():
        lines = [json.dumps(row) + "\n" for row in rows]
        (root / f"{kind}.jsonl").write_text("".join(lines), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network in place of Latte-1's and PixArt-alpha's."""
    folder = tmp_path_factory.mktemp("weights") / "transformer"
    fields = LatteT2VConfig(
        **T2V, cross_attention_dim=16, caption_channels=64, out_channels=8, video_length=FRAMES
    )
    save_pretrained(LatteT2V(fields, seed=0), folder)
    return folder


def overrides_of(name: str, data: Path, transformer: Path) -> list[str]:
    """What puts a recipe on the made data, with a small network and the shapes' autoencoder."""
    plain = config.load(TrainConfig, RECIPES / name)
    values: dict[str, object] = {
        "data.path": data / plain.data.kind,
        "data.image_size": 32,
        "data.num_frames": min(FRAMES, plain.data.num_frames),
        "vae": WEIGHTS / "vae",
        "loop.output": data / "run",
        "loop.num_workers": 1,
        "loop.batch_size": 2,
    }
    if isinstance(plain, T2VTrainConfig):
        values |= {"text_encoder": WEIGHTS / "t2v" / "text_encoder"}
        values |= {"tokenizer": WEIGHTS / "t2v" / "tokenizer"}
        values |= {"data.captions": data / f"{plain.data.kind}.jsonl"}
        if plain.initial_weights:
            values |= {"initial_weights": transformer}
        else:
            values |= {f"network.{key}": value for key, value in T2V.items()}
            values |= {"network.patch_size": 2}
    else:
        values |= {f"network.{key}": value for key, value in LATTE.items()}
        values |= {"network.num_frames": FRAMES}
        if isinstance(plain, LatteTrainConfig) and plain.network.temporal_patch_size > 1:
            values |= {"network.temporal_patch_size": FRAMES}
        if plain.initial_weights:
            values |= {"initial_weights": data / "base.safetensors"}
    return [f"{key}={value}" for key, value in values.items()]


def tiny(name: str, data: Path, transformer: Path) -> TrainConfig:
    """The recipe with these overrides; the weights that it starts from are written."""
    overrides = overrides_of(name, data, transformer)
    cfg = config.load(TrainConfig, RECIPES / name, overrides)
    if isinstance(cfg, LatteTrainConfig) and cfg.initial_weights:
        weights.save(Latte(cfg.network), Path(cfg.initial_weights))
    return cfg


NAMES = [name for name in FILES if name != "ucf101/train_text.yaml"]


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_reads_its_data_and_builds_its_network(
    name: str, data: Path, transformer: Path
) -> None:
    """All that training needs before its graphs: a batch of pixels, its conditions, the network."""
    cfg = tiny(name, data, transformer)
    batches = train.build_batches(cfg, Rank())
    loader: Loader = batches.source.loader  # type: ignore[attr-defined]
    item = next(iter(loader.endless(0)))
    images = cfg.data.num_joint_images
    total = cfg.data.num_frames + images
    assert item["video"].shape == (2, total, 3, 32, 32)
    assert batches.shape == (2, total, 4, 8, 8)
    is_text = isinstance(cfg, T2VTrainConfig)
    assert batches.dropout == (cfg.caption_dropout if is_text else cfg.network.class_dropout_prob)
    assert isinstance(batches.source, OnlineLatents)

    conditions = batches.conditions(item, draw(1, 0, batches.shape, 1000, 0.0))
    shapes = {key: value.shape for key, value in conditions.items()}
    prompts = (2, 1 + images) if images else (2,)
    if isinstance(cfg, T2VTrainConfig):
        expected = {
            "encoder_hidden_states": (*prompts, 120, 64),
            "encoder_attention_mask": (*prompts, 120),
        }
    elif cfg.data.classes:
        expected = {"y": (2,)} | ({"y_image": (2, images)} if images else {})
        assert set(conditions["y"].tolist()) <= {0, 1}
    else:
        expected = {}
    assert shapes == expected
    network = assembly.build_network(cfg, report=False)
    assert network.config.num_joint_images == images
    assert has_lora(network) == bool(cfg.lora.rank)


@pytest.mark.extended
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_tried_trained_and_resumed(
    name: str, data: Path, transformer: Path, tmp_path: Path
) -> None:
    """`--dry-run`, two updates, and the same command again for a third."""
    tiny(name, data, transformer)  # for the weights that it starts from
    output = tmp_path / "run"
    arguments = arguments_of(name, overrides_of(name, data, transformer), output)
    with pytest.raises(SystemExit) as ended:
        train.main([*arguments, "--dry-run"])
    assert ended.value.code == 0
    assert not output.exists()
    train_and_resume(arguments, output)


@pytest.mark.extended
@pytest.mark.parametrize("choice", ALL, ids=lambda choice: "-".join(map(str, choice)))
def test_every_combination_of_the_study_is_trained_resumed_and_sampled(
    choice: Choice, data: Path, transformer: Path, tmp_path: Path
) -> None:
    """A variant, patch embedding, injection and positions, on the recipe of variant 1."""
    variant, patches, injection, positions = choice
    name, output = "study/train_variant_1.yaml", tmp_path / "run"
    network = {
        "variant": variant,
        "patch_embedding": patches,
        "temporal_patch_size": FRAMES if patches == "compression" else 1,
        "injection": injection,
        "positions": positions,
        "depth": 4 if variant == 2 else 2,
    }
    overrides = overrides_of(name, data, transformer)
    overrides += [f"network.{key}={value}" for key, value in network.items()]
    train_and_resume(arguments_of(name, overrides, output), output)
    samples = tmp_path / "samples"
    sample.main(
        [
            f"--config={RECIPES / 'faceforensics' / 'sample.yaml'}",
            f"vae={WEIGHTS / 'vae'}",
            f"weights={output / 'checkpoints' / '0000003'}",
            f"output={samples}",
            "num_videos=1",
            "sampler.num_steps=2",
            "runtime.device=CPU",
        ]
    )
    (video,) = samples.rglob("*.mp4")
    assert read_video(video).shape == (FRAMES, 32, 32, 3)


def arguments_of(name: str, overrides: list[str], output: Path) -> list[str]:
    """Of `train.py`."""
    arguments = ["--config", str(RECIPES / name), *overrides, f"loop.output={output}"]
    return [*arguments, "loop.log_every=1", "runtime.device=CPU", "runtime.precision=float32"]


def train_and_resume(arguments: list[str], output: Path) -> None:
    """Two updates, and the same command again for a third."""
    for steps in (2, 3):
        train.main([*arguments, f"loop.max_steps={steps}"])
        rows = read_history(output / "history.csv")
        assert [row["step"] for row in rows] == list(range(1, steps + 1))
        assert all(np.isfinite(row["loss"]) for row in rows)
    assert (output / "checkpoints" / "0000003").is_dir()
