"""The configuration of sampling from texts: what a YAML recipe may say, and the files it names."""

import re
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import mindspore as ms
import numpy as np
from omegaconf import MISSING

from latte_ms.data.video_file import DecodeError, index_video, read_frames
from latte_ms.data.windows import choose_frames, frames_needed
from latte_ms.generation.output import check_formats
from latte_ms.generation.pipeline_inputs import require_count
from latte_ms.generation.schedulers import SCHEDULERS
from latte_ms.runtime import PRECISIONS, RuntimeConfig, compute_dtype

_NAME_BYTES = 120


@dataclass(frozen=True)
class T2VConfig:
    """Everything `scripts/sample_t2v.py` reads.

    Raises ValueError where a value or a combination is wrong.
    """

    pipeline: str = MISSING  # folder in diffusers' layout, or an id of the hub
    revision: str = ""  # of the hub's pipeline: branch, tag or commit; empty: its main branch
    cache_dir: str = ""  # folder for what the hub sends; empty: huggingface_hub's own
    output: str = MISSING  # folder for the files
    prompt: str = ""  # sampled instead of `prompts`
    prompts_file: str = ""  # the same: UTF-8 text, a prompt per line, # lines are skipped
    prompts: list[str] = field(default_factory=list)
    negative_prompt: str = ""
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    storage: str = ""  # precision that weights are kept in; empty: that of `runtime`
    variant: str = ""  # of the weights' files, such as fp16
    low_memory: bool = True  # the text encoder is freed before the transformer is read
    streamed_text_encoder: bool = False  # read from disk block by block
    scheduler: str = ""  # such as ddim, euler, dpm; empty: the pipeline's own
    num_steps: int = 50
    timesteps: list[int] = field(default_factory=list)  # instead of `num_steps`, descending
    guidance: float = 7.5
    eta: float = 0.0  # of ddim and tcd
    video_length: int = 16  # frames; 1 makes pictures
    height: int = 512
    width: int = 512
    videos_per_prompt: int = 1
    seed: int = 0  # video number i of a prompt has seed + i, whatever other prompts there are
    clean_caption: bool = True
    mask_feature: bool = True
    temporal_attentions: bool = True  # False: frames that know nothing of each other
    temporal_interpolation: bool = False  # other numbers of frames than the transformer's
    temporal_decoder: bool = False  # decode with the pipeline's vae_temporal_decoder
    decode_chunk_size: int | None = 14  # frames decoded at a time; null: all of a video
    slicing: bool = False  # one frame at a time, but for a temporal decoder's output
    tile_size: int = 0  # pixels of a side; 0: whole pictures
    video: str = ""  # file to start from: video to video
    video_interval: int = 1  # every so many of its frames, from its middle
    strength: float = 0.6  # of the noise on it
    fps: float = 8.0
    formats: list[str] = field(default_factory=lambda: ["mp4"])  # mp4, gif, png

    def __post_init__(self) -> None:
        check_formats(self.formats)
        compute_dtype(self.runtime.precision)
        if self.storage and self.storage not in PRECISIONS:
            raise ValueError(
                f"`storage` must be one of {sorted(PRECISIONS)}, got {self.storage!r}."
            )
        if self.scheduler and self.scheduler not in {*SCHEDULERS, *SCHEDULERS.values()}:
            raise ValueError(
                f"`scheduler` must be one of {list(SCHEDULERS)}, got {self.scheduler!r}."
            )
        for name in ("num_steps", "video_length", "height", "width", "videos_per_prompt"):
            require_count(name, getattr(self, name))
        if self.decode_chunk_size is not None:
            require_count("decode_chunk_size", self.decode_chunk_size)
        require_count("video_interval", self.video_interval)
        for name in ("seed", "tile_size"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}.")
        times = self.timesteps
        if any(after >= before for before, after in pairwise(times)) or min(times, default=0) < 0:
            raise ValueError(f"`timesteps` must be descending, 0 at least, got {times}.")
        if not 0.0 < self.strength <= 1.0:
            raise ValueError(f"`strength` must be above 0 and at most 1, got {self.strength}.")
        if self.fps <= 0:
            raise ValueError(f"`fps` must be above 0, got {self.fps}.")
        if self.prompt.strip() and self.prompts_file:
            raise ValueError(
                "Give one of `prompt` and `prompts_file`, got both: "
                f"{self.prompt!r} and {self.prompts_file!r}."
            )
        if not self.all_prompts:
            given = f"none in {self.prompts_file}" if self.prompts_file else "none of them"
            raise ValueError(f"`prompt`, `prompts_file` or `prompts` must hold one, got {given}.")

    def check_files(self) -> None:
        """Raise ValueError or OSError for files that do not fit; recipes may name some to come."""
        if self.video and not Path(self.video).is_file():
            raise FileNotFoundError(f"`video` names no file: {self.video}.")
        if self.cache_dir and Path(self.cache_dir).is_file():
            raise NotADirectoryError(
                f"`cache_dir` must be a folder, got the file {self.cache_dir}."
            )
        if self.revision and Path(self.pipeline).is_dir():
            raise ValueError(
                f"`revision` (={self.revision!r}) needs a `pipeline` of the hub, "
                f"got the folder {self.pipeline}."
            )

    @cached_property
    def all_prompts(self) -> list[str]:
        """What is sampled, each once: `prompt`, or `prompts_file`, or without them `prompts`."""
        lines = self.prompts
        if self.prompt.strip():
            lines = [self.prompt]
        elif self.prompts_file:
            lines = _read_lines(self.prompts_file)
        return list(dict.fromkeys(line.strip() for line in lines if line.strip()))

    @property
    def storage_dtype(self) -> ms.Type | None:
        """What weights are kept in, or None for the type of the products."""
        return compute_dtype(self.storage) if self.storage else None


