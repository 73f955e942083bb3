"""The whole network: what it refuses, and how frames, images and conditions reach each other.

Its numbers are compared with the reference's outputs in `tests/parity`.
"""

from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from latte_ms.transformer.latte import Latte

# Fixed before looking, relative to the largest reference value.
VALUE, HALF = 1e-5, 5e-3
FRAMES, IMAGES = 3, 2
RNG = np.random.default_rng(0)
VIDEO = RNG.standard_normal((2, FRAMES, 3, 4, 4)).astype(np.float32)
JOINT = RNG.standard_normal((2, FRAMES + IMAGES, 3, 4, 4)).astype(np.float32)
TEXT = RNG.standard_normal((2, 2, 6)).astype(np.float32)
T = Tensor([3, 700], ms.int32)
Make = Callable[..., Latte]


def ints(*values: Any) -> Tensor:
    return Tensor(values, ms.int32)


def changed(array: np.ndarray, *place: int) -> np.ndarray:
    """A copy with other values at `place`."""
    other = array.copy()
    other[place] += RNG.standard_normal(other[place].shape).astype(np.float32)
    return other


def equal_frames(one: np.ndarray, other: np.ndarray) -> list[bool]:
    """Per frame and image: do both videos of the batch agree in it exactly?"""
    return [bool((one[:, i] == other[:, i]).all()) for i in range(one.shape[1])]


# What is refused.


def test_frames_of_another_number_or_size_are_refused(latte: Make) -> None:
    network = latte(num_joint_images=IMAGES)
    with pytest.raises(ValueError, match=r"3 frames, `num_frames` \(=3\).*\(=2\) images, got 4"):
        network(Tensor(JOINT[:, :4]), T)
    wrong = RNG.standard_normal((2, FRAMES, 4, 4, 4)).astype(np.float32)
    with pytest.raises(
        ValueError, match=r"`x` must have .* \(B, F, 3, 4, 4\), got \(2, 3, 4, 4, 4\)"
    ):
        network(Tensor(wrong), T)
    with pytest.raises(
        ValueError, match=r"`x` must have .* \(B, F, 3, 4, 4\), got \(2, 3, 3, 2, 4\)"
    ):
        network(Tensor(VIDEO[:, :, :, :2]), T)
    with pytest.raises(ValueError, match=r"`x` must have .* \(B, F, 3, 4, 4\), got \(3, 3, 4, 4\)"):
        network(Tensor(VIDEO[0]), T)


def test_a_video_network_takes_no_images(latte: Make) -> None:
    with pytest.raises(ValueError, match=r"`num_joint_images` \(=0\) images, got 5"):
        latte()(Tensor(JOINT), T)


def test_timesteps_are_one_per_video(latte: Make) -> None:
    with pytest.raises(ValueError, match=r"`t` must have the shape \(2,?\).*got \(3,?\)"):
        latte()(Tensor(VIDEO), ints(1, 2, 3))


def test_labels_are_required_one_per_video(latte: Make) -> None:
    network = latte(conditioning="class", num_joint_images=IMAGES)
    with pytest.raises(ValueError, match=r"`y` of shape \(2,?\) is required"):
        network(Tensor(VIDEO), T)
    with pytest.raises(ValueError, match=r"`y` must have the shape \(2,?\).*got \(2, 1\)"):
        network(Tensor(VIDEO), T, ints([1], [2]))


def test_images_of_a_class_network_need_labels(latte: Make) -> None:
    network = latte(conditioning="class", num_joint_images=IMAGES)
    with pytest.raises(ValueError, match=r"`y_image` of shape \(2, 2\) is required"):
        network(Tensor(JOINT), T, ints(0, 1))
    with pytest.raises(ValueError, match=r"`y_image` must have the shape \(2, 2\).*got \(2, 1\)"):
        network(Tensor(JOINT), T, ints(0, 1), None, ints([0], [1]))


def test_a_text_network_needs_a_text_of_its_size(latte: Make) -> None:
    network = latte(conditioning="text")
    with pytest.raises(ValueError, match=r"`text_embedding` of shape \(2, 2, 6\) is required"):
        network(Tensor(VIDEO), T)
    with pytest.raises(ValueError, match=r"`text_embedding` must have .* \(2, 2, 6\).*got \(2, 3"):
        network(Tensor(VIDEO), T, None, Tensor(np.zeros((2, 3, 6), np.float32)))


# How frames, images and conditions reach each other.


def normalised_tokens(network: Latte, x: np.ndarray) -> np.ndarray:
    """Patches plus positions, (B, F, N, D), normalised; temporal positions for the frames only."""
    weight = network.x_embedder.proj.weight.asnumpy().astype(np.float64)
    tokens = np.zeros((*x.shape[:2], 4, 16))
    for n in range(4):
        row, column = 2 * (n // 2), 2 * (n % 2)
        patch = x[:, :, :, row : row + 2, column : column + 2]
        tokens[:, :, n] = patch.reshape(*x.shape[:2], -1) @ weight.T
    tokens += network.pos_embed.asnumpy()
    tokens[:, :FRAMES] += network.temp_embed.asnumpy()[0, :, None]
    centred = tokens - tokens.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)


