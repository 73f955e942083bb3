"""Networks built from a folder that holds their configuration and their weights."""

from pathlib import Path

import mindspore as ms
from mindspore import nn

from latte_ms.text.streaming import StreamedT5Encoder
from latte_ms.text.t5 import T5Encoder
from latte_ms.text.t5_configuration import T5Config
from latte_ms.transformer.latte_t2v import LatteT2V
from latte_ms.transformer.t2v_configuration import LatteT2VConfig
from latte_ms.vae.autoencoder import AutoencoderKL
from latte_ms.vae.configuration import TemporalDecoderConfig, read_config
from latte_ms.vae.temporal_decoder import AutoencoderKLTemporalDecoder
from latte_ms.weights import files, mapping
from latte_ms.weights.cell import load, save
from latte_ms.weights.errors import WeightError, fit_report
from latte_ms.weights.folder import DIFFUSERS_STEM
from latte_ms.weights.maps import T5_ENCODER
from latte_ms.weights.tensors import Tensors

CONFIG = "config.json"


def load_transformer(
    folder: str | Path,
    dtype: ms.Type = ms.float32,
    storage: ms.Type | None = None,
    variant: str | None = None,
    temporal_interpolation: bool = False,
) -> LatteT2V:
    """The text-to-video network in `folder`, in diffusers' layout, ready for evaluation.

    Args:
        folder: holds config.json and diffusion_pytorch_model.safetensors, whole or in shards.
        dtype: type of the matrix products.
        storage: type that the weights are kept in; None keeps them in `dtype`.
        variant: of the files, such as "fp16".
        temporal_interpolation: see `LatteT2V`.
    Raises:
        FileNotFoundError: the folder or its config.json is not there.
        ValueError: it is another model, or its weights do not fit.
    """
    config = LatteT2VConfig.from_json(_config_of(folder, "transformer"))
    network = LatteT2V(config, dtype, None, temporal_interpolation)
    _store_as(network, dtype if storage is None else storage)
    load(network, folder, variant=variant)
    return _for_evaluation(network)


def save_transformer(network: LatteT2V, folder: str | Path, variant: str | None = None) -> None:
    """Write config.json and weights as diffusers' `LatteTransformer3DModel` reads them.

    `variant` goes into the name of the weights' file; their type is the one they are kept in.
    """
    _save(network, folder, variant)


def load_autoencoder(
    folder: str | Path,
    dtype: ms.Type = ms.float32,
    storage: ms.Type | None = None,
    variant: str | None = None,
) -> AutoencoderKL | AutoencoderKLTemporalDecoder:
    """The autoencoder in `folder`, in diffusers' layout, ready for evaluation.

    Args:
        folder: holds config.json, whose `_class_name` tells the kind of autoencoder, and
            diffusion_pytorch_model.safetensors.
        dtype: type of convolutions and matrix products.
        storage: type that the weights are kept in; None keeps them in `dtype`.
        variant: of the files, such as "fp16".
    Raises:
        FileNotFoundError: the folder or its config.json is not there.
        ValueError: it is another model, or its weights do not fit.
    """
    config = read_config(_config_of(folder, "vae"))
    network: AutoencoderKL | AutoencoderKLTemporalDecoder
    if isinstance(config, TemporalDecoderConfig):
        network = AutoencoderKLTemporalDecoder(config, dtype, seed=None)
    else:
        network = AutoencoderKL(config, dtype, seed=None)
    _store_as(network, dtype if storage is None else storage)
    load(network, folder, variant=variant)
    return _for_evaluation(network)


def save_autoencoder(
    network: AutoencoderKL | AutoencoderKLTemporalDecoder,
    folder: str | Path,
    variant: str | None = None,
) -> None:
    """Write config.json and weights as the diffusers class of the same name reads them.

    `variant` goes into the name of the weights' file; their type is the one they are kept in.
    """
    _save(network, folder, variant)


def load_text_encoder(
    folder: str | Path,
    dtype: ms.Type = ms.float32,
    storage: ms.Type | None = None,
    variant: str | None = None,
    streamed: bool = False,
) -> T5Encoder | StreamedT5Encoder:
    """The T5 v1.1 encoder in `folder`, in transformers' layout, ready for evaluation.

    Args:
        folder: holds config.json and model.safetensors, whole or in shards with an index.
        dtype: type of the matrix products; under float16 the last one of each MLP is float32.
        storage: type that the weights are kept in; None keeps them in `dtype`.
        variant: of the files, such as "fp16".
        streamed: leave the weights on disk and read them block by block; `storage` must be None.
    Raises:
        FileNotFoundError: the folder or its config.json is not there.
        ValueError: it is another model, or its weights do not fit.
    """
    config = T5Config.from_json(_config_of(folder, "text_encoder"))
    if not streamed:
        network = T5Encoder(config, dtype, storage, seed=None)
        load(network, folder, T5_ENCODER.entry, variant=variant)
        return _for_evaluation(network)
    if storage is not None:
        raise ValueError(f"`storage` must be None for a streamed text encoder, got {storage}.")
    tensors = mapping.to_memory(files.read(folder, T5_ENCODER.entry, variant), T5_ENCODER)
    encoder = StreamedT5Encoder(config, tensors, dtype)
    _check_streamed(tensors, encoder.shapes, folder)
    return encoder


def save_text_encoder(
    network: T5Encoder | StreamedT5Encoder, folder: str | Path, variant: str | None = None
) -> None:
    """Write config.json and weights as transformers' `T5EncoderModel` reads them.

    `variant` goes into the name of the weights' file; their type is the one they are kept in.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    network.config.to_json(folder / CONFIG)
    entry = T5_ENCODER.entry
    path = folder if variant is None else folder / f"{entry}.{variant}.safetensors"
    if isinstance(network, T5Encoder):
        save(network, path)
    elif isinstance(network.weights, Tensors):
        files.write(path, {entry: mapping.to_disk(network.weights, T5_ENCODER, {})})
    else:
        raise WeightError("`network` must be one that `load_text_encoder` made, to be saved.")


def _check_streamed(
    tensors: Tensors, shapes: dict[str, tuple[int, ...]], folder: str | Path
) -> None:
    """Raise one WeightError for all tensors that do not fit, before any is read."""
    found = {name: spec.shape for name, spec in tensors.specs.items()}
    wrong = {
        name: f"shape {found[name]} instead of {shape}"
        for name, shape in shapes.items()
        if name in found and found[name] != shape
    }
    missing = [name for name in shapes if name not in found]
    unexpected = [name for name in found if name not in shapes]
    report = fit_report(missing, unexpected, wrong, shapes, found)
    if report:
        raise WeightError(f"{folder} does not fit the network:\n{report}")


def _save(network: nn.Cell, folder: str | Path, variant: str | None) -> None:
    """Write a network in diffusers' layout; its config writes config.json."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    network.config.to_json(folder / CONFIG)
    save(network, folder if variant is None else folder / f"{DIFFUSERS_STEM}.{variant}.safetensors")


def _config_of(folder: str | Path, name: str) -> Path:
    """The config.json in `folder`; `name` is the component's, for the message."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"`{name}` must be a folder with {CONFIG} and weights, as diffusers saves, "
            f"got {folder}."
        )
    return path


def _store_as(network: nn.Cell, storage: ms.Type) -> None:
    """Keep all parameters in `storage`, before they are loaded."""
    for parameter in network.get_parameters():
        if parameter.dtype != storage:
            parameter.set_dtype(storage)


def _for_evaluation(network: nn.Cell) -> nn.Cell:
    network.set_train(False)
    for parameter in network.get_parameters():
        parameter.requires_grad = False
    return network
