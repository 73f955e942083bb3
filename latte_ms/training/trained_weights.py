"""What a run trains, on disk: the weights of a network, or its LoRA matrices alone."""

from collections.abc import Mapping
from pathlib import Path

from mindspore import Parameter, nn

from latte_ms import adapters, weights
from latte_ms.adapters.cells import has_lora, lora_weights, set_lora_weights
from latte_ms.adapters.files import FILE, write_peft
from latte_ms.weights.errors import located

_PEFT_FOLDER = "lora"


def save(network: nn.Cell, path: Path, parameters: Mapping[str, Parameter] | None = None) -> None:
    """Write the file `path`; `parameters` are written instead of the network's own."""
    if has_lora(network):
        adapters.write(path, lora_weights(network, parameters))
    else:
        weights.save(network, path, parameters=parameters)


def load(network: nn.Cell, path: Path, parameters: Mapping[str, Parameter] | None = None) -> None:
    """Fill the network, or `parameters`, from a file of `save`; raises ValueError if it differs."""
    if has_lora(network):
        with located(path):
            set_lora_weights(network, adapters.read(path), parameters)
    else:
        weights.load(network, path, entry=None, parameters=parameters)


def export_lora(
    network: nn.Cell, parameters: Mapping[str, Parameter], folder: Path, kind: str
) -> Path:
    """Write LoRA matrices where a run ends; returns the file or folder.

    Args:
        parameters: those to write, under the network's names, such as the EMA.
        folder: of the run.
        kind: "diffusers" for `pytorch_lora_weights.safetensors`, "peft" for the folder `lora`.
    """
    lora = lora_weights(network, parameters)
    if kind == "diffusers":
        adapters.write(folder / FILE, lora)
        return folder / FILE
    write_peft(folder / _PEFT_FOLDER, lora)
    return folder / _PEFT_FOLDER
