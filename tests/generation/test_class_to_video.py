"""Videos of classes: each depends on its label and its seed alone."""

from collections.abc import Callable

import numpy as np
import pytest
from mindspore import Tensor

from latte_ms.diffusion.samplers import SamplerStep
from latte_ms.generation.class_to_video import ClassToVideo, SamplerConfig
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.latte import Latte
from latte_ms.vae.autoencoder import AutoencoderKL
from latte_ms.vae.codec import Codec
from latte_ms.vae.configuration import AutoencoderConfig

LABELS, SEEDS, BATCH = [0, 1, 2, 0, 1], [5, 9, 2, 7, 11], 3
STEPS = 3
CONFIGS = {
    "ddpm": SamplerConfig(method="ddpm", num_steps=STEPS, guidance=3.0),
    "ddim": SamplerConfig(method="ddim", num_steps=STEPS, eta=0.5),
}
BOUND = 1e-6  # of the largest latent


def latte(**fields: object) -> Latte:
    defaults = {"input_size": 8, "hidden_size": 16, "depth": 2, "num_heads": 2, "num_frames": 4}
    network = Latte(LatteConfig(**(defaults | {"num_classes": 3} | fields)))  # type: ignore[arg-type]
    rng = np.random.default_rng(5)
    for parameter in network.trainable_params():  # the first weights predict zero
        parameter.set_data(Tensor(rng.normal(0.0, 0.1, parameter.shape).astype(np.float32)))
    return network


@pytest.fixture(scope="module")
def codec() -> Codec:
    config = AutoencoderConfig(block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2)
    return Codec(AutoencoderKL(config, seed=1), frames_per_chunk=4)


@pytest.fixture(scope="module")
def network() -> Latte:
    return latte(conditioning="class")


@pytest.fixture(scope="module")
def pipelines(network: Latte, codec: Codec) -> Callable[[str, int], ClassToVideo]:
    """By method and batch size; each is built, and so compiled, once."""
    built: dict[tuple[str, int], ClassToVideo] = {}

    def pipeline(method: str, batch_size: int) -> ClassToVideo:
        key = (method, batch_size)
        if key not in built:
            built[key] = ClassToVideo(network, codec, CONFIGS[method], batch_size)
        return built[key]

    return pipeline


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("method", CONFIGS)
def test_a_video_depends_on_its_label_and_seed_alone(
    pipelines: Callable[[str, int], ClassToVideo], method: str
) -> None:
    three, one = pipelines(method, BATCH), pipelines(method, 1)
    whole = three.latents(LABELS[:3], SEEDS[:3])
    assert np.isfinite(whole).all()
    turned = three.latents(LABELS[2::-1], SEEDS[2::-1])
    assert difference(turned[::-1], whole) <= BOUND
    others = three.latents([LABELS[0], 2, 2], [SEEDS[0], 99, 100])
    assert difference(others[0], whole[0]) <= BOUND
    for i in range(2):
        assert difference(one.latents([LABELS[i]], [SEEDS[i]])[0], whole[i]) <= BOUND
    again = three.latents(LABELS[:3], SEEDS[:3])
    np.testing.assert_array_equal(again, whole)
    # Label and seed both matter.
    assert difference(three.latents([1, 1, 2], SEEDS[:3])[0], whole[0]) > 1e-3
    assert difference(three.latents(LABELS[:3], [6, 9, 2])[0], whole[0]) > 1e-3


def test_videos_come_in_order_and_an_incomplete_batch_is_cut(
    pipelines: Callable[[str, int], ClassToVideo],
) -> None:
    three = pipelines("ddim", BATCH)
    videos = list(three(LABELS, SEEDS))
    assert len(videos) == 5
    assert all((v.shape, v.dtype) == ((4, 16, 16, 3), np.uint8) for v in videos)
    alone = [next(iter(three([label], [seed]))) for label, seed in zip(LABELS, SEEDS, strict=True)]
    for video, single in zip(videos, alone, strict=True):
        assert np.abs(video.astype(int) - single.astype(int)).max() <= 1
    assert len({video.tobytes() for video in videos}) == 5
    assert list(three([], [])) == []


def test_watch_sees_every_step(pipelines: Callable[[str, int], ClassToVideo]) -> None:
    steps: list[SamplerStep] = []
    list(pipelines("ddim", BATCH)(LABELS, SEEDS, steps.append))
    assert [step.index for step in steps] == [2, 1, 0] * 2
    assert [step.timestep for step in steps] == [999, 500, 0] * 2
    assert all(step.x0.shape == (BATCH, 4, 4, 8, 8) for step in steps)


def test_guidance_of_one_is_no_guidance(
    network: Latte, codec: Codec, pipelines: Callable[[str, int], ClassToVideo]
) -> None:
    plain = ClassToVideo(network, codec, SamplerConfig(num_steps=STEPS), BATCH)
    guided = pipelines("ddpm", BATCH)
    expected = plain.latents(LABELS[:3], SEEDS[:3])
    assert difference(guided.latents(LABELS[:3], SEEDS[:3]), expected) > 1e-3
    scale = guided.guidance
    guided.guidance = np.ones_like(scale)
    try:
        ours = guided.latents(LABELS[:3], SEEDS[:3])
    finally:
        guided.guidance = scale
    assert difference(ours, expected) <= 1e-5


