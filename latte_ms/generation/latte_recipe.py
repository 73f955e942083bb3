"""The recipe of `scripts/sample.py`: videos of classes, of text embeddings, or of seeds alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING

from latte_ms.config import inline
from latte_ms.data.source_video import check_source_video, read_source_video
from latte_ms.data.text_embeddings import TextEmbeddings
from latte_ms.data.transforms import to_pixel_values, to_square
from latte_ms.generation.latte_sampler import Condition, SamplerConfig
from latte_ms.generation.lora_recipe import LoraOptions
from latte_ms.generation.video_files import VideoFiles
from latte_ms.media import file_stems
from latte_ms.messages import shown
from latte_ms.options import MANY, Rule, check_each, integers, one_of, seed, text
from latte_ms.runtime import RuntimeConfig, check_precision
from latte_ms.transformer.configuration import LatteConfig, with_preset
from latte_ms.weights.recorded import read_state

_LABEL_STREAM = 2  # keeps a label's random stream apart from the noise of its seed
_RULES: dict[str, Rule] = {
    **dict.fromkeys(("weights", "vae", "output"), text),
    "entry": one_of("ema", "model"),
    "num_videos": integers(0, MANY),
    "batch_size": integers(1, 4096),
    "vae_chunk_frames": integers(1, 4096),
    "inversion.frame_interval": integers(1, MANY),
    "seed": seed,
    "file_names": one_of("seeds", "numbers"),
}


@dataclass(frozen=True)
class InversionConfig:
    """A video whose noise, found by DDIM inversion, replaces that of the seeds.

    Seeds do not matter then: `classes` must list those to sample, each once. Without `prompts`
    every text embedding is sampled.
    """

    video: str = ""  # file; empty: no inversion
    frame_interval: int = 1  # take every n-th of its frames, around its middle
    label: int | None = None  # class of the video
    embedding: str = ""  # name of its text embedding


@dataclass(frozen=True)
class LatteRecipe:
    """Everything `scripts/sample.py` reads.

    Raises ValueError where a value or a combination is wrong.
    """

    weights: str = MISSING  # weight file, or the folder of a training checkpoint
    vae: str = MISSING  # folder of the autoencoder in diffusers' layout
    output: str = MISSING  # folder for the videos
    entry: str = "ema"  # or model
    prefix: str = ""  # what the network's names begin with in `weights`, such as "network."
    only_network: bool = False  # leave out what is no part of it, such as an optimizer's state
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    vae_precision: str = "float32"
    vae_chunk_frames: int = 8  # frames encoded or decoded at a time
    preset: str = ""  # a name such as Latte-XL/2: the sizes that `network` leaves out
    network: LatteConfig = field(default_factory=LatteConfig)  # read from a checkpoint folder
    adapters: LoraOptions = inline(LoraOptions)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    # labels to sample, again and again; empty: each video's is drawn from its seed
    classes: list[int] = field(default_factory=list)
    balanced_classes: bool = False  # without `classes`: all of the network's, in turn
    text_embeddings: str = ""  # safetensors file with an array (tokens, channels) per name
    prompts: list[str] = field(
        default_factory=list
    )  # names of the arrays to sample; empty: all of them
    inversion: InversionConfig = field(default_factory=InversionConfig)
    # 0: one per class or prompt listed, or per text embedding; else one of an inversion, or a batch
    num_videos: int = 0
    batch_size: int = 1  # videos denoised together; does not change a video
    seed: int = 0  # video number i has seed + i
    # seeds: 3_seed7 for class 3; numbers: 0000, 0001, ... as the reference numbers its samples
    file_names: str = "seeds"
    files: VideoFiles = inline(VideoFiles)
    # one PNG with frames of the first 32 videos; none beside folders of frames, for one of which
    # it would be taken
    contact_sheet: bool = True

    @staticmethod
    def fill(values: dict[str, Any]) -> dict[str, Any]:
        """Add the sizes of `preset`, and what a checkpoint folder records of its training."""
        source = str(values.get("weights", MISSING))
        stated = values.get("preset") or "conditioning" in (values.get("network") or {})
        if not stated and source != MISSING and not Path(source).exists():
            raise ValueError(
                f"`weights` must be a file or a checkpoint folder, got {shown(source)}. (Without a "
                "checkpoint folder, `preset` or `network.conditioning` must state the network.)"
            )
        values = with_preset(values)
        state = read_state(source)
        if state is not None and "lora" in state.identity:
            raise ValueError(
                f"`weights` ({source}) is a checkpoint of LoRA matrices: give it as `lora`, and "
                "as `weights` those that they were trained for."
            )
        if state is None or state.network is None:
            return values
        diffusion = {
            name: value
            for name, value in (state.diffusion or {}).items()
            if name in ("num_train_steps", "noise_schedule", "prediction")
        }
        return values | {
            "network": _merged("network", values.get("network"), state.network),
            "sampler": _merged("sampler", values.get("sampler"), diffusion),
        }

    def __post_init__(self) -> None:
        object.__setattr__(self, "runtime", self.runtime.resolved())
        check_each(self, _RULES)
        check_precision(self.vae_precision, self.runtime.device, "vae_precision")
        listed = len(self.classes) or len(self.prompts)
        if 0 < self.num_videos < listed:
            name = "classes" if self.classes else "prompts"
            raise ValueError(
                f"`num_videos` (={self.num_videos}) must be at least the number of `{name}` "
                f"(={listed}), or 0 for one video of each."
            )
        self.sampler.check_network(self.network)
        self._check_conditions()
        self._check_inversion()

    def _check_conditions(self) -> None:
        kind, classes = self.network.conditioning, self.network.num_classes
        if self.classes and kind != "class":
            listed = shown(self.classes)
            raise ValueError(
                f"`classes` (={listed}) needs `network.conditioning` class, got {kind}."
            )
        if self.balanced_classes and (kind != "class" or self.classes):
            raise ValueError(
                "`balanced_classes` needs `network.conditioning` class, and no `classes`, "
                f"got {kind} and {shown(self.classes)}."
            )
        source = [] if self.inversion.label is None else [self.inversion.label]
        stated = {"classes": self.classes, "inversion.label": source}
        for name, values in stated.items() if kind == "class" else ():
            wrong = [label for label in values if not 0 <= label < classes]
            if wrong:
                raise ValueError(f"`{name}` must be in [0, {classes}), got {wrong[0]}.")
        if (kind == "text") != bool(self.text_embeddings):
            raise ValueError(
                "`text_embeddings` must name a file for, and only for, `network.conditioning` "
                f"text (is {kind}), got {shown(self.text_embeddings)}."
            )
        if self.prompts and kind != "text":
            raise ValueError(
                f"`prompts` (={shown(self.prompts)}) needs `network.conditioning` text, got {kind}."
            )

    def _check_inversion(self) -> None:
        kind, name = self.network.conditioning, self.inversion.embedding
        if name and kind != "text":
            raise ValueError(
                f"`inversion.embedding` (={shown(name)}) needs `network.conditioning` text, "
                f"got {kind}."
            )
        label = self.inversion.label
        if label is not None and kind != "class":
            raise ValueError(
                f"`inversion.label` (={label}) needs `network.conditioning` class, got {kind}."
            )
        if not self.inversion.video:
            return
        if self.sampler.method != "ddim" or self.sampler.eta > 0:
            raise ValueError(
                "`inversion.video` needs `sampler.method` ddim and `sampler.eta` 0, "
                f"got {self.sampler.method} and {self.sampler.eta}."
            )
        if kind == "text" and not name:
            raise ValueError(
                "`inversion.embedding` must be the name of the video's text embedding, got ''."
            )
        if kind == "class" and label is None:
            raise ValueError("`inversion.label` must be the class of the video, got none.")
        listed = self.classes or self.prompts
        if (kind == "class" and not listed) or len(set(listed)) < len(listed) or self.num_videos:
            raise ValueError(
                "With `inversion.video` seeds do not matter: `classes` must list those to sample, "
                "`classes` and `prompts` must have no entry twice, and `num_videos` must be 0; got "
                f"{shown(listed)} and {self.num_videos}."
            )

    def check_files(self) -> None:
        """Raise ValueError or OSError for files that do not fit."""
        check_source_video("inversion.video", self.inversion.video)
        if self.embeddings is not None and self.inversion.embedding:
            self.embeddings.check_names([self.inversion.embedding], "inversion.embedding")
        for name in set(self.condition_names):
            self.condition(name)

    @cached_property
    def embeddings(self) -> TextEmbeddings | None:
        """The prepared text embeddings, or None for other conditioning."""
        if not self.text_embeddings:
            return None
        shape = (self.network.text_tokens, self.network.text_width)
        return TextEmbeddings(self.text_embeddings, shape)

    @property
    def listed_classes(self) -> Sequence[int]:
        """The labels to sample in turn; empty where they are drawn, or there are none."""
        return range(self.network.num_classes) if self.balanced_classes else self.classes

    @property
    def count(self) -> int:
        """Number of videos that all processes sample together."""
        listed = len(self.listed_classes)
        if self.embeddings is not None:
            listed = len(self.prompts or self.embeddings.names)
        alone = 1 if self.inversion.video else self.batch_size  # seeds do not matter: one video
        return self.num_videos or listed or alone

    @property
    def seeds(self) -> list[int]:
        """One per video."""
        return [self.seed + number for number in range(self.count)]

    @cached_property
    def condition_names(self) -> list[str]:
        """The name of each video's condition: a label, a text embedding, or nothing."""
        kind = self.network.conditioning
        if self.embeddings is not None:
            listed = self.prompts or self.embeddings.names
            self.embeddings.check_names(listed, "prompts")
            return [listed[i % len(listed)] for i in range(self.count)]
        if kind == "none":
            return [""] * self.count
        if labels := self.listed_classes:
            return [str(labels[i % len(labels)]) for i in range(self.count)]
        classes = self.network.num_classes
        draws = (np.random.default_rng((seed, _LABEL_STREAM)) for seed in self.seeds)
        return [str(draw.integers(classes)) for draw in draws]

    @cached_property
    def stems(self) -> list[str]:
        """The name of each video's files, without suffixes."""
        if self.file_names == "numbers":
            return [f"{number:04d}" for number in range(self.count)]
        words = file_stems(list(dict.fromkeys(self.condition_names)))
        return [
            f"{words[name]}_seed{seed}" if name else f"seed{seed}"
            for name, seed in zip(self.condition_names, self.seeds, strict=True)
        ]

    def condition(self, name: str) -> Condition:
        """The condition that an entry of `condition_names` stands for."""
        if self.embeddings is not None:
            return self.embeddings[name]
        return int(name) if name else None

    def source_video(self, downsampling: int) -> tuple[np.ndarray, Condition]:
        """Frames (F, 3, H, W) in [-1, 1] of the video to invert, and its condition.

        `downsampling` is that of the autoencoder. Raises ValueError for a video that cannot be
        decoded, or has too few frames.
        """
        frames = read_source_video(
            "inversion.video",
            self.inversion.video,
            self.network.num_frames,
            self.inversion.frame_interval,
        )
        square = to_square(frames, self.network.input_size * downsampling)
        if self.network.conditioning == "none":
            return to_pixel_values(square), None
        return to_pixel_values(square), self.condition(
            self.inversion.embedding or str(self.inversion.label)
        )


def _merged(section: str, from_recipe: Any, recorded: dict[str, Any]) -> dict[str, Any]:
    """The recorded keys, with those of the recipe; raises ValueError where the two differ."""
    written = dict(from_recipe or {})
    for name in written.keys() & recorded.keys():
        if written[name] != recorded[name]:
            raise ValueError(
                f"`{section}.{name}` (={written[name]}) must be {recorded[name]}, as the "
                "checkpoint of `weights` records it."
            )
    return written | recorded
