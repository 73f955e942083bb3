"""What a denoiser is conditioned on in a training batch, by the names of its arguments."""

import logging
from typing import Protocol

import numpy as np

from latte_ms.data.captions import CaptionEmbeddings, Captions
from latte_ms.data.datasets import Item
from latte_ms.data.text_embeddings import UNCONDITIONAL, TextEmbeddings
from latte_ms.training.randomness import Draws
from latte_ms.transformer.configuration import LatteConfig

logger = logging.getLogger(__name__)


class ConditionSource(Protocol):
    """Makes the keyword arguments of a denoiser for the B clips of a batch."""

    def __call__(self, item: Item, draws: Draws) -> dict[str, np.ndarray]:
        """The conditions of the clips of `item`; those that `draws.dropped` get the null one."""


def no_conditions(item: Item, draws: Draws) -> dict[str, np.ndarray]:
    """The conditions of an unconditional network."""
    return {}


class LabelConditions:
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

    def __call__(self, item: Item, draws: Draws) -> dict[str, np.ndarray]:
        """int32. Raises ValueError for a label that the network does not have."""
        null, dropped = self.network.null_label, draws.dropped
        labels = {"y": np.where(dropped, null, item["label"]).astype(np.int32)}
        if "image_labels" in item:
            images = np.where(dropped[:, None], null, item["image_labels"])
            labels["y_image"] = images.astype(np.int32)
        for name, values in labels.items():
            self.network.check_labels(values, name)
        return labels


class EmbeddingConditions:
    """Prepared text embeddings (B, text_tokens, text_width) float32 of the clips' captions.

    No caption is dropped where the file has no `unconditional` array.

    Args:
        names: of all videos. Raises ValueError where one has no embedding.
    """

    def __init__(self, embeddings: TextEmbeddings, names: list[str]) -> None:
        embeddings.check_names(names, "data.path")
        self.embeddings, self.names = embeddings, names

    def warn_of_dropout(self, dropout: float) -> None:
        """Log a warning where captions should be dropped and nothing can take their place."""
        if dropout and self.embeddings.unconditional is None:
            logger.warning(
                "%s has no array `%s`: no caption is dropped, although "
                "`network.class_dropout_prob` is %g, and guidance is not learned.",
                *(self.embeddings.path, UNCONDITIONAL, dropout),
            )

    def __call__(self, item: Item, draws: Draws) -> dict[str, np.ndarray]:
        null = self.embeddings.unconditional
        rows = [
            null if drop and null is not None else self.embeddings[self.names[index]]
            for index, drop in zip(item["index"], draws.dropped, strict=True)
        ]
        return {"text_embedding": np.stack(rows)}


class CaptionConditions:
    """Prompt embeddings and masks of the clips' captions, for `LatteT2V`.

    Joint images have their own videos' captions. Of several captions of a video, `draws.choice`
    takes one. A dropped clip sees, with its images, the empty prompt's embedding under the masks of
    their captions: what the unconditional half of guidance sees in sampling.

    Args:
        captions: whose videos are those of the data, in their order.
        embeddings: of `captions.texts`.
    """

    def __init__(self, captions: Captions, embeddings: CaptionEmbeddings) -> None:
        self.captions, self.embeddings = captions, embeddings

    def __call__(self, item: Item, draws: Draws) -> dict[str, np.ndarray]:
        """`encoder_hidden_states` (B, L, E) float32 and `encoder_attention_mask` (B, L) int32.

        With I joint images (B, 1 + I, L, E) and (B, 1 + I, L). Rows of the padding are zero.
        """
        videos, uniform_numbers = item["index"], draws.choice[:, 0]
        if "image_indices" in item:
            images = item["image_indices"]
            videos = np.concatenate([videos[:, None], images], 1)
            uniform_numbers = np.concatenate(
                [uniform_numbers[:, None], draws.choice[:, -images.shape[1] :]], 1
            )
        pairs = zip(videos.flat, uniform_numbers.flat, strict=True)
        numbers = np.array([self.captions.choose(int(v), float(s)) for v, s in pairs])
        rows, mask = self.embeddings(numbers.reshape(videos.shape))
        rows = rows.copy()
        rows[draws.dropped] = self.embeddings.unconditional
        rows *= mask[..., None].astype(rows.dtype)
        return {"encoder_hidden_states": rows, "encoder_attention_mask": mask}


def latte_conditions(
    network: LatteConfig,
    names: list[str],
    num_classes: int,
    embeddings: TextEmbeddings | None = None,
) -> ConditionSource:
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
        return EmbeddingConditions(embeddings, names)
    return (
        LabelConditions(network, num_classes) if network.conditioning == "class" else no_conditions
    )
