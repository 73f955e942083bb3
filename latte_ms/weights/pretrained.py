"""Networks from and to folders that hold their config.json and their weights.

Every `load_*` returns a network that is ready for evaluation, and shares these arguments:

    folder: config.json and weights in safetensors, one file or shards with an index, as diffusers
        and transformers save them.
    dtype: compute dtype.
    parameter_dtype: dtype of the parameters in memory; None takes `dtype`.
    variant: of the weight files, such as "fp16".

Each raises FileNotFoundError where the folder or its config.json is missing, and ValueError where
that describes another model, the weights do not fit, or a dtype is not supported.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import mindspore as ms
from mindspore import nn

from latte_ms import runtime
from latte_ms.atomic import atomic_file
from latte_ms.config import read_json
from latte_ms.layers import kernels
from latte_ms.text.streaming import StreamedT5Encoder
from latte_ms.text.t5 import T5Encoder
from latte_ms.text.t5_configuration import T5Config
from latte_ms.transformer.latte_t2v import LatteT2V
from latte_ms.transformer.t2v_configuration import LatteT2VConfig
from latte_ms.vae.autoencoder import AutoencoderKL
from latte_ms.vae.configuration import TemporalDecoderConfig, read_config
from latte_ms.vae.temporal_decoder import AutoencoderKLTemporalDecoder
from latte_ms.weights import files, finite, mapping
from latte_ms.weights.errors import WeightError, located
from latte_ms.weights.maps import T5_ENCODER
from latte_ms.weights.matching import match
from latte_ms.weights.network import load, read_selection, save
from latte_ms.weights.recorded import STATE, read_state
from latte_ms.weights.selection import report_left_out
from latte_ms.weights.tensors import Spec, Tensors

CONFIG = "config.json"
_OF_A_RUN = {"num_joint_images", "num_embeds_ada_norm"}  # fields that another run chooses anew
_SMALL = 1 << 16  # values of a network that takes no time to build
Config = TypeVar("Config")
Autoencoder = AutoencoderKL | AutoencoderKLTemporalDecoder


def load_transformer(
    folder: str | Path,
    dtype: ms.Type = ms.float32,
    parameter_dtype: ms.Type | None = None,
    variant: str | None = None,
    temporal_interpolation: bool = False,
    entry: str = "ema",
) -> LatteT2V:
    """The text-to-video network; see the module for arguments and errors.

    Args:
        folder: may also be a checkpoint of a training run, which records the configuration.
        temporal_interpolation: see `LatteT2V`.
        entry: of a checkpoint, `ema` or `model`.
    """
    _check_dtypes(dtype, parameter_dtype)
    config = transformer_config(folder)
    if not is_checkpoint(folder):
        _check_size(config.min_parameters, folder, variant)
    network = LatteT2V(config, dtype, None, temporal_interpolation)
    _set_parameter_dtype(network, dtype if parameter_dtype is None else parameter_dtype)
    load(network, folder, entry, variant=variant)
    return _for_evaluation(network)


def is_checkpoint(folder: str | Path) -> bool:
    """Whether a folder is a checkpoint of a training run rather than a network's own."""
    folder = Path(folder)
    return (folder / STATE).is_file() and not (folder / CONFIG).is_file()


def transformer_config(folder: str | Path) -> LatteT2VConfig:
    """The configuration of the text-to-video network in a folder, or of a training checkpoint.

    Raises FileNotFoundError or ValueError as `load_transformer`.
    """
    if not is_checkpoint(folder):
        return read_configuration(folder, "transformer", LatteT2VConfig.from_json)
    state = read_state(folder)
    if state is not None and state.lora is not None:
        raise ValueError(
            f"{folder} is a checkpoint of LoRA matrices: give it as `lora`, or merge it into the "
            "weights that it was trained for (tools/merge_lora.py)."
        )
    fields = {} if state is None or state.network is None else state.network
    names = {field.name for field in dataclasses.fields(LatteT2VConfig)}
    if fields.keys() != names:
        raise ValueError(
            f"{folder} must be a checkpoint of LatteT2V, but it is of another network."
        )
    with located(folder):
        return LatteT2VConfig(**fields)


def recorded_sizes(path: str | Path) -> dict[str, Any]:
    """The fields of a `LatteT2VConfig` that a folder of weights to start from records.

    It may be a training checkpoint, a network's folder, or that of PixArt-alpha's network of
    images; anything else records none. Counts of a training run, such as its joint images, are not
    among them. Raises ValueError where the record is damaged, or describes another network.
    """
    folder = Path(path)
    if is_checkpoint(folder):
        config = transformer_config(folder)
    elif (folder / CONFIG).is_file():
        read = partial(LatteT2VConfig.from_json, images=True)
        config = read_configuration(folder, "initial_weights", read)
    else:
        return {}
    fields = dataclasses.asdict(config)
    unknown = _OF_A_RUN
    if not is_checkpoint(folder) and "video_length" not in read_json(folder / CONFIG):
        unknown = unknown | {"video_length"}  # a network of images
    return {name: fields[name] for name in fields.keys() - unknown}


