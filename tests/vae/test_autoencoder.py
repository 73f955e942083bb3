"""Names, initial weights, precision and shapes of the autoencoder itself."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from latte_ms.vae.autoencoder import AutoencoderKL
from latte_ms.vae.codec import Encode
from latte_ms.vae.configuration import AutoencoderConfig


def count(config: AutoencoderConfig) -> int:
    network = AutoencoderKL(config, seed=None)
    return sum(parameter.size for parameter in network.get_parameters())


def test_parameter_count_is_stable_diffusions() -> None:
    assert count(AutoencoderConfig()) == 83_653_863


def test_attention_and_outer_convolutions_can_be_left_out() -> None:
    small = {"block_out_channels": (8,), "layers_per_block": 1, "norm_num_groups": 2}
    whole = count(AutoencoderConfig(**small))
    attention = 2 * (4 * (8 * 8 + 8) + 2 * 8)
    assert whole - count(AutoencoderConfig(**small, mid_block_add_attention=False)) == attention
    assert whole - count(AutoencoderConfig(**small, use_quant_conv=False)) == 8 * 8 + 8
    assert whole - count(AutoencoderConfig(**small, use_post_quant_conv=False)) == 4 * 4 + 4


def test_initial_weights_are_uniform_within_the_fan_in() -> None:
    config = AutoencoderConfig(block_out_channels=(64,), layers_per_block=1)
    network = AutoencoderKL(config, seed=0)
    weights = {name: p.asnumpy() for name, p in network.parameters_and_names()}
    bound = (64 * 9) ** -0.5
    weight = weights["encoder.mid_block.resnets.0.conv1.weight"]
    assert np.abs(weight).max() <= bound
    np.testing.assert_allclose(weight.std(), bound / np.sqrt(3), rtol=0.02)
    assert np.abs(weights["decoder.mid_block.attentions.0.query.bias"]).max() <= 64**-0.5
    assert (weights["decoder.conv_norm_out.weight"] == 1).all()
    assert (weights["decoder.conv_norm_out.bias"] == 0).all()
    again = AutoencoderKL(config, seed=0).decoder.conv_in.weight.asnumpy()
    np.testing.assert_array_equal(weights["decoder.conv_in.weight"], again)


@pytest.mark.slow
def test_float16_is_near_float32(tiny_autoencoder: AutoencoderKL) -> None:
    half = AutoencoderKL(tiny_autoencoder.config, ms.float16, seed=1)
    rng = np.random.default_rng(0)
    pixels = Tensor(rng.uniform(-1, 1, (2, 3, 8, 8)).astype(np.float32))
    noise = Tensor(rng.standard_normal((2, 4, 4, 4)).astype(np.float32))
    for expected, result in zip(tiny_autoencoder(pixels, noise), half(pixels, noise), strict=True):
        assert result.dtype == ms.float32
        bound = 5e-3 * np.abs(expected.asnumpy()).max()
        np.testing.assert_allclose(result.asnumpy(), expected.asnumpy(), rtol=0, atol=bound)


def test_log_variance_is_clamped(tiny_autoencoder: AutoencoderKL) -> None:
    extreme = AutoencoderKL(tiny_autoencoder.config, seed=1)
    bias = np.float32([0, 0, 0, 0, 1e3, -1e3, 0, 0])
    extreme.quant_conv.bias.set_data(Tensor(bias))
    pixels, ones = Tensor(np.zeros((2, 3, 8, 8), np.float32)), np.ones((2, 4, 4, 4), np.float32)
    encode = Encode(extreme)
    spread = encode(pixels, Tensor(ones)) - encode(pixels, Tensor(0 * ones))
    scale = extreme.config.scaling_factor
    np.testing.assert_allclose(spread.asnumpy()[:, 0] / scale, np.exp(10.0), rtol=1e-5)
    assert np.abs(spread.asnumpy()[:, 1] / scale).max() < 1e-6


def test_indivisible_images_are_refused(tiny_autoencoder: AutoencoderKL) -> None:
    with pytest.raises(ValueError, match="must be divisible by 2"):
        tiny_autoencoder.encode(Tensor(np.zeros((1, 3, 9, 8), np.float32)))
