"""The keys of a training recipe."""

import math
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from latte_ms import config
from latte_ms.training.optimizer import step_factors
from latte_ms.training.recipe import TrainConfig
from latte_ms.training.recompute import num_recomputed
from latte_ms.training.sequence_recipe import check_tokens

RECIPES = Path(__file__).parents[2] / "configs"
SHAPES = RECIPES / "shapes" / "train.yaml"
DIVIDED = ["runtime.distributed=true", "sequence_parallel=2"]
KL = ["diffusion.loss=kl", "diffusion.variance=fixed_large"]

ALIGNED = [
    "diffusion.alignment_weight=0.04",
    "diffusion.alignment_student_blocks=2",
    "diffusion.alignment_teacher_blocks=4",
]
LOGIT_NORMAL = ["diffusion.timestep_sampling=logit_normal"]
OPTIONS_OF_THE_LOSS = (
    ["diffusion.min_snr_gamma=5"],
    ["diffusion.contrastive_weight=0.05"],
    ["diffusion.timestep_sampling=loss_aware"],
    LOGIT_NORMAL,
    [*LOGIT_NORMAL, "diffusion.timestep_logit_mean=0.5"],
    [*LOGIT_NORMAL, "diffusion.timestep_logit_deviation=0.5"],
    ALIGNED,
    [*ALIGNED, "diffusion.alignment_gap=0.2"],
)


def recipe(*overrides: str) -> TrainConfig:
    return config.load(TrainConfig, SHAPES, overrides)


def test_the_variance_is_learned_or_chosen() -> None:
    assert recipe("network.learn_sigma=true").variance == "learned_range"
    assert recipe("diffusion.loss=kl").variance == "fixed_small"
    assert recipe(*KL).variance == "fixed_large"


def test_runs_of_another_network_or_process_differ() -> None:
    plain = recipe().identity
    assert plain == recipe("diffusion.variance=fixed_small").identity
    assert "variance" not in plain["diffusion"]
    for override in ("network.depth=4", "diffusion.prediction=epsilon", "diffusion.loss=kl"):
        assert recipe(override).identity != plain
    for override in OPTIONS_OF_THE_LOSS:
        assert recipe(*override).identity != plain
    recorded = {"num_train_steps", "noise_schedule", "loss", "prediction"}
    assert set(plain["diffusion"]) == recorded, "a checkpoint of an earlier version has only these"
    assert recipe(*KL).identity != recipe("diffusion.loss=kl").identity


@pytest.mark.parametrize(
    ("name", "clip_start_step"),
    [
        ("faceforensics", 500_000),  # 20,000 without images
        ("sky_timelapse", 20_000),
        ("taichi_hd", 500_000),
        ("ucf101", 100_000),
    ],
)
def test_recipes_with_images_differ_from_those_without_in_these_keys(
    name: str, clip_start_step: int
) -> None:
    plain, joint = (
        OmegaConf.create(config.to_yaml(config.load(TrainConfig, RECIPES / name / file)))
        for file in ("train.yaml", "train_images.yaml")
    )
    assert plain.loop.batch_size == 5
    plain.data.num_joint_images = plain.network.num_joint_images = 8
    plain.optimizer.clip_start_step = clip_start_step
    plain.loop.batch_size = 4
    plain.loop.output = f"outputs/{name}_images"
    assert joint == plain


def test_averages_of_lora_matrices_forget_the_zeros_that_these_begin_as() -> None:
    """What is written at the end of a run is the average."""
    files = [path for path in sorted(RECIPES.rglob("*.yaml")) if "\nlora:" in path.read_text()]
    assert len(files) == 3
    for file in files:
        cfg = config.load(TrainConfig, file)
        assert cfg.lora.rank
        decays = (step_factors(cfg.optimizer, n).ema_decays[0] for n in range(cfg.loop.max_steps))
        assert math.prod(decays) < 0.01, file


