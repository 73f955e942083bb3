"""Networks built from a folder that holds their configuration and their weights."""

from pathlib import Path

import mindspore as ms
from mindspore import nn

from latte_ms.vae.autoencoder import AutoencoderKL
from latte_ms.vae.configuration import AutoencoderConfig
from latte_ms.weights.cell import load

CONFIG = "config.json"


def load_autoencoder(folder: str | Path, dtype: ms.Type = ms.float32) -> AutoencoderKL:
    """The autoencoder in `folder`, in diffusers' layout, ready for evaluation.

    Raises:
        FileNotFoundError: the folder or its config.json is not there.
        ValueError: it is another model, or its weights do not fit.
    """
    config = Path(folder) / CONFIG
    if not config.is_file():
        raise FileNotFoundError(
            f"`vae` must be a folder with {CONFIG} and weights, as diffusers saves, got {folder}."
        )
    network = AutoencoderKL(AutoencoderConfig.from_json(config), dtype=dtype)
    load(network, folder)
    return _for_evaluation(network)


def _for_evaluation(network: nn.Cell) -> nn.Cell:
    network.set_train(False)
    for parameter in network.get_parameters():
        parameter.requires_grad = False
    return network
