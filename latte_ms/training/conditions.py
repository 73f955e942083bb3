"""What a denoiser is conditioned on in a training batch, by the names of its arguments."""

from typing import Protocol

import numpy as np

from latte_ms.data.datasets import Item
from latte_ms.data.text_embeddings import TextEmbeddings
from latte_ms.transformer.configuration import LatteConfig


class Conditions(Protocol):
    """Makes the keyword arguments of a denoiser for the B clips of a batch."""

    def __call__(self, item: Item, dropped: np.ndarray) -> dict[str, np.ndarray]:
        """The conditions of the clips of `item`; those `dropped` (B,) bool get the null one."""


def no_conditions(item: Item, dropped: np.ndarray) -> dict[str, np.ndarray]:
    """The conditions of an unconditional network."""
    return {}


class Labels:
    """Labels y (B,) of the clips and y_image (B, n) of their n joint images, if any.

    Args:
        num_classes: of the data. Raises ValueError where the network has fewer.
    """

    def __init__(self, network: LatteConfig, num_classes: int) -> None:
        if num_classes > network.num_classes:
            raise ValueError(
                f"`network.num_classes` (={network.num_classes}) must be at least the number of "
                f"class folders (={num_classes})."
            )
        self.network = network

    def __call__(self, item: Item, dropped: np.ndarray) -> dict[str, np.ndarray]:
        """int32. Raises ValueError for a label that the network does not have."""
        null = self.network.null_label
        labels = {"y": np.where(dropped, null, item["label"]).astype(np.int32)}
        if "image_labels" in item:
            images = np.where(dropped[:, None], null, item["image_labels"])
            labels["y_image"] = images.astype(np.int32)
        for name, values in labels.items():
            self.network.check_labels(values, name)
        return labels


class StoredEmbeddings:
    """Prepared text embeddings (B, text_tokens, text_width) float32 of the clips' captions.

    No caption is dropped where the file has no `unconditional` array.

    Args:
        names: of all videos. Raises ValueError where one has no embedding.
    """

    def __init__(self, embeddings: TextEmbeddings, names: list[str]) -> None:
        embeddings.check_names(names, "data.path")
        self.embeddings, self.names = embeddings, names

    def __call__(self, item: Item, dropped: np.ndarray) -> dict[str, np.ndarray]:
        null = self.embeddings.unconditional
        rows = [
            null if drop and null is not None else self.embeddings[self.names[index]]
            for index, drop in zip(item["index"], dropped, strict=True)
        ]
        return {"text_embedding": np.stack(rows)}


def latte_conditions(
    network: LatteConfig,
    names: list[str],
    num_classes: int,
    embeddings: TextEmbeddings | None = None,
) -> Conditions:
    """The conditions of a `Latte` on the videos `names` of `num_classes` classes.

    Raises ValueError where the network has too few classes, or `embeddings` are missing,
    superfluous, or not those of all videos.
    """
    if (network.conditioning == "text") != (embeddings is not None):
        raise ValueError(
            "`embeddings` must be passed for, and only for, `network.conditioning` text "
            f"(is {network.conditioning})."
        )
    if embeddings is not None:
        return StoredEmbeddings(embeddings, names)
    return Labels(network, num_classes) if network.conditioning == "class" else no_conditions