@pytest.mark.parametrize(("key", "count"), [("num_joint_images", 3), ("num_frames", 5)])
def test_a_count_that_data_and_network_share_is_stated_once(key: str, count: int) -> None:
    for section in ("data", "network"):
        values = {"data": {"path": "x"}, "vae": "v", "loop": {"output": "o"}}
        values.setdefault(section, {})[key] = count
        cfg = config.from_dict(TrainConfig, values)
        assert getattr(cfg.data, key) == getattr(cfg.network, key) == count
    values["data"][key] = count + 1
    message = rf"`data.{key}` \(={count + 1}\) must equal `network.{key}` \(={count}\)"
    with pytest.raises(ValueError, match=message):
        config.from_dict(TrainConfig, values)


def test_a_number_of_blocks_is_recomputed() -> None:
    depth = recipe().network.depth
    values = {
        "recompute=0": 0,
        "recompute=all": depth,
        "recompute=2": 2,
        f"recompute={depth}": depth,
    }
    assert {key: num_recomputed(recipe(key).recompute, depth) for key in values} == values


def test_the_gap_of_the_teacher_is_a_share_of_the_timesteps() -> None:
    assert recipe().diffusion.teacher_gap is None
    assert recipe(*ALIGNED).diffusion.teacher_gap == 100
    assert recipe(*ALIGNED, "diffusion.alignment_gap=1").diffusion.teacher_gap == 999
    assert recipe(*ALIGNED, "diffusion.num_train_steps=50").diffusion.teacher_gap == 5


