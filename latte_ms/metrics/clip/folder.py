"""CLIP from a folder, as transformers saves it: network, tokenizer and preparation of images."""

from pathlib import Path
from typing import NamedTuple

from latte_ms import weights
from latte_ms.metrics.clip.configuration import CLIPConfig
from latte_ms.metrics.clip.images import ImagePreparation
from latte_ms.metrics.clip.network import CLIP
from latte_ms.metrics.clip.tokenizer import CLIPTokenizer
from latte_ms.weights import WeightError

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


class LoadedCLIP(NamedTuple):
    """A network and what makes its inputs."""

    network: CLIP
    tokenizer: CLIPTokenizer
    prepare: ImagePreparation
    weights: Path


def load_clip(folder: str | Path) -> LoadedCLIP:
    """CLIP with weights in float32.

    Args:
        folder: has config.json, weights (model.safetensors, whole or in shards with their index, or
            pytorch_model.bin), the tokenizer, and mostly preprocessor_config.json.
    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged or describes another model; WeightError, one of them, where
            the weights do not fit.
        MissingExtraError: the package tokenizers is not installed.
    """
    folder = Path(folder)
    path = weights_of(folder)
    config = CLIPConfig.from_json(folder / CONFIG)
    stored = sum(spec.size for spec in weights.read(path).specs.values())
    if config.min_parameters > stored:
        raise WeightError(
            f"{folder / CONFIG} asks for at least {config.min_parameters:,} values, and "
            f"{path.name} has {stored:,}."
        )
    prepare = ImagePreparation.from_folder(folder, config.vision.image_size)
    text = config.text
    tokenizer = CLIPTokenizer(folder, text.max_position_embeddings, text.vocab_size)
    network = CLIP(config)
    network.set_train(False)
    weights.load(network, path)
    return LoadedCLIP(network, tokenizer, prepare, path)


def weights_of(folder: str | Path) -> Path:
    """The file of the weights in a folder of CLIP.

    Raises FileNotFoundError where there is none, or no config.json.
    """
    folder = Path(folder)
    files = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not files or not (folder / CONFIG).is_file():
        raise FileNotFoundError(
            f"`clip_model` must be a folder with {CONFIG} and one of {', '.join(WEIGHTS)}, as "
            f"transformers saves CLIP (such as openai/clip-vit-base-patch32), got {folder}."
        )
    return files[0]
