"""Values that a sampling recipe accepts, and the conditions and seeds that it implies."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from latte_ms import config
from latte_ms.generation.latte_recipe import InversionConfig, LatteRecipe
from latte_ms.generation.latte_sampler import SamplerConfig
from latte_ms.runtime import RuntimeConfig
from latte_ms.training.recipe import LatteTrainConfig, TrainConfig
from latte_ms.transformer.configuration import LatteConfig

ROOT = Path(__file__).parents[2]
CLASSES = LatteConfig(num_classes=8, conditioning="class")
TEXT = LatteConfig(conditioning="text")
PLAIN = ["vae=v", "output=o", "network.conditioning=none"]


def recipe(**fields: Any) -> LatteRecipe:
    defaults = {"weights": "w", "vae": "v", "output": "o", "network": CLASSES}
    return LatteRecipe(**(defaults | fields))


def labels(cfg: LatteRecipe) -> list[Any]:
    return [cfg.condition(name) for name in cfg.condition_names]


def test_one_video_per_listed_class() -> None:
    cfg = recipe(classes=[3, 1, 3], seed=10)
    assert (cfg.count, labels(cfg), cfg.seeds) == (3, [3, 1, 3], [10, 11, 12])


def test_classes_repeat_until_there_are_enough_videos() -> None:
    cfg = recipe(classes=[3, 1], num_videos=5)
    assert labels(cfg) == [3, 1, 3, 1, 3]
    assert len(set(cfg.seeds)) == 5
    assert labels(recipe(classes=[3, 1], num_videos=2)) == [3, 1]


def test_without_a_number_of_videos_one_batch_is_sampled() -> None:
    cfg = recipe(batch_size=3)
    assert (cfg.count, labels(cfg)) == (3, labels(recipe(num_videos=3)))


def test_an_unconditional_inversion_is_one_video() -> None:
    """Its noise is that of the source: a batch would be the same video again and again."""
    fields = {"network": LatteConfig(), "sampler": SamplerConfig(method="ddim"), "batch_size": 3}
    cfg = recipe(**fields, inversion=InversionConfig("a.mp4"))
    assert (cfg.count, labels(cfg), cfg.stems) == (1, [None], ["seed0"])
    assert recipe(**fields).count == 3


def test_labels_that_are_not_listed_are_drawn_from_each_seed() -> None:
    many = labels(recipe(num_videos=400))
    counts = [many.count(label) for label in range(8)]
    assert min(counts) > 25
    assert max(counts) < 80
    later = recipe(num_videos=10, seed=100)
    assert labels(later) == many[100:110], "a label belongs to its seed, not to its place"


def test_balanced_classes_are_all_in_turn() -> None:
    cfg = recipe(balanced_classes=True)
    assert (cfg.count, labels(cfg)) == (8, list(range(8))), "one video of each"
    many = labels(recipe(balanced_classes=True, num_videos=2048))
    assert {many.count(label) for label in range(8)} == {256}


def test_files_are_named_by_condition_and_seed_or_numbered() -> None:
    cfg = recipe(classes=[3, 1], num_videos=3, seed=9)
    assert cfg.stems == ["3_seed9", "1_seed10", "3_seed11"]
    assert recipe(network=LatteConfig(), num_videos=2).stems == ["seed0", "seed1"]
    numbered = recipe(num_videos=10_001, file_names="numbers", seed=9).stems
    assert (numbered[0], numbered[2047], numbered[-1]) == ("0000", "2047", "10000")


@pytest.mark.parametrize("name", ["faceforensics", "sky_timelapse", "taichi_hd", "ucf101"])
def test_recipes_of_2048_videos_in_the_layout_of_the_reference(name: str) -> None:
    cfg = config.load(
        LatteRecipe, ROOT / "configs" / name / "sample_2048.yaml", ["runtime.device=CPU"]
    )
    assert cfg.stems == [f"{number:04d}" for number in range(2048)]
    assert (cfg.files.formats, cfg.files.fps, cfg.files.crf) == (["mp4"], 8.0, 5)
    assert (cfg.sampler.method, cfg.sampler.num_steps) == ("ddpm", 250)
    drawn = {cfg.condition(label) for label in cfg.condition_names}
    assert drawn == (set(range(101)) if name == "ucf101" else {None})
    train = config.load(TrainConfig, ROOT / "configs" / name / "train.yaml")
    assert isinstance(train, LatteTrainConfig)
    assert train.network == cfg.network, "a checkpoint of the training recipe fits"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("formats=[avi]", r"`formats` must be one or more of .*avi"),
        ("formats=[frames,png]", r"`formats` must have at most one of frames and frames_jpg"),
        ("fps=0.0", "`fps` must be above 0 .*got 0.0"),
        ("fps=.inf", "`fps` must be a finite number, got inf"),
        ("crf=52", "`crf` must be at most 51, got 52"),
    ],
)
def test_a_mistake_in_the_files_is_named(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config.load(LatteRecipe, None, ["weights=w.pt", *PLAIN, override])


def test_without_classes_there_are_no_labels() -> None:
    cfg = recipe(network=LatteConfig(), num_videos=3)
    assert (labels(cfg), cfg.seeds) == ([None] * 3, [0, 1, 2])


def test_a_preset_sets_the_sizes_that_are_left_out() -> None:
    overrides = ["weights=w", "vae=v", "output=o", "preset=Latte-S/2", "network.num_frames=8"]
    cfg = config.load(LatteRecipe, None, overrides)
    assert (cfg.network.hidden_size, cfg.network.depth, cfg.network.num_frames) == (384, 12, 8)
    cfg = config.load(LatteRecipe, None, [*overrides, "network.depth=28"])
    assert (cfg.network.hidden_size, cfg.network.depth) == (384, 28)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The record of a training run, without its weights."""
    network = {"depth": 6, "hidden_size": 48, "num_heads": 4, "conditioning": "class"}
    diffusion = {"prediction": "x0", "num_train_steps": 500, "loss": "mse"}
    identity = {"network": network | {"num_classes": 9}, "diffusion": diffusion}
    (tmp_path / "state.json").write_text(json.dumps({"step": 5, "identity": identity}))
    return tmp_path