def test_without_classes_the_seed_decides(codec: Codec) -> None:
    network = latte(conditioning="none", learn_sigma=False)
    pipeline = ClassToVideo(network, codec, SamplerConfig(num_steps=STEPS), 2)
    first, second = pipeline.latents(None, [1, 2]), pipeline.latents(None, [2, 3])
    assert difference(second[0], first[1]) <= BOUND
    assert difference(second[0], first[0]) > 1e-3


@pytest.mark.parametrize(
    ("num_steps", "timesteps"),
    [("ddim4", [0, 250, 500, 750]), ("2,1", [0, 499, 500]), (3, [0, 500, 999]), ("3", None)],
)
def test_steps_are_a_number_or_a_respacing(
    num_steps: int | str, timesteps: list[int] | None
) -> None:
    chosen = SamplerConfig(num_steps=num_steps).schedule().timestep_map.tolist()
    assert chosen == (timesteps or [0, 500, 999])


@pytest.mark.slow
def test_a_fixed_variance_and_the_clipping_of_estimates_are_chosen(codec: Codec) -> None:
    network = latte(conditioning="none", learn_sigma=False)
    results = []
    for fields in ({}, {"variance": "fixed_large"}, {"clip_denoised": True}):
        config = SamplerConfig(num_steps=STEPS, **fields)  # type: ignore[arg-type]
        pipeline, steps = ClassToVideo(network, codec, config), []
        results.append((pipeline.latents(None, [1], steps.append), steps))
    (small, free), (large, _), (_, clipped) = results
    assert difference(large, small) > 1e-3
    assert np.abs(free[0].x0.asnumpy()).max() > 1.0
    assert all(np.abs(step.x0.asnumpy()).max() <= 1.0 for step in clipped)


@pytest.mark.parametrize(
    ("labels", "seeds", "message"),
    [
        ([0, 3], [1, 2], r"`labels` must be in \[0, 3\), got \[0, 3\]"),
        ([-1], [1], r"`labels` must be in \[0, 3\)"),
        ([0, 1, 2], [1, 2], r"`labels` \(3\) and `seeds` \(2\) must pair up"),
        (None, [1], r"`labels` must fit conditioning 'class', got None"),
    ],
)
def test_wrong_labels_are_errors_at_the_call(
    pipelines: Callable[[str, int], ClassToVideo],
    labels: list[int] | None,
    seeds: list[int],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        pipelines("ddim", BATCH)(labels, seeds)


def test_an_unconditional_network_takes_no_labels(codec: Codec) -> None:
    pipeline = ClassToVideo(latte(conditioning="none"), codec, SamplerConfig(num_steps=2))
    with pytest.raises(ValueError, match="`labels` must fit conditioning 'none'"):
        pipeline([0], [1])


def test_what_a_network_cannot_do_is_an_error(network: Latte, codec: Codec) -> None:
    guided = SamplerConfig(guidance=2.0)
    with pytest.raises(ValueError, match="not on text"):
        ClassToVideo(latte(conditioning="text"), codec, SamplerConfig())
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        ClassToVideo(network, codec, SamplerConfig(), 0)
    with pytest.raises(ValueError, match=r"`network.in_channels` \(=3\) must equal .* \(=4\)"):
        ClassToVideo(latte(in_channels=3), codec, SamplerConfig())
    with pytest.raises(ValueError, match=r"`sampler.variance` fixed_large needs"):
        ClassToVideo(network, codec, SamplerConfig(variance="fixed_large"))
    for fields in ({"conditioning": "none"}, {"conditioning": "class", "class_dropout_prob": 0.0}):
        with pytest.raises(ValueError, match=r"`sampler.guidance` \(=2.0\) needs"):
            ClassToVideo(latte(**fields), codec, guided)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "euler"}, r"`sampler.method` must be one of .*'ddim'.*got 'euler'"),
        ({"num_steps": 0}, r"`sampler.num_steps` must be from 1 .*got 0"),
        ({"num_steps": 1001}, r"`sampler.num_train_steps` \(=1000\), got 1001"),
        ({"num_steps": "600,600"}, r"`sampler.num_steps` '600,600' wants 600 steps of section 1"),
        ({"num_steps": "ddim600"}, r"`sampler.num_steps` 'ddim600' wants 600 steps"),
        ({"num_steps": "many"}, r"`sampler.num_steps` must be .* got 'many'"),
        ({"guidance": float("nan")}, r"`sampler.guidance` .* finite, got nan"),
        ({"eta": float("nan"), "method": "ddim"}, r"`sampler.eta` must be from 0 to 1, got nan"),
        ({"variance": "learned"}, r"`sampler.variance` must be fixed_small or .*got 'learned'"),
        ({"variance": "fixed_large", "method": "ddim"}, r"fixed_large belongs to method ddpm"),
        ({"guidance": 0.5}, r"`sampler.guidance` must be at least 1.* got 0.5"),
        ({"eta": 1.5, "method": "ddim"}, r"`sampler.eta` must be from 0 to 1, got 1.5"),
        ({"eta": 0.5}, r"`sampler.eta` \(=0.5\) belongs to method ddim"),
        ({"noise_schedule": "quadratic"}, r"quadratic"),
        ({"prediction": "velocity"}, r"`sampler.prediction` must be one of .*got 'velocity'"),
    ],
)
def test_a_sampler_value_out_of_range_is_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplerConfig(**fields)  # type: ignore[arg-type]
