"""CLIPScore (arXiv 2104.08718) of videos: how well their frames fit their prompts."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor

from latte_ms.data.captions import Captions, read_captions
from latte_ms.messages import shown
from latte_ms.metrics.clip import load_clip
from latte_ms.metrics.clip.network import ImageVectors, TextVectors
from latte_ms.metrics.clips import ClipRule, Clips
from latte_ms.metrics.loading import described
from latte_ms.metrics.protocols import ClipProtocol
from latte_ms.metrics.sets import clips_of, kept_features, protocol_of
from latte_ms.progress import progress
from latte_ms.runtime import Rank

SCALE = 100.0  # torchmetrics'; the paper has 2.5
_SEED = re.compile(r"_seed\d+$")  # what `sample_t2v.py` puts behind the words of a prompt


class CLIPDetector:
    """CLIP's vectors of each frame, and of texts.

    Args:
        folder: of CLIP, as transformers saves it.
    Raises:
        Those of `load_clip`.
    """

    def __init__(self, folder: str | Path) -> None:
        loaded = load_clip(folder)
        self._tokenizer, self._prepare = loaded.tokenizer, loaded.prepare
        self._images, self._texts = ImageVectors(loaded.network), TextVectors(loaded.network)
        self._images.set_train(False)
        self._texts.set_train(False)
        self.num_features = loaded.network.config.projection_dim
        self.identity: Mapping[str, str] = {
            "network": "CLIP",
            "weights": described(loaded.weights, loaded.network),
            "preparation": str(dataclasses.astuple(loaded.prepare)),
        }

    def vectors_per_clip(self, num_frames: int) -> int:
        return num_frames

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Vectors (T, E) float32 of frames (T, H, W, 3) uint8."""
        return self._images(Tensor(self._prepare(frames))).asnumpy()

    def texts(self, texts: list[str]) -> np.ndarray:
        """Vectors (N, E) float32 of texts, one after another: one graph serves any number."""
        rows = [self._tokenizer([text]) for text in texts]
        return np.concatenate(
            [
                self._texts(Tensor(ids), Tensor(last)).asnumpy()
                for ids, last in progress(rows, unit="prompt", desc="prompts", leave=False)
            ]
        )


@dataclass(frozen=True)
class CLIPScore:
    """The mean score of the videos, and all that has to agree where two are compared."""

    mean: float
    deviation: float  # over the videos
    videos: dict[str, float]  # by name
    rule: ClipRule
    detector: dict[str, str]
    seed: int
    fingerprint: str  # of the clips
    prompts: str  # SHA-256 of the prompts of all clips, in their order

    def __str__(self) -> str:
        names = f"{self.detector['network']}, {self.detector['weights']}"
        return (
            f"CLIP score {self.mean:.3f} (standard deviation {self.deviation:.3f}): "
            f"{len(self.videos)} generated clips of {self.rule.num_frames} frames, {names}"
        )

    def record(self) -> dict[str, Any]:
        """Plain values, to be written as JSON."""
        return dataclasses.asdict(self)


def clip_score(
    generated: str | Path,
    detector: CLIPDetector,
    captions: str | Path | None = None,
    *,
    protocol: str | ClipProtocol = "latte",
    image_size: int = 0,
    kind: str = "auto",
    seed: int = 0,
    cache: str | Path | None = None,
    rank: Rank | None = None,
) -> CLIPScore:
    """100 max(cos, 0) of a frame and its prompt, averaged over the frames, then over the videos.

    Args:
        captions: CSV or JSONL file of the prompts, as `data.captions` describes it, with paths
            relative to `generated`; of several prompts of a video the mean is taken. None: the
            words of the files' names are the prompts.
        image_size: side of the frames before CLIP's own preparation; 0: as they are.
        others: as of `fvd`; the clips are the generated ones of the protocol.
    Raises:
        ValueError: a video has no prompt.
        others: those of `fvd` and of `read_captions`.
    """
    stated = None if captions is None else read_captions(captions)
    rule = dataclasses.replace(protocol_of(protocol).generated, image_size=image_size)
    clips = clips_of("generated", generated, kind, rule, seed)
    prompts = prompts_of(clips, stated)
    texts = {text: number for number, text in enumerate(dict.fromkeys(sum(prompts, ())))}
    images = unit_vectors(kept_features(clips, detector, cache, rank))
    vectors = unit_vectors(detector.texts(list(texts)))
    scores = {}
    for clip, frames, own in zip(clips.clips, np.split(images, len(clips)), prompts, strict=True):
        cosines = frames @ vectors[[texts[text] for text in own]].T  # (T, prompts)
        scores[clip.name] = float(SCALE * np.maximum(cosines, 0.0).mean())
    values = list(scores.values())
    return CLIPScore(
        float(np.mean(values)),
        float(np.std(values)),
        scores,
        rule,
        dict(detector.identity),
        seed,
        clips.fingerprint(),
        hashlib.sha256(json.dumps(prompts).encode()).hexdigest(),
    )


def prompts_of(clips: Clips, captions: Captions | None) -> list[tuple[str, ...]]:
    """The prompts of each clip. Raises ValueError where there is none."""
    names = [clip.name for clip in clips.clips]
    found: list[tuple[str, ...]]
    if captions is None:
        found = [(prompt_of_name(name),) for name in names]
        without = [name for name, own in zip(names, found, strict=True) if not own[0]]
    else:
        numbers = captions.caption_ids
        found = [tuple(captions.texts[n] for n in numbers.get(name, ())) for name in names]
        without = [name for name, own in zip(names, found, strict=True) if not own]
    if without:
        raise ValueError(
            f"`captions` must have a prompt for each video; {len(without)} have none, such as "
            f"{shown(without[0])}."
        )
    return found


def prompt_of_name(name: str) -> str:
    """The words of a file's name: what `sample_t2v.py` names a video after, without its seed."""
    return _SEED.sub("", Path(name).stem).replace("_", " ").strip()


def unit_vectors(rows: np.ndarray) -> np.ndarray:
    """Rows (N, E) divided by their lengths, float64."""
    wide = rows.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)
