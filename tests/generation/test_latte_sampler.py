"""Videos of classes, text embeddings or seeds: each depends on its condition and seed alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor
from PIL import Image

from latte_ms.diffusion.samplers import Step, denoise
from latte_ms.generation.latte_sampler import LatteSampler, SamplerConfig
from latte_ms.generation.previews import Previews
from latte_ms.media import contact_sheet
from latte_ms.transformer.configuration import LatteConfig
from latte_ms.transformer.latte import Latte
from latte_ms.vae.autoencoder import AutoencoderKL
from latte_ms.vae.codec import Codec
from latte_ms.vae.configuration import AutoencoderConfig

LABELS, SEEDS, BATCH = [0, 1, 2, 0, 1], [5, 9, 2, 7, 11], 3
STEPS = 3
CONFIGS = {
    "ddpm": SamplerConfig(method="ddpm", num_steps=STEPS, guidance_scale=3.0),
    "ddim": SamplerConfig(method="ddim", num_steps=STEPS, eta=0.5),
}
BOUND = 1e-6  # of the largest latent


def latte(seed: int = 5, **fields: object) -> Latte:
    defaults = {"input_size": 8, "hidden_size": 16, "depth": 2, "num_heads": 2, "num_frames": 4}
    network = Latte(LatteConfig(**(defaults | {"num_classes": 3} | fields)))  # type: ignore[arg-type]
    rng = np.random.default_rng(seed)
    for parameter in network.trainable_params():  # the initial weights predict zero
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
def pipelines(network: Latte, codec: Codec) -> Callable[[str, int], LatteSampler]:
    """By method and batch size; each is built, and so compiled, once."""
    built: dict[tuple[str, int], LatteSampler] = {}

    def pipeline(method: str, batch_size: int) -> LatteSampler:
        key = (method, batch_size)
        if key not in built:
            built[key] = LatteSampler(network, codec, CONFIGS[method], batch_size)
        return built[key]

    return pipeline


def latents(sampler: LatteSampler, labels: list[int] | None, seeds: list[int]) -> np.ndarray:
    """Denoised latents of one batch."""
    *_, step = denoise(sampler.begin(labels, seeds))
    return step.x.asnumpy()


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("method", ["ddpm", pytest.param("ddim", marks=pytest.mark.slow)])
def test_a_video_depends_on_its_label_and_seed_alone(
    pipelines: Callable[[str, int], LatteSampler], method: str
) -> None:
    three, one = pipelines(method, BATCH), pipelines(method, 1)
    whole = latents(three, LABELS[:3], SEEDS[:3])
    assert np.isfinite(whole).all()
    turned = latents(three, LABELS[2::-1], SEEDS[2::-1])
    assert difference(turned[::-1], whole) <= BOUND
    others = latents(three, [LABELS[0], 2, 2], [SEEDS[0], 99, 100])
    assert difference(others[0], whole[0]) <= BOUND
    for i in range(2):
        assert difference(latents(one, [LABELS[i]], [SEEDS[i]])[0], whole[i]) <= BOUND
    again = latents(three, LABELS[:3], SEEDS[:3])
    np.testing.assert_array_equal(again, whole)
    # Label and seed both matter.
    assert difference(latents(three, [1, 1, 2], SEEDS[:3])[0], whole[0]) > 1e-3
    assert difference(latents(three, LABELS[:3], [6, 9, 2])[0], whole[0]) > 1e-3


@pytest.mark.slow
def test_videos_come_in_order_and_an_incomplete_batch_is_sliced(
    pipelines: Callable[[str, int], LatteSampler],
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


def test_the_caller_sees_every_step(pipelines: Callable[[str, int], LatteSampler]) -> None:
    sampler = pipelines("ddim", BATCH)
    steps: list[Step] = list(denoise(sampler.begin(LABELS[:3], SEEDS[:3])))
    assert [step.index for step in steps] == [0, 1, 2]
    assert [step.timestep for step in steps] == [999, 500, 0]
    assert all(step.x0 is not None for step in steps)
    assert all(step.x.shape == (BATCH, 4, 4, 8, 8) for step in steps)


def test_previews_are_of_the_weights_they_are_given(
    pipelines: Callable[[str, int], LatteSampler], codec: Codec, tmp_path: Path
) -> None:
    """A network that has sampled before takes new values; each sheet is that of a new network."""
    previews = Previews(pipelines("ddpm", BATCH), LABELS, SEEDS, [str(seed) for seed in SEEDS])
    networks = [latte(seed=seed, conditioning="class") for seed in (6, 7)]
    sheets = []
    for number, other in enumerate(networks):
        weights = dict(other.parameters_and_names())
        _, path = previews.write(tmp_path / str(number), weights)
        sheets.append(np.asarray(Image.open(path)))
    assert not np.array_equal(*sheets)
    videos = list(LatteSampler(networks[1], codec, CONFIGS["ddpm"], BATCH)(LABELS, SEEDS))
    np.testing.assert_array_equal(sheets[1], contact_sheet(videos, previews.titles))


def test_guidance(network: Latte, codec: Codec) -> None:
    """Against two runs of the network, combined by hand after one step."""
    options = {"method": "ddim", "num_steps": "ddim4"}
    guided = LatteSampler(network, codec, SamplerConfig(**options, guidance_scale=3.0))
    plain = LatteSampler(network, codec, SamplerConfig(**options))

    def first(sampler: LatteSampler, label: int) -> np.ndarray:
        return next(denoise(sampler.begin([label], [5]))).x.asnumpy()

    null, conditional = first(plain, network.config.null_label), first(plain, 1)
    assert difference(first(guided, 1), null + 3.0 * (conditional - null)) <= 1e-5
    assert difference(conditional, null) > 1e-3


@pytest.mark.slow
def test_guidance_rescale_is_an_option_of_the_sampler(network: Latte, codec: Codec) -> None:
    results = [
        latents(LatteSampler(network, codec, SamplerConfig(**options)), [1], [5])
        for rescale in (0.0, 0.7)
        for options in [{"num_steps": 2, "guidance_scale": 9.0, "guidance_rescale": rescale}]
    ]
    assert difference(results[1], results[0]) > 1e-3
    with pytest.raises(ValueError, match=r"`sampler.guidance_rescale` must be from 0 to 1, got 2"):
        SamplerConfig(guidance_rescale=2.0)


@pytest.mark.slow
def test_text_embeddings(codec: Codec) -> None:
    """Each video follows its embedding; guidance takes the unconditional one."""
    network = latte(conditioning="text", text_tokens=3, text_width=5)
    rows = list(np.random.default_rng(0).standard_normal((3, 3, 5)).astype(np.float32))
    plain = LatteSampler(network, codec, SamplerConfig(num_steps=2), 2)
    both = latents(plain, rows[:2], [1, 2])
    assert difference(latents(plain, [rows[1], rows[0]], [2, 1])[::-1], both) <= BOUND
    assert difference(latents(plain, [rows[2], rows[1]], [1, 2])[0], both[0]) > 1e-3
    config = SamplerConfig(num_steps=2, guidance_scale=4.0)
    guided = LatteSampler(network, codec, config, 2, unconditional=rows[2])
    assert difference(latents(guided, rows[:2], [1, 2]), both) > 1e-3
    same = LatteSampler(network, codec, config, 2, unconditional=rows[0])
    assert difference(latents(same, rows[:2], [1, 2])[0], both[0]) <= 1e-5, (
        "both predictions are equal"
    )
    with pytest.raises(ValueError, match=r"`sampler.guidance_scale` .* needs .*`unconditional`"):
        LatteSampler(network, codec, config)
    with pytest.raises(
        ValueError, match=r"`conditions` must have the shape \(3, 5\) each, got \(3, 4\)"
    ):
        guided([rows[0][:, :4]], [1])


@pytest.mark.slow
def test_a_video_returns_from_its_inversion(codec: Codec) -> None:
    """The error is that of the steps' size, far below what another class makes."""
    network = latte(conditioning="class")
    for parameter in network.trainable_params():  # a smooth function of x, as a trained one is
        parameter.set_data(parameter * 0.3)
    frames = np.random.default_rng(3).uniform(-1, 1, (4, 3, 16, 16)).astype(np.float32)
    clean = codec.encode(frames[None])

    def returned(num_steps: int, label: int) -> float:
        config = SamplerConfig(method="ddim", num_steps=num_steps)
        sampler = LatteSampler(network, codec, config)
        *_, top = denoise(sampler.begin_inversion(frames, 1))
        *_, back = denoise(sampler.begin([label], [0], noise=top.x))
        return difference(back.x.asnumpy(), clean)

    errors = [returned(25, 1), returned(100, 1)]
    assert errors[1] < 0.5 * errors[0]
    assert returned(25, 2) > 10.0 * errors[0]
    with pytest.raises(ValueError, match=r"Inversion needs `sampler.method` ddim"):
        LatteSampler(network, codec, SamplerConfig()).begin_inversion(frames, 1)


