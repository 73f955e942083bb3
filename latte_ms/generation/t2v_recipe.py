"""The configuration of sampling from texts: what a YAML recipe may say."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import mindspore as ms
from omegaconf import MISSING

from latte_ms.generation.output import check_formats
from latte_ms.generation.pipeline_inputs import require_count
from latte_ms.generation.schedulers import SCHEDULERS
from latte_ms.runtime import RuntimeConfig, compute_type

_NAME_BYTES = 120


@dataclass(frozen=True)
class T2VConfig:
    """Everything `scripts/sample_t2v.py` reads.

    Raises ValueError where a value or a combination is wrong.
    """

    pipeline: str = MISSING  # folder in diffusers' layout, or an id of the hub
    output: str = MISSING  # folder for the files
    prompt: str = ""  # one more prompt, easily written on the command line
    prompts: list[str] = field(default_factory=list)
    prompts_file: str = ""  # text file, one prompt per line; empty lines and # lines are skipped
    negative_prompt: str = ""
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    storage: str = ""  # precision that weights are kept in; empty: that of `runtime`
    variant: str = ""  # of the weights' files, such as fp16
    low_memory: bool = True  # the text encoder is freed before the transformer is read
    streamed_text_encoder: bool = False  # read from disk block by block
    scheduler: str = ""  # such as ddim, euler, dpm; empty: the pipeline's own
    num_steps: int = 50
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
    decode_chunk_size: int = 14  # frames decoded at a time
    tile_size: int = 0  # pixels of a side; 0: whole pictures
    video: str = ""  # file to start from: video to video
    video_interval: int = 1  # every so many of its frames, from its middle
    strength: float = 0.6  # of the noise on it
    fps: float = 8.0
    formats: list[str] = field(default_factory=lambda: ["mp4"])  # mp4, gif, png

    def __post_init__(self) -> None:
        check_formats(self.formats)
        compute_type(self.storage or self.runtime.precision)
        if self.scheduler and self.scheduler not in {*SCHEDULERS, *SCHEDULERS.values()}:
            raise ValueError(
                f"`scheduler` must be one of {list(SCHEDULERS)}, got {self.scheduler!r}."
            )
        for name in ("num_steps", "video_length", "height", "width", "videos_per_prompt"):
            require_count(name, getattr(self, name))
        require_count("decode_chunk_size", self.decode_chunk_size)
        require_count("video_interval", self.video_interval)
        if self.seed < 0 or self.tile_size < 0:
            raise ValueError("`seed` and `tile_size` must not be negative.")
        if not 0.0 < self.strength <= 1.0:
            raise ValueError(f"`strength` must be above 0 and at most 1, got {self.strength}.")
        if self.fps <= 0:
            raise ValueError(f"`fps` must be above 0, got {self.fps}.")
        if self.prompts_file and not Path(self.prompts_file).is_file():
            raise FileNotFoundError(f"`prompts_file` names no file: {self.prompts_file}.")
        if not self.all_prompts:
            raise ValueError("Give `prompt`, `prompts` or `prompts_file`: nothing to sample.")

    def check_video(self) -> None:
        """Raise FileNotFoundError for a `video` that is not there; recipes may name one to come."""
        if self.video and not Path(self.video).is_file():
            raise FileNotFoundError(f"`video` names no file: {self.video}.")

    @property
    def all_prompts(self) -> list[str]:
        """From the command line, the recipe and the file, in this order; each once."""
        lines = [self.prompt, *self.prompts]
        if self.prompts_file:
            text = Path(self.prompts_file).read_text(encoding="utf-8")
            lines += [line for line in text.splitlines() if not line.lstrip().startswith("#")]
        return list(dict.fromkeys(line.strip() for line in lines if line.strip()))

    @property
    def storage_dtype(self) -> ms.Type | None:
        """What weights are kept in, or None for the type of the products."""
        return compute_type(self.storage) if self.storage else None


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
