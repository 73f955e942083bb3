"""The autoencoder with a temporal decoder: parity, precision, files and what is refused."""

import json
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from latte_ms import weights
from latte_ms.vae.codec import Codec
from latte_ms.vae.configuration import AutoencoderConfig, TemporalDecoderConfig, read_config
from latte_ms.vae.temporal_decoder import AutoencoderKLTemporalDecoder, TemporalMidBlock
from latte_ms.weights import mapping
from latte_ms.weights.maps import AUTOENCODER_KL_TEMPORAL_DECODER
from latte_ms.weights.pretrained import load_autoencoder, save_pretrained

WEIGHTS = "diffusion_pytorch_model.safetensors"
RNG = np.random.default_rng(0)
PIXELS = RNG.uniform(-1, 1, (4, 3, 4, 4)).astype(np.float32)
NOISE = RNG.standard_normal((4, 4, 4, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(reference: Path) -> Path:
    """A tiny autoencoder that diffusers saved, with tvae_z and tvae_decode of one video."""
    return reference / "t2v" / "vae_temporal_decoder"


@pytest.mark.slow
def test_diffusers_decode(folder: Path) -> None:
    codec = Codec(load_autoencoder(folder), frames_per_chunk=4)
    with np.load(folder / "io.npz") as arrays:
        latents, expected = arrays["tvae_z"][None], arrays["tvae_decode"][None]
    pixels = codec.decode(latents * np.float32(codec.config.scaling_factor))
    np.testing.assert_allclose(pixels, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_parameter_count_is_latte_1s() -> None:
    """34,163,592 in the encoder, 72 in `quant_conv`, 63,579,183 in the decoder."""
    network = AutoencoderKLTemporalDecoder(TemporalDecoderConfig(), seed=None)
    decoder = sum(parameter.size for parameter in network.decoder.get_parameters())
    encoder = sum(parameter.size for parameter in network.encoder.get_parameters())
    assert (encoder, decoder) == (34_163_592, 63_579_183)


@pytest.fixture(scope="module")
def whole(tiny_temporal: AutoencoderKLTemporalDecoder) -> list[np.ndarray]:
    """Decoded pixels, mean and logarithm of the variance of twice two frames."""
    return [result.asnumpy() for result in tiny_temporal(Tensor(PIXELS), Tensor(NOISE), 2)]


@pytest.mark.slow
def test_several_videos_in_one_call(
    tiny_temporal: AutoencoderKLTemporalDecoder, whole: list[np.ndarray]
) -> None:
    """The whole network, twice two frames, against the codec's video by video."""
    decoded, mean, log_variance = whole
    latents = (mean + np.exp(0.5 * log_variance) * NOISE) * tiny_temporal.config.scaling_factor
    alone = Codec(tiny_temporal, 2).decode(latents.reshape(2, 2, 4, 4, 4))
    np.testing.assert_allclose(decoded.reshape(alone.shape), alone, atol=1e-5)


@pytest.mark.slow
def test_float16(tiny_temporal: AutoencoderKLTemporalDecoder, whole: list[np.ndarray]) -> None:
    half = AutoencoderKLTemporalDecoder(tiny_temporal.config, ms.float16, seed=1)
    for full, result in zip(whole, half(Tensor(PIXELS), Tensor(NOISE), 2), strict=True):
        assert result.dtype == ms.float32
        np.testing.assert_allclose(result.asnumpy(), full, rtol=0, atol=5e-3 * np.abs(full).max())


def test_incomplete_videos_are_refused(tiny_temporal: AutoencoderKLTemporalDecoder) -> None:
    latents = Tensor(np.zeros((3, 4, 4, 4), np.float32))
    with pytest.raises(ValueError, match=r"divisible by `num_frames` \(=2\), got \(3, 4, 4, 4\)"):
        tiny_temporal.decode(latents, 2)


def test_blocks_that_are_never_applied_are_there_to_be_loaded() -> None:
    one, three = (TemporalMidBlock(32, layers, ms.float32) for layers in (1, 3))
    assert len(one.attentions) == len(three.attentions) == 1
    assert (len(one.resnets), len(three.resnets)) == (1, 3)


def test_names_on_disk_are_diffusers(folder: Path, tmp_path: Path) -> None:
    network = load_autoencoder(folder)
    names = [name for name, _ in network.parameters_and_names()]
    assert mapping.map_of_names(names) is AUTOENCODER_KL_TEMPORAL_DECODER
    save_pretrained(network, tmp_path)
    before, after = weights.read(folder / WEIGHTS), weights.read(tmp_path / WEIGHTS)
    assert after.specs == {name: before.specs[name] for name in after.specs}
    assert set(after) == set(before)
    assert all(after[name].tobytes() == before[name].tobytes() for name in before)
    ours, theirs = (json.loads((f / "config.json").read_text()) for f in (tmp_path, folder))
    theirs.pop("_diffusers_version")
    assert ours == theirs


def test_parameter_dtype_and_variant(folder: Path, tmp_path: Path) -> None:
    half = load_autoencoder(folder, parameter_dtype=ms.float16)
    assert {str(p.dtype) for p in half.get_parameters()} == {"Float16"}
    assert half.encoder.conv_in.dtype == ms.float32
    save_pretrained(half, tmp_path, variant="fp16")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.fp16.safetensors",
    ]
    with pytest.raises(ValueError, match="variants `fp16`"):
        load_autoencoder(tmp_path)
    again = load_autoencoder(tmp_path, variant="fp16")
    assert {str(p.dtype) for p in again.get_parameters()} == {"Float32"}
    exact = weights.read(folder / WEIGHTS)["decoder.conv_in.weight"]
    loaded = again.decoder.conv_in.weight.asnumpy()
    np.testing.assert_array_equal(loaded, exact.astype(np.float16))
    half = load_autoencoder(folder, ms.float16)
    assert {str(p.dtype) for p in half.get_parameters()} == {"Float16"}


def test_class_name_tells_the_autoencoder(reference: Path, folder: Path, tmp_path: Path) -> None:
    assert isinstance(read_config(reference / "vae" / "config.json"), AutoencoderConfig)
    config = read_config(folder / "config.json")
    assert config == TemporalDecoderConfig(
        block_out_channels=(32, 32, 32, 32), layers_per_block=1, sample_size=32
    )
    (tmp_path / "config.json").write_text('{"_class_name": "VQModel"}')
    with pytest.raises(ValueError, match=r"'AutoencoderKLTemporalDecoder'\].*is 'VQModel'"):
        load_autoencoder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"`vae` must be a folder with config\.json"):
        load_autoencoder(tmp_path / "nowhere")


def test_channels_must_fit_the_normalisations() -> None:
    with pytest.raises(ValueError, match=r"\(=\(48,\)\) must be divisible by .* \(=32\)"):
        TemporalDecoderConfig(block_out_channels=(48,))