def test_a_checkpoint_folder_records_its_network(checkpoint: Path) -> None:
    cfg = config.load(LatteRecipe, None, [f"weights={checkpoint}", "vae=v", "output=o"])
    assert (cfg.network.depth, cfg.network.num_classes) == (6, 9)
    assert (cfg.sampler.prediction, cfg.sampler.num_train_steps) == ("x0", 500)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("network.depth=12", r"`network\.depth` \(=12\) must be 6, as the checkpoint"),
        ("preset=Latte-XL/2", r"`network\.\w+` \(=\d+\) must be \d+, as the checkpoint"),
        ("sampler.prediction=epsilon", r"`sampler\.prediction` \(=epsilon\) must be x0"),
    ],
)
def test_a_recipe_does_not_contradict_the_checkpoint(
    checkpoint: Path, override: str, message: str
) -> None:
    same = [f"weights={checkpoint}", "vae=v", "output=o", "network.depth=6"]
    assert config.load(LatteRecipe, None, same).network.hidden_size == 48
    with pytest.raises(ValueError, match=message):
        config.load(LatteRecipe, None, [*same[:3], override])


def test_bfloat16_is_available_on_ascend() -> None:
    cfg = recipe(vae_precision="bfloat16", runtime=RuntimeConfig(device="Ascend"))
    assert cfg.vae_precision == "bfloat16"


@pytest.fixture
def embeddings(tmp_path: Path) -> Path:
    shape = (TEXT.text_tokens, TEXT.text_width)
    rows = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    path = tmp_path / "prompts.safetensors"
    save_file(dict(zip(("a cat", "a dog", "unconditional"), rows, strict=True)), path)
    return path