def test_without_classes_the_seed_decides(codec: Codec) -> None:
    network = latte(conditioning="none", learn_sigma=False)
    pipeline = LatteSampler(network, codec, SamplerConfig(num_steps=STEPS), 2)
    first, second = latents(pipeline, None, [1, 2]), latents(pipeline, None, [2, 3])
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
def test_fixed_variance_and_clamped_estimates(codec: Codec) -> None:
    network = latte(conditioning="none", learn_sigma=False)
    results = []
    for fields in ({}, {"variance": "fixed_large"}, {"clip_denoised": True}):
        config = SamplerConfig(num_steps=STEPS, **fields)  # type: ignore[arg-type]
        steps = list(denoise(LatteSampler(network, codec, config).begin(None, [1])))
        results.append((steps[-1].x.asnumpy(), [step.x0.asnumpy() for step in steps]))
    (small, free), (large, _), (_, clamped) = results
    assert difference(large, small) > 1e-3
    assert np.abs(free[0]).max() > 1.0
    assert all(np.abs(x0).max() <= 1.0 for x0 in clamped)


@pytest.mark.parametrize(
    ("labels", "seeds", "message"),
    [
        ([0, 3], [1, 2], r"`conditions` must be labels in \[0, 3\), got \[0, 3\]"),
        ([-1], [1], r"`conditions` must be labels in \[0, 3\)"),
        ([0, 1, 2], [1, 2], r"`conditions` \(3\) and `seeds` \(2\) must pair up"),
        (None, [1], r"`conditions` must fit conditioning 'class', got None"),
    ],
)
def test_wrong_labels_are_errors_at_the_call(
    pipelines: Callable[[str, int], LatteSampler],
    labels: list[int] | None,
    seeds: list[int],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        pipelines("ddim", BATCH)(labels, seeds)


def test_an_unconditional_network_takes_no_labels(codec: Codec) -> None:
    pipeline = LatteSampler(latte(conditioning="none"), codec, SamplerConfig(num_steps=2))
    with pytest.raises(ValueError, match="`conditions` must fit conditioning 'none'"):
        pipeline([0], [1])


def test_options_that_do_not_fit_the_network_are_refused(network: Latte, codec: Codec) -> None:
    guided = SamplerConfig(guidance_scale=2.0)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1, got 0"):
        LatteSampler(network, codec, SamplerConfig(), 0)
    with pytest.raises(ValueError, match=r"`network.in_channels` \(=3\) must equal .* \(=4\)"):
        LatteSampler(latte(in_channels=3), codec, SamplerConfig())
    with pytest.raises(ValueError, match=r"`sampler.variance` fixed_large needs"):
        LatteSampler(network, codec, SamplerConfig(variance="fixed_large"))
    for fields in ({"conditioning": "none"}, {"conditioning": "class", "class_dropout_prob": 0.0}):
        with pytest.raises(ValueError, match=r"`sampler.guidance_scale` \(=2.0\) needs"):
            LatteSampler(latte(**fields), codec, guided)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "euler"}, r"`sampler.method` must be one of .*'ddim'.*got 'euler'"),
        ({"num_steps": 0}, r"`sampler.num_steps` must be from 1 .*got 0"),
        ({"num_steps": 1001}, r"`sampler.num_train_steps` \(=1000\), got 1001"),
        (
            {"num_steps": "600,600"},
            r"`sampler.num_steps` '600,600' asks for 600 steps of section 1",
        ),
        ({"num_steps": "ddim600"}, r"`sampler.num_steps` 'ddim600' asks for 600 steps"),
        ({"num_steps": "many"}, r"`sampler.num_steps` must be .* got 'many'"),
        ({"guidance_scale": float("nan")}, r"`sampler.guidance_scale` .* finite, got nan"),
        ({"eta": float("nan"), "method": "ddim"}, r"`sampler.eta` must be from 0 to 1, got nan"),
        ({"variance": "learned"}, r"`sampler.variance` must be one of .*got 'learned'"),
        (
            {"variance": "fixed_large", "method": "ddim"},
            r"fixed_large\) needs `sampler.method` ddpm, got ddim",
        ),
        ({"guidance_scale": 0.5}, r"`sampler.guidance_scale` must be at least 1.* got 0.5"),
        ({"eta": 1.5, "method": "ddim"}, r"`sampler.eta` must be from 0 to 1, got 1.5"),
        ({"eta": 0.5}, r"`sampler.eta` \(=0.5\) needs `sampler.method` ddim, got ddpm"),
        ({"noise_schedule": "quadratic"}, r"quadratic"),
        ({"prediction": "velocity"}, r"`sampler.prediction` must be one of .*got 'velocity'"),
    ],
)
def test_a_sampler_value_out_of_range_is_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplerConfig(**fields)  # type: ignore[arg-type]