def source_frames(cfg: T2VConfig) -> np.ndarray:
    """Frames (F, H, W, 3) uint8 from the middle of the file to start from.

    Raises ValueError for a file that cannot be decoded, or has too few of them.
    """
    length, interval = cfg.video_length, cfg.video_interval
    needed = frames_needed(length, interval, "stride")
    try:
        index = index_video(cfg.video)
        if index.num_frames < needed:
            raise ValueError(
                f"`video` must have {needed} frames at least, for `video_length` (={length}) and "
                f"`video_interval` (={interval}), got {index.num_frames}: {cfg.video}."
            )
        numbers = choose_frames(index.num_frames, length, interval, "stride", None)
        return read_frames(cfg.video, numbers, index)
    except DecodeError as error:
        raise ValueError(f"`video` must be a video that can be decoded, got {error}") from error


def file_stems(prompts: list[str]) -> dict[str, str]:
    """Names of files after the words of each prompt; prompts of the same words are numbered."""
    stems: dict[str, str] = {}
    for prompt in prompts:
        words = re.sub(r"\W+", "_", prompt).strip("_").encode()[:_NAME_BYTES]
        stem = words.decode(errors="ignore").rstrip("_") or "prompt"
        number, taken = 1, {name.casefold() for name in stems.values()}
        while (numbered := stem if number == 1 else f"{stem}_{number}").casefold() in taken:
            number += 1
        stems[prompt] = numbered
    return stems


def _read_lines(path: str) -> list[str]:
    """Lines of `prompts_file` but for remarks. Raises ValueError or OSError that name it."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"`prompts_file` names no file: {path}.")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # a mark of the encoding is no text
    except UnicodeDecodeError as error:
        raise ValueError(f"`prompts_file` must be UTF-8 text, got {path}: {error}.") from error
    except OSError as error:
        raise OSError(f"`prompts_file` cannot be read: {path}: {error.strerror}.") from error
    return [line for line in text.splitlines() if not line.lstrip().startswith("#")]