@pytest.mark.parametrize("x", [pytest.param(VIDEO, marks=pytest.mark.slow), JOINT])
def test_positions_are_added_once_and_patches_put_back(
    latte: Make, error: Callable, x: np.ndarray
) -> None:
    """With closed gates a block changes nothing, so the last layer sees the embedded tokens."""
    network = latte(("final_layer.linear",), num_joint_images=IMAGES, depth=4)
    linear = network.final_layer.linear
    tokens = normalised_tokens(network, x)
    values = tokens @ linear.weight.asnumpy().T + linear.bias.asnumpy()
    values = values.reshape(*x.shape[:2], 2, 2, 2, 2, 6)  # row, column, p, q, channel
    expected = np.zeros((*x.shape[:2], 6, 4, 4))
    for row, column, p, q in np.ndindex(2, 2, 2, 2):
        expected[:, :, :, 2 * row + p, 2 * column + q] = values[:, :, row, column, p, q]
    assert error(network(Tensor(x), T).asnumpy(), expected) <= VALUE


def test_images_go_around_the_temporal_blocks(latte: Make) -> None:
    network = latte(num_joint_images=IMAGES)
    before = network(Tensor(JOINT), T).asnumpy()
    image = network(Tensor(changed(JOINT, slice(None), FRAMES)), T).asnumpy()
    assert equal_frames(before, image) == [True, True, True, False, True]
    frame = network(Tensor(changed(JOINT, slice(None), 0)), T).asnumpy()
    assert equal_frames(before, frame) == [False, False, False, True, True]


def test_images_change_nothing_for_the_video(latte: Make, error: Callable) -> None:
    network = latte(num_joint_images=IMAGES)
    alone = network(Tensor(np.ascontiguousarray(JOINT[:, :FRAMES])), T).asnumpy()
    joint = network(Tensor(JOINT), T).asnumpy()
    assert error(joint[:, :FRAMES], alone) <= VALUE


def test_every_label_acts_on_its_own_frames(latte: Make) -> None:
    network = latte(conditioning="class", num_joint_images=IMAGES)
    x, images = Tensor(JOINT), ([0, 1], [2, 3])
    before = network(x, T, ints(0, 1), None, ints(*images)).asnumpy()
    video = network(x, T, ints(4, 5), None, ints(*images)).asnumpy()
    assert equal_frames(before, video) == [False, False, False, True, True]
    image = network(x, T, ints(0, 1), None, ints([0, 4], [2, 5])).asnumpy()
    assert equal_frames(before, image) == [True, True, True, True, False]


def test_videos_of_a_batch_do_not_see_each_other(latte: Make) -> None:
    network = latte(num_joint_images=IMAGES)
    before = network(Tensor(VIDEO), T).asnumpy()
    after = network(Tensor(changed(VIDEO, 1)), T).asnumpy()
    np.testing.assert_array_equal(after[0], before[0])
    assert (after[1] != before[1]).any()


def test_the_timestep_acts(latte: Make) -> None:
    network = latte(num_joint_images=IMAGES)
    one, other = (network(Tensor(VIDEO), ints(3, t)).asnumpy() for t in (700, 701))
    np.testing.assert_array_equal(one[0], other[0])
    assert (one[1] != other[1]).any()


def test_the_last_layer_sees_no_text(latte: Make) -> None:
    """The blocks do: with closed gates the text changes nothing, with open ones it does."""
    x, text, other = Tensor(VIDEO), Tensor(TEXT), Tensor(changed(TEXT, 0))
    closed = latte(("final_layer", "text_projection"), conditioning="text")
    before = closed(x, T, None, text).asnumpy()
    np.testing.assert_array_equal(closed(x, T, None, other).asnumpy(), before)
    assert (closed(x, ints(3, 1), None, text).asnumpy() != before).any()
    full = latte(conditioning="text")
    before, after = full(x, T, None, text).asnumpy(), full(x, T, None, other).asnumpy()
    assert (before[0] != after[0]).any()
    np.testing.assert_array_equal(before[1], after[1])


@pytest.mark.slow
def test_float16_products_stay_near_float32(latte: Make, error: Callable) -> None:
    half, full = latte(dtype=ms.float16, conditioning="class"), latte(conditioning="class")
    y = ints(0, 5)
    found = half(Tensor(VIDEO), T, y)
    assert found.dtype == ms.float32
    assert all(p.dtype == ms.float32 for p in half.get_parameters())
    assert error(found.asnumpy(), full(Tensor(VIDEO), T, y).asnumpy()) <= HALF