def load_autoencoder(
    folder: str | Path,
    dtype: ms.Type = ms.float32,
    parameter_dtype: ms.Type | None = None,
    variant: str | None = None,
) -> Autoencoder:
    """The autoencoder of the kind that config.json names; see the module for arguments and errors.

    `_class_name` is `AutoencoderKL` or `AutoencoderKLTemporalDecoder`.
    """
    _check_dtypes(dtype, parameter_dtype)
    config = read_configuration(folder, "vae", read_config)
    _check_size(config.min_parameters, folder, variant)
    network: Autoencoder
    if isinstance(config, TemporalDecoderConfig):
        network = AutoencoderKLTemporalDecoder(config, dtype, seed=None)
    else:
        network = AutoencoderKL(config, dtype, seed=None)
    _set_parameter_dtype(network, dtype if parameter_dtype is None else parameter_dtype)
    load(network, folder, variant=variant)
    return _for_evaluation(network)


def load_text_encoder(
    folder: str | Path,
    dtype: ms.Type = ms.float32,
    parameter_dtype: ms.Type | None = None,
    variant: str | None = None,
    streamed: bool = False,
) -> T5Encoder | StreamedT5Encoder:
    """The T5 v1.1 encoder; see the module for arguments and errors.

    Under float16 the last matrix product of each MLP is float32.

    Args:
        streamed: leave the weights on disk and read them block by block; `parameter_dtype` must
            be None.
    """
    _check_dtypes(dtype, parameter_dtype)
    if streamed and parameter_dtype is not None:
        raise ValueError(
            f"`parameter_dtype` must be None for a streamed text encoder, got {parameter_dtype}."
        )
    config = read_configuration(folder, "text_encoder", T5Config.from_json)
    _check_size(config.min_parameters, folder, variant, T5_ENCODER.entry)
    if not streamed:
        network = T5Encoder(config, dtype, parameter_dtype, seed=None)
        load(network, folder, T5_ENCODER.entry, variant=variant)
        return _for_evaluation(network)
    tensors, left_out = read_selection(folder, T5_ENCODER.entry, T5_ENCODER, variant)
    encoder = StreamedT5Encoder(
        config, mapping.to_network_layout(finite.checked(tensors, folder), T5_ENCODER), dtype
    )
    required = {name: Spec(shape, "float32") for name, shape in encoder.shapes.items()}
    match(tensors.specs, tensors.naming, required, T5_ENCODER, {}).require_exact(folder)
    report_left_out(folder, left_out)
    return encoder


def save_pretrained(
    network: LatteT2V | Autoencoder | T5Encoder | StreamedT5Encoder,
    folder: str | Path,
    variant: str | None = None,
    shard_size: int | None = None,
) -> None:
    """Write config.json and weights as the network's class in diffusers or transformers reads them.

    Args:
        network: its weights are written in their parameter dtype.
        folder: created if it is missing; other files in it stay.
        variant: is part of the names of the weight files, such as "fp16".
        shard_size: largest size of a file in bytes; None writes one file.
    Raises:
        WeightError: `network` is not one of these, or is streamed from something other than files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / CONFIG) as partial:
        network.config.to_json(partial)
    if isinstance(network, nn.Cell):
        save(network, folder, variant=variant, shard_size=shard_size)
    elif isinstance(network.weights, Tensors):
        tensors = mapping.to_stored_layout(network.weights, T5_ENCODER, {})
        files.write(folder, {T5_ENCODER.entry: tensors}, shard_size, variant=variant)
    else:
        raise WeightError("`network` must come from `load_text_encoder` to be saved.")


def read_configuration(folder: str | Path, name: str, read: Callable[[Path], Config]) -> Config:
    """The configuration in a network's folder, by its class's `read`.

    Args:
        name: the component's, for the message.
    Raises:
        FileNotFoundError: config.json does not exist.
        ValueError: it is damaged, or describes another model; the message has its path.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"`{name}` must be a folder with {CONFIG} and weights, as diffusers saves, "
            f"got {folder}."
        )
    with located(path):
        return read(path)


def check_dtype(argument: str, value: Any, computes: bool = False) -> None:
    """Raise ValueError, naming `argument`, unless `value` is a supported dtype.

    `computes`: it must also be supported for computation on this backend.
    """
    known = [name for name, dtype in runtime.PRECISIONS.items() if dtype == value]
    if not known:
        raise ValueError(
            f"`{argument}` must be one of {list(runtime.PRECISIONS.values())}, got {value!r}."
        )
    if computes and kernels.on_cpu():
        runtime.check_precision(known[0], "CPU", argument)


def _check_dtypes(dtype: ms.Type, parameter_dtype: ms.Type | None) -> None:
    check_dtype("dtype", dtype, computes=True)
    if parameter_dtype is not None:
        check_dtype("parameter_dtype", parameter_dtype)


def _check_size(
    min_parameters: int, folder: str | Path, variant: str | None, entry: str = "ema"
) -> None:
    """Raise WeightError for a configuration that is far too large for the weights.

    The network would take that memory before it could be compared with them.
    """
    specs = files.read(folder, entry, variant).specs
    present = sum(spec.size for spec in specs.values())
    if min_parameters > 4 * present + _SMALL:
        raise WeightError(
            f"{Path(folder) / CONFIG} asks for at least {min_parameters:,} values, and the weights "
            f"beside it have {present:,}."
        )


def _set_parameter_dtype(network: nn.Cell, dtype: ms.Type) -> None:
    """Set the dtype of all parameters, before they are loaded."""
    for parameter in network.get_parameters():
        if parameter.dtype != dtype:
            parameter.set_dtype(dtype)


def _for_evaluation(network: nn.Cell) -> nn.Cell:
    network.set_train(False)
    for parameter in network.get_parameters():
        parameter.requires_grad = False
    return network