def test_a_recipe_without_data_is_named() -> None:
    with pytest.raises(ValueError, match=r"Missing required keys: data, loop.output, vae\."):
        config.from_dict(TrainConfig, {"network": {"num_frames": 4}})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["initial_entry=best"], r"`initial_entry` must be one of .* got 'best'"),
        (["vae_chunk_frames=0"], r"`vae_chunk_frames` must be an integer of at least 1, got 0"),
        (["vae_precision=bfloat16"], r"`vae_precision` bfloat16 has no CPU kernels"),
        (["vae_precision=fp16"], r"`vae_precision` must be one of .* got 'fp16'"),
        (["diffusion.variance=beta"], r"diffusion.variance.*beta"),
        (["diffusion.variance=fixed_large"], r"`diffusion.variance` .* `diffusion.loss` is mse"),
        ([*KL, "network.learn_sigma=true"], r"fixed_large needs `network.learn_sigma` false"),
        (
            ["diffusion.timestep_logit_mean=0.5"],
            r"`diffusion.timestep_sampling` must be logit_normal for "
            r"`diffusion.timestep_logit_mean` \(=0.5\), got uniform",
        ),
        (
            [*LOGIT_NORMAL, "diffusion.timestep_logit_deviation=0"],
            r"`diffusion.timestep_logit_deviation` must be",
        ),
        (["diffusion.min_snr_gamma=-1"], r"`diffusion.min_snr_gamma` must be at least 0"),
        (["diffusion.loss=kl", "diffusion.min_snr_gamma=5"], r"must be 0 for `diffusion.loss` kl"),
        (["diffusion.contrastive_weight=2"], r"`diffusion.contrastive_weight` .* below 1.0, got 2"),
        (
            ["diffusion.contrastive_weight=0.05", "loop.batch_size=1"],
            r"`loop.batch_size` must be at least 2 for `diffusion.contrastive_weight`",
        ),
        (["diffusion.timestep_sampling=mine"], r"diffusion.timestep_sampling.*mine"),
        (["diffusion.alignment_weight=0.1"], r"`diffusion.alignment_student_blocks` \(=0\) must"),
        (["diffusion.alignment_gap=0.2"], r"`diffusion.alignment_weight` must be above 0"),
        (["diffusion.alignment_teacher_blocks=3"], r"`diffusion.alignment_weight` must be above 0"),
        ([*ALIGNED, "diffusion.alignment_gap=2"], r"`diffusion.alignment_gap` must be from 0 to 1"),
        (
            [*ALIGNED, "diffusion.alignment_teacher_blocks=11"],
            r"`diffusion.alignment_teacher_blocks` \(=11\) must be at most `network.depth` \(=10\)",
        ),
        (["recompute=11"], r"`recompute` must be all, or a number of blocks from 0 to 10, got 11"),
        (["recompute=some"], r"`recompute` must be all, or .* got 'some'"),
        (["recompute=-1"], r"`recompute` must be all, or .* got -1"),
        (
            ["optimizer.ema_sigma_rels=[0.1]"],
            r"`optimizer.ema_snapshot_every` \(=0\) must be above 0",
        ),
        (["optimizer.ema_sigma_rels=0.1"], r"`optimizer.ema_sigma_rels` must be a list such as"),
        (["optimizer.learning_rate=nan"], r"`optimizer.learning_rate` must be a finite number"),
        (["sequence_parallel=0"], r"`sequence_parallel` must be an integer of at least 1, got 0"),
        (["sequence_parallel=2"], r"`sequence_parallel` \(=2\) needs `runtime.distributed` true"),
        (
            [*DIVIDED, "network.num_frames=7", "data.num_frames=7"],
            r"`sequence_parallel` \(=2\) must divide `network.num_frames`, got 7",
        ),
        (
            [*DIVIDED, "network.input_size=12"],
            r"`sequence_parallel` \(=2\) must divide the tokens of a frame, got 9",
        ),
        (
            [*DIVIDED, "data.num_joint_images=2", "network.num_joint_images=2"],
            r"`data.num_joint_images` must be 0 with `sequence_parallel` \(=2\), got 2",
        ),
        ([*DIVIDED, *ALIGNED], r"`diffusion.alignment_weight` must be 0 with `sequence_parall"),
        (
            [*DIVIDED, "diffusion.timestep_sampling=loss_aware"],
            r"`diffusion.timestep_sampling` must be uniform with `sequence_parallel` .* loss_aware",
        ),
        (
            [*DIVIDED, "lora.rank=4", "initial_weights=x.safetensors"],
            r"`lora.rank` must be 0 with `sequence_parallel` \(=2\), got 4",
        ),
        (
            ["lora.rank=4", "initial_weights=x.safetensors", "initial_partial=true"],
            r"`initial_partial` must be false with a `lora.rank` \(=4\), got true",
        ),
        (
            [
                *("lora.rank=4", "initial_weights=x.safetensors"),
                *("optimizer.ema_sigma_rels=[0.1]", "optimizer.ema_snapshot_every=1"),
            ],
            r"`optimizer.ema_sigma_rels` must be \[\] with a `lora.rank`, got \[0.1\]",
        ),
        (["preview.num_steps=5"], r"`preview.every` must be above 0 for its other keys, got 0"),
        (["data.image_size=0"], r"`data.image_size` must be an integer of at least 1, got 0"),
        (["data.crop=none"], r"`data.crop` must be one of"),
        (["data.kind=images"], r"`data.num_frames` must be 1 for `data.kind` images, got 16"),
    ],
)
def test_a_mistake_is_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(*overrides)


def test_the_frames_of_a_network_on_captions_are_divided() -> None:
    path = SHAPES.with_name("train_t2v.yaml")
    assert config.load(TrainConfig, path, DIVIDED).sequence_parallel == 2
    with pytest.raises(ValueError, match=r"must divide `network.video_length`, got 7"):
        config.load(TrainConfig, path, [*DIVIDED, "data.num_frames=7"])
    images = ["data.num_frames=1", "network.video_length=8"]
    assert config.load(TrainConfig, path, images).data.num_frames == 1
    with pytest.raises(ValueError, match=r"must divide `data.num_frames`, got 1"):
        config.load(TrainConfig, path, [*DIVIDED, *images])


def test_ranks_must_divide_the_tokens_of_latents() -> None:
    check_tokens(2, 6, 8, 2)
    with pytest.raises(ValueError, match=r"\(=2\) must divide the tokens of a frame, got 9"):
        check_tokens(2, 6, 6, 2)
