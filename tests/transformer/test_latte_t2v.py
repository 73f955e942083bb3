"""The text-to-video network: recorded outputs, what it refuses, and what reaches what."""

from collections.abc import Callable
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from latte_ms.layers import positions
from latte_ms.transformer.latte_t2v import LatteT2V
from latte_ms.weights.pretrained import load_transformer

# Fixed before looking, relative to the largest reference value.
VALUE, HALF = 1e-5, 5e-3
FRAMES, IMAGES, LENGTH = 3, 2, 5
RNG = np.random.default_rng(0)
Make = Callable[..., LatteT2V]


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


VIDEO = normal(2, 3, FRAMES, 4, 4)
JOINT = normal(2, 3, FRAMES + IMAGES, 4, 4)
TEXT = normal(2, LENGTH, 6)
TEXTS = normal(2, 1 + IMAGES, LENGTH, 6)  # one for the video, one for each image
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], np.int32)
T = Tensor([3, 700], ms.int32)


class TextContext(nn.Cell):
    """What a pipeline compiles once per prompt."""

    def __init__(self, network: LatteT2V) -> None:
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, text: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.text_context(text)


class Denoise(nn.Cell):
    """What a pipeline compiles once and runs at every step."""

    def __init__(self, network: LatteT2V) -> None:
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(
        self, x: Tensor, t: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        return self.network.predict_from_context(x, t, keys, values, mask).transpose(0, 2, 1, 3, 4)


def frames_first(x: np.ndarray) -> Tensor:
    """(B, C, F, H, W) -> (B, F, C, H, W), the layout of `LatteT2V.denoise`."""
    return Tensor(np.ascontiguousarray(x.swapaxes(1, 2)))


def changed(array: np.ndarray, *place: int | slice) -> np.ndarray:
    """A copy with other values at `place`."""
    other = array.copy()
    other[place] += normal(*other[place].shape)
    return other


def equal_frames(one: np.ndarray, other: np.ndarray, video: int = 0) -> list[bool]:
    """Per frame and image of one video: do both results agree in it exactly?"""
    return [bool((one[video, :, i] == other[video, :, i]).all()) for i in range(one.shape[2])]


def run(network: LatteT2V, x: np.ndarray, text: np.ndarray, *rest: Tensor) -> np.ndarray:
    return network(Tensor(x), T, Tensor(text), *rest).asnumpy()


# Recorded outputs of diffusers.


@pytest.fixture(scope="module")
def arrays(reference: Path) -> dict[str, np.ndarray]:
    with np.load(reference / "t2v" / "transformer.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def recorded(reference: Path) -> LatteT2V:
    return load_transformer(reference / "t2v" / "transformer")


@pytest.mark.slow
def test_video(recorded: LatteT2V, arrays: dict[str, np.ndarray], error: Callable) -> None:
    x, t, text = (Tensor(arrays[name]) for name in ("tr_x", "tr_t", "tr_text"))
    found = recorded(x, t, text)
    assert found.dtype == ms.float32
    assert error(found.asnumpy(), arrays["tr_out"]) <= VALUE
    spatial = recorded(x, t, text, enable_temporal_attentions=False)
    assert error(spatial.asnumpy(), arrays["tr_out_spatial_only"]) <= VALUE


@pytest.mark.slow
def test_single_image(recorded: LatteT2V, arrays: dict[str, np.ndarray], error: Callable) -> None:
    x = Tensor(np.ascontiguousarray(arrays["tr_x"][:, :, :1]))
    found = recorded(x, Tensor(arrays["tr_t"]), Tensor(arrays["tr_text"]))
    assert error(found.asnumpy(), arrays["tr_out_image"]) <= VALUE


@pytest.mark.slow
def test_text_is_projected_once(
    recorded: LatteT2V, arrays: dict[str, np.ndarray], error: Callable
) -> None:
    x, t, text = (Tensor(arrays[name]) for name in ("tr_x", "tr_t", "tr_text"))
    keys, values = TextContext(recorded)(text)
    assert keys.shape == values.shape == (2, 2, 11, 24)  # layers, B, L, D: nothing per frame
    found = Denoise(recorded)(x.swapaxes(1, 2), t, keys, values).asnumpy()
    assert error(found, arrays["tr_out"]) <= VALUE


@pytest.mark.slow
def test_float16(reference: Path, arrays: dict[str, np.ndarray], error: Callable) -> None:
    network = load_transformer(reference / "t2v" / "transformer", ms.float16)
    text = Tensor(arrays["tr_text"].astype(np.float16))
    found = network(Tensor(arrays["tr_x"].astype(np.float16)), Tensor(arrays["tr_t"]), text)
    assert found.dtype == ms.float32
    assert error(found.asnumpy(), arrays["tr_out"]) <= HALF


# What reaches what.


def tokens64(network: LatteT2V, x: np.ndarray, times: np.ndarray, frames: int) -> np.ndarray:
    """Patches, positions of rows and columns, and `times` for the first frames, normalised."""
    b, c, f, h, w = x.shape
    rows, columns, width = h // 2, w // 2, network.config.hidden_size
    weight, bias = network.x_embedder.proj.weight.asnumpy(), network.x_embedder.proj.bias.asnumpy()
    patches = x.transpose(0, 2, 1, 3, 4).reshape(b, f, c, rows, 2, columns, 2)
    patches = patches.transpose(0, 1, 3, 5, 2, 4, 6).reshape(b, f, rows * columns, c * 4)
    tokens = patches.astype(np.float64) @ weight.T + bias
    base = network.config.sample_size // 2
    scale = max(network.config.sample_size // 64, 1)
    grid = [np.arange(n) * base / n / scale for n in (rows, columns)]
    tokens = tokens + positions.sincos_2d(width, *grid)
    tokens[:, :frames] += positions.sincos_1d(width, times)[:, None]
    centred = tokens - tokens.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)


def unpatched(values: np.ndarray, rows: int, columns: int) -> np.ndarray:
    b, f, _, size = values.shape
    values = values.reshape(b, f, rows, columns, 2, 2, size // 4).transpose(0, 6, 1, 2, 4, 3, 5)
    return values.reshape(b, size // 4, f, rows * 2, columns * 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "fields", "times", "frames"),
    [
        pytest.param((2, 3, 3, 4, 4), {}, [0, 1, 2], 3, marks=pytest.mark.slow),
        ((2, 3, 3, 2, 12), {}, [0, 1, 2], 3),  # 1 x 6 tokens in a grid of 2 x 2
        # 4 x 2 in 64 x 64, halved
        pytest.param((1, 3, 3, 8, 4), {"sample_size": 128}, [0, 1, 2], 3, marks=pytest.mark.slow),
        # an image has no temporal position
        pytest.param((2, 3, 1, 4, 4), {}, [0], 0, marks=pytest.mark.slow),
        ((2, 3, 6, 4, 4), {"temporal_interpolation": True}, [0, 0.5, 1, 1.5, 2, 2.5], 6),
        pytest.param(
            (1, 3, 2, 4, 4),
            {"temporal_interpolation": True},
            [0, 1.5],
            2,
            marks=pytest.mark.slow,
        ),
        ((2, 3, 5, 4, 4), {"num_joint_images": 2}, [0, 1, 2], 3),
    ],
)
def test_positions(
    t2v: Make,
    error: Callable,
    shape: tuple[int, ...],
    fields: dict[str, int],
    times: list[float],
    frames: int,
) -> None:
    """Blocks whose results are zero change nothing: the last layer sees the embedded tokens."""
    network = LatteT2V(t2v(**fields).config, temporal_interpolation="temporal" in str(fields))
    for name, parameter in network.parameters_and_names():
        if not name.startswith(("x_embedder", "proj_out")):
            parameter.set_data(Tensor(np.zeros(parameter.shape, np.float32)))
    x = normal(*shape)
    tokens = tokens64(network, x, np.array(times[:frames]), frames)
    last = tokens @ network.proj_out.weight.asnumpy().T + network.proj_out.bias.asnumpy()
    expected = unpatched(last, shape[3] // 2, shape[4] // 2)
    found = network(Tensor(x), T[: shape[0]], Tensor(TEXT[: shape[0]])).asnumpy()
    assert error(found, expected) <= VALUE


def test_masked_tokens_are_not_seen(t2v: Make, error: Callable) -> None:
    network, mask = t2v(), Tensor(MASK)
    masked = run(network, VIDEO, TEXT, mask)
    assert error(masked[0], run(network, VIDEO, TEXT)[0]) <= VALUE
    other = run(network, VIDEO, changed(TEXT, 1, slice(2, 5)), mask)
    np.testing.assert_array_equal(other, masked)


@pytest.mark.slow
def test_masked_tokens_might_as_well_be_cut_off(t2v: Make, error: Callable) -> None:
    """In the network's own graph and in a pipeline's."""
    network = t2v()
    masked = run(network, VIDEO, TEXT, Tensor(MASK))
    cut = run(network, VIDEO, np.ascontiguousarray(TEXT[:, :2]))
    assert error(masked[1], cut[1]) <= VALUE
    keys, values = TextContext(network)(Tensor(TEXT))
    seen = Tensor(MASK.astype(bool))
    result = Denoise(network)(frames_first(VIDEO), T, keys, values, seen).asnumpy()
    assert error(result, masked) <= VALUE


def test_images_go_around_the_temporal_blocks(t2v: Make, error: Callable) -> None:
    network = t2v(num_joint_images=IMAGES)
    before = run(network, JOINT, TEXT)
    image = run(network, changed(JOINT, slice(None), slice(None), FRAMES), TEXT)
    assert equal_frames(before, image) == [True, True, True, False, True]
    frame = run(network, changed(JOINT, slice(None), slice(None), 0), TEXT)
    assert equal_frames(before, frame) == [False, False, False, True, True]
    alone = run(network, np.ascontiguousarray(JOINT[:, :, :FRAMES]), TEXT)
    assert error(before[:, :, :FRAMES], alone) <= VALUE


@pytest.mark.slow
def test_single_images_go_through_the_temporal_blocks(t2v: Make) -> None:
    network = t2v(num_joint_images=IMAGES)
    before = run(network, JOINT, TEXT)
    single = run(network, np.ascontiguousarray(JOINT[:, :, FRAMES : FRAMES + 1]), TEXT)
    assert (before[:, :, FRAMES : FRAMES + 1] != single).any(), "temporal blocks see single images"


@pytest.mark.slow
def test_every_text_acts_on_its_own_frames(t2v: Make) -> None:
    network = t2v(num_joint_images=IMAGES)
    mask = np.ones((2, 1 + IMAGES, LENGTH), np.float32)
    before = run(network, JOINT, TEXTS, Tensor(mask))
    video = run(network, JOINT, changed(TEXTS, 0, 0), Tensor(mask))
    assert equal_frames(before, video) == [False, False, False, True, True]
    image = run(network, JOINT, changed(TEXTS, 0, 2), Tensor(mask))
    assert equal_frames(before, image) == [True, True, True, True, False]
    mask[0, 1, 3:] = 0
    masked = run(network, JOINT, TEXTS, Tensor(mask))
    assert equal_frames(before, masked) == [True, True, True, False, True]


@pytest.mark.slow
def test_one_text_is_the_same_as_equal_texts(t2v: Make, error: Callable) -> None:
    network = t2v(num_joint_images=IMAGES)
    same = np.repeat(TEXT[:, None], 1 + IMAGES, 1)
    assert error(run(network, JOINT, same), run(network, JOINT, TEXT)) <= VALUE


def test_videos_of_a_batch_do_not_see_each_other(t2v: Make) -> None:
    network = t2v()
    before = run(network, VIDEO, TEXT)
    for x, text in ((changed(VIDEO, 1), TEXT), (VIDEO, changed(TEXT, 1))):
        after = run(network, x, text)
        np.testing.assert_array_equal(after[0], before[0])
        assert (after[1] != before[1]).any()
    later = network(Tensor(VIDEO), Tensor([3, 701], ms.int32), Tensor(TEXT)).asnumpy()
    assert equal_frames(before, later) == [True] * 3
    assert equal_frames(before, later, 1) == [False] * 3


def test_fractional_timesteps_are_taken(t2v: Make, error: Callable) -> None:
    network = t2v()
    whole = network(Tensor(VIDEO), Tensor([3.0, 700.0], ms.float32), Tensor(TEXT)).asnumpy()
    assert error(whole, run(network, VIDEO, TEXT)) <= VALUE
    half = network(Tensor(VIDEO), Tensor([3.5, 700.0], ms.float32), Tensor(TEXT)).asnumpy()
    assert equal_frames(whole, half) == [False] * 3


def test_seeds_decide_the_initial_weights(t2v: Make) -> None:
    config = t2v().config
    one, same, other = (LatteT2V(config, seed=seed) for seed in (0, 0, 1))
    name = "temporal_transformer_blocks.0.scale_shift_table"
    values = [dict(n.parameters_and_names()) for n in (one, same, other)]
    assert all((values[0][k].asnumpy() == values[1][k].asnumpy()).all() for k in values[0])
    assert (values[0][name].asnumpy() != values[2][name].asnumpy()).any()
    assert np.abs(one.caption_projection.linear_1.weight.asnumpy()).max() <= 6**-0.5


# What is refused.


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 3, 4, 4), r"`hidden_states` must have .*\(B, 3, F, h, w\), got \(3, 3, 4, 4\)"),
        ((2, 4, 3, 4, 4), r"`hidden_states` must have .*\(B, 3, F, h, w\), got \(2, 4, 3, 4, 4\)"),
        ((2, 3, 3, 4, 5), r"divisible by `patch_size` \(=2\), got 4 and 5"),
        ((2, 3, 5, 4, 4), r"`video_length` \(=3\) frames, .*`num_joint_images` \(=0\).*got 5"),
        ((3, 3, 3, 4, 4), r"`timestep` must have the shape \(3,?\), got \(2,?\)"),
    ],
)
def test_videos_that_do_not_fit(t2v: Make, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(t2v(), np.zeros(shape, np.float32), TEXT)


@pytest.mark.parametrize("shape", [(2, 5, 7), (1, 5, 6), (2, 6), (2, 3, 5, 6)])
def test_texts_that_do_not_fit(t2v: Make, shape: tuple[int, ...]) -> None:
    message = r"`encoder_hidden_states` must have the shape \(2, L, 6\), got \("
    with pytest.raises(ValueError, match=message):
        run(t2v(num_joint_images=IMAGES), VIDEO, np.zeros(shape, np.float32))


def test_masks_and_contexts_that_do_not_fit(t2v: Make) -> None:
    network = t2v()
    with pytest.raises(ValueError, match=r"`encoder_attention_mask` must have .*\(2, 5\), got"):
        run(network, VIDEO, TEXT, Tensor(np.ones((2, 4), np.float32)))
    keys = Tensor(np.zeros((2, 2, LENGTH, 16), np.float32))
    with pytest.raises(ValueError, match=r"`keys` must have the shape \(1, 2, L, 16\), got"):
        Denoise(network)(frames_first(VIDEO), T, keys, keys)
    keys, values = TextContext(network)(Tensor(TEXT))
    with pytest.raises(ValueError, match=r"`values` must have the shape \(1, 2, 5, 16\), got"):
        Denoise(network)(frames_first(VIDEO), T, keys, values[:, :, :3])
    with pytest.raises(ValueError, match=r"`x` must have the shape \(B, F, 3, h, w\), got"):
        Denoise(network)(Tensor(np.zeros((2, FRAMES, 4, 4, 4), np.float32)), T, keys, values)
    with pytest.raises(ValueError, match=r"`mask` must have the shape \(2, 5\), got \(2, 4\)"):
        Denoise(network)(frames_first(VIDEO), T, keys, values, Tensor(np.ones((2, 4), np.int32)))


def test_other_numbers_of_frames_need_interpolation(t2v: Make) -> None:
    x = normal(2, 3, 4, 4, 4)
    with pytest.raises(ValueError, match=r"got 4; a network with `temporal_interpolation` takes"):
        run(t2v(), x, TEXT)


@pytest.mark.slow
def test_other_numbers_of_frames_without_temporal_blocks(t2v: Make) -> None:
    x = normal(2, 3, 4, 4, 4)
    spatial = t2v()(Tensor(x), T, Tensor(TEXT), enable_temporal_attentions=False)
    assert spatial.shape == (2, 6, 4, 4, 4)