def test_text_embeddings_are_sampled_by_name(embeddings: Path) -> None:
    cfg = recipe(network=TEXT, text_embeddings=str(embeddings))
    cfg.check_files()
    assert (cfg.count, cfg.condition_names) == (2, ["a cat", "a dog"])
    assert np.shape(cfg.condition("a dog")) == (TEXT.text_tokens, TEXT.text_width)
    assert cfg.embeddings is not None
    assert cfg.embeddings.unconditional is not None
    some = recipe(network=TEXT, text_embeddings=str(embeddings), prompts=["a dog"], num_videos=2)
    assert some.condition_names == ["a dog", "a dog"]
    missing = recipe(network=TEXT, text_embeddings=str(embeddings), prompts=["a cow"])
    with pytest.raises(
        ValueError,
        match=r"Each name of `prompts` must have a text embedding in .*; 1 of 1 have none: a cow",
    ):
        missing.check_files()
    elsewhere = recipe(
        network=TEXT, text_embeddings=str(embeddings), inversion=InversionConfig(embedding="a cow")
    )
    with pytest.raises(ValueError, match=r"`inversion.embedding` must have a text embedding"):
        elsewhere.check_files()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": [1, 2, 3], "num_videos": 2}, r"`num_videos` \(=2\) .* `classes` \(=3\)"),
        ({"classes": [8]}, r"`classes` must be in \[0, 8\), got 8"),
        ({"classes": [-1]}, r"`classes` must be in \[0, 8\), got -1"),
        ({"classes": [1], "network": LatteConfig()}, r"`classes` .* needs .*class"),
        ({"prompts": ["a cat"]}, r"`prompts` .* needs .*text"),
        ({"network": TEXT}, r"`text_embeddings` must name a file .*\(is text\), got ''"),
        ({"text_embeddings": "a"}, r"`text_embeddings` must name a file .*\(is class\), got 'a'"),
        ({"classes": [1], "entry": "best"}, "`entry` must be one of .* got 'best'"),
        ({"classes": [1], "batch_size": 0}, "`batch_size` must be an integer of at least 1, got 0"),
        (
            {"classes": [1], "vae_chunk_frames": 0},
            "`vae_chunk_frames` must be an integer of at least 1, got 0",
        ),
        ({"num_videos": -1}, "`num_videos` must be an integer of at least 0, got -1"),
        ({"classes": [1], "seed": -1}, "`seed` must be an integer of at least 0, got -1"),
        ({"file_names": "dates"}, r"`file_names` must be one of .*, got 'dates'"),
        ({"balanced_classes": True, "classes": [1]}, r"`balanced_classes` needs .* got class and "),
        ({"balanced_classes": True, "network": LatteConfig()}, r"`balanced_classes` .*got none"),
        ({"vae_precision": "fp16"}, r"`vae_precision` must be one of .*float16.* got 'fp16'"),
        ({"vae_precision": "bfloat16"}, r"`vae_precision` bfloat16 has no CPU kernels"),
        (
            {"sampler": SamplerConfig(guidance_scale=2.0), "network": LatteConfig()},
            r"`sampler.guidance_scale` \(=2.0\) needs a conditional network",
        ),
        (
            {"sampler": SamplerConfig(variance="fixed_large")},
            r"`sampler.variance` fixed_large needs `network.learn_sigma` false",
        ),
        (
            {"inversion": InversionConfig("a.mp4")},
            r"`inversion.video` needs `sampler.method` ddim and `sampler.eta` 0",
        ),
        (
            {
                "inversion": InversionConfig("a.mp4", frame_interval=0, label=1),
                "sampler": SamplerConfig(method="ddim"),
                "classes": [1],
            },
            r"`inversion.frame_interval` must be an integer of at least 1, got 0",
        ),
        (
            {"inversion": InversionConfig("a.mp4", label=9)},
            r"`inversion.label` must be in \[0, 8\), got 9",
        ),
        (
            {"inversion": InversionConfig("a.mp4", label=1), "network": LatteConfig()},
            r"`inversion.label` \(=1\) needs `network.conditioning` class, got none",
        ),
        (
            {
                "inversion": InversionConfig("a.mp4", label=1, embedding="a cat"),
                "network": TEXT,
                "text_embeddings": "a",
            },
            r"`inversion.label` \(=1\) needs `network.conditioning` class, got text",
        ),
        (
            {"inversion": InversionConfig(embedding="a cat")},
            r"`inversion.embedding` \(='a cat'\) needs `network.conditioning` text, got class",
        ),
    ],
)
def test_a_mistake_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(**fields)


def test_the_video_to_invert_must_exist() -> None:
    sampler = SamplerConfig(method="ddim")
    cfg = recipe(sampler=sampler, classes=[2], inversion=InversionConfig("nowhere.mp4", label=1))
    with pytest.raises(FileNotFoundError, match=r"`inversion\.video` is not a file: nowhere\.mp4"):
        cfg.check_files()
