"""Networks built from a folder that holds their configuration and their weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import mindspore as ms
from mindspore import nn

from latte_ms import runtime
from latte_ms.layers import kernels
from latte_ms.text.streaming import StreamedT5Encoder
from latte_ms.text.t5 import T5Encoder
from latte_ms.text.t5_configuration import T5Config
from latte_ms.transformer.configuration import LatteT2VConfig
from latte_ms.transformer.latte_t2v import LatteT2V
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
Config = TypeVar("Config")


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
        ValueError: it is another model, its weights do not fit, or it cannot have the types.
    """
    _check_types(dtype, storage)
    config = read_configuration(folder, "transformer", LatteT2VConfig.from_json)
    network = LatteT2V(config, dtype, None, temporal_interpolation)
    _store_as(network, dtype if storage is None else storage)
    load(network, folder, variant=variant)
    return _for_evaluation(network)


def save_transformer(
    network: LatteT2V,
    folder: str | Path,
    variant: str | None = None,
    shard_size: int | None = None,
) -> None:
    """Write config.json and weights as diffusers' `LatteTransformer3DModel` reads them.

    `variant` goes into the names of the weights' files, each of at most `shard_size` bytes; their
    type is the one they are kept in.
    """
    _save(network, folder, DIFFUSERS_STEM, variant, shard_size)


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
        ValueError: it is another model, its weights do not fit, or it cannot have the types.
    """
    _check_types(dtype, storage)
    config = read_configuration(folder, "vae", read_config)
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
    shard_size: int | None = None,
) -> None:
    """Write config.json and weights as the diffusers class of the same name reads them.

    `variant` goes into the names of the weights' files, each of at most `shard_size` bytes; their
    type is the one they are kept in.
    """
    _save(network, folder, DIFFUSERS_STEM, variant, shard_size)


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
        ValueError: it is another model, its weights do not fit, or it cannot have the types.
    """
    _check_types(dtype, storage)
    config = read_configuration(folder, "text_encoder", T5Config.from_json)
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
    network: T5Encoder | StreamedT5Encoder,
    folder: str | Path,
    variant: str | None = None,
    shard_size: int | None = None,
) -> None:
    """Write config.json and weights as transformers' `T5EncoderModel` reads them.

    `variant` goes into the names of the weights' files, each of at most `shard_size` bytes; their
    type is the one they are kept in.
    """
    _save(network, folder, T5_ENCODER.entry, variant, shard_size)


def read_configuration(folder: str | Path, name: str, read: Callable[[Path], Config]) -> Config:
    """The configuration in a network's folder, by its class's `read`.

    Args:
        name: the component's, for the message.
    Raises:
        FileNotFoundError: there is no config.json.
        ValueError: it is damaged, or describes another model; the message has its path.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"`{name}` must be a folder with {CONFIG} and weights, as diffusers saves, "
            f"got {folder}."
        )
    with naming(path):
        return read(path)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put `path` in front of the message of a ValueError, unless it is there."""
    try:
        yield
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error


def check_type(argument: str, value: Any, computes: bool = False) -> None:
    """Raise ValueError, naming `argument`, for what is no type of weights.

    `computes`: it is a type that operators work in, and this backend must have them.
    """
    known = [name for name, kind in runtime.PRECISIONS.items() if kind == value]
    if not known:
        raise ValueError(
            f"`{argument}` must be one of {list(runtime.PRECISIONS.values())}, got {value!r}."
        )
    if computes and kernels.on_cpu():
        runtime.check_precision(known[0], "CPU", argument)


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


def _check_types(dtype: ms.Type, storage: ms.Type | None) -> None:
    check_type("dtype", dtype, computes=True)
    if storage is not None:
        check_type("storage", storage)


def _save(
    network: nn.Cell | StreamedT5Encoder,
    folder: str | Path,
    stem: str,
    variant: str | None,
    shard_size: int | None,
) -> None:
    """Write a network in diffusers' layout; its config writes config.json.

    A variant stands behind the stem, but behind the word `index` in the name of an index.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    network.config.to_json(folder / CONFIG)
    entry = stem if variant is None else f"{stem}.{variant}"
    if isinstance(network, nn.Cell):
        save(network, folder, entry, shard_size=shard_size)
    elif isinstance(network.weights, Tensors):
        tensors = mapping.to_disk(network.weights, T5_ENCODER, {})
        files.write(folder, {entry: tensors}, shard_size)
    else:
        raise WeightError("`network` must be one that `load_text_encoder` made, to be saved.")
    if variant is not None:
        index = folder / f"{entry}.safetensors.index.json"
        renamed = folder / f"{stem}.safetensors.index.{variant}.json"
        renamed.unlink(missing_ok=True)  # of shards that are not there any more
        if index.is_file():
            index.rename(renamed)


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
