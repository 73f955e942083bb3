"""The recipe of `scripts/sample_t2v.py`: videos of prompts, and the names of their files."""

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import mindspore as ms
from omegaconf import MISSING

from latte_ms.config import inline
from latte_ms.data.source_video import check_source_video, read_source_video
from latte_ms.generation.lora_recipe import LoraOptions
from latte_ms.generation.pipelines.request import TextRequest
from latte_ms.generation.pipelines.video_to_video import PreparedVideo, VideoRequest, to_pixels
from latte_ms.generation.video_files import VideoFiles
from latte_ms.messages import shown
from latte_ms.options import (
    Rule,
    check_each,
    integers,
    one_of,
    positive_integer,
    recipe_section,
    seed,
    text,
)
from latte_ms.runtime import PRECISIONS, RuntimeConfig, compute_dtype
from latte_ms.schedulers import check_name
from latte_ms.weights.recorded import read_state

RequestOptions = recipe_section("RequestOptions", TextRequest, VideoRequest)
_MAX_BYTES = 1 << 26  # of a file of prompts
_MAX_PROMPTS = 100_000  # encoded before the first is sampled
_RULES: dict[str, Rule] = {
    **dict.fromkeys(("pipeline", "output"), text),
    "entry": one_of("ema", "model"),
    "frame_interval": positive_integer,
    "tile_size": integers(0, 65_536),
    "seed": seed,
}


@dataclass(frozen=True)
class TextToVideoRecipe:
    """Everything `scripts/sample_t2v.py` reads; its other keys are the options of a request.

    Raises ValueError where a value or a combination is wrong.
    """

    pipeline: str = MISSING  # folder in diffusers' layout, or an id of the hub
    transformer: str = ""  # folder to use instead of the pipeline's, or a training checkpoint
    entry: str = "ema"  # of a training checkpoint; or model
    revision: str = ""  # of the hub's pipeline: branch, tag or commit; empty: its main branch
    cache_dir: str = ""  # folder for downloads from the hub; empty: huggingface_hub's own
    output: str = MISSING  # folder for the files
    prompt: str = ""  # sampled instead of `prompts`
    prompts_file: str = ""  # the same: UTF-8, a prompt per line; skips lines starting with #
    prompts: list[str] = field(default_factory=list)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    parameter_precision: str = ""  # that weights are kept in; empty: that of `runtime`
    variant: str = ""  # of the weight files, such as fp16
    adapters: LoraOptions = inline(LoraOptions)
    low_memory: bool = True  # the text encoder is freed before the transformer is loaded
    streamed_text_encoder: bool = False  # read from disk block by block
    scheduler: str = ""  # such as ddim, euler, dpm; empty: the pipeline's own
    options: RequestOptions = inline(RequestOptions)  # type: ignore[valid-type]
    seed: int = 0  # video i of every prompt has seed + i
    temporal_interpolation: bool = False  # other numbers of frames than the transformer's
    temporal_decoder: bool = False  # decode with the pipeline's vae_temporal_decoder
    slicing: bool = False  # one image at a time; a temporal decoder decodes chunks nevertheless
    tile_size: int = 0  # pixels of a side; 0: whole images
    video: str = ""  # file to start from: video to video
    frame_interval: int = 1  # take every n-th of its frames, around its middle
    files: VideoFiles = inline(VideoFiles)

    def __post_init__(self) -> None:
        object.__setattr__(self, "runtime", self.runtime.resolved())
        check_each(self, _RULES)
        if self.parameter_precision and self.parameter_precision not in PRECISIONS:
            raise ValueError(
                f"`parameter_precision` must be one of {sorted(PRECISIONS)}, "
                f"got {shown(self.parameter_precision)}."
            )
        if self.scheduler:
            check_name(self.scheduler)
        if self.entry != "ema" and not self.transformer:
            raise ValueError(f"`entry` (={shown(self.entry)}) needs a checkpoint as `transformer`.")
        if self.prompt.strip() and self.prompts_file:
            raise ValueError(
                "Give one of `prompt` and `prompts_file`, got both: "
                f"{shown(self.prompt)} and {shown(self.prompts_file)}."
            )
        if not self.all_prompts:
            place = f"none in {self.prompts_file}" if self.prompts_file else "none"
            raise ValueError(
                f"One of `prompt`, `prompts_file` and `prompts` must hold a prompt, got {place}."
            )
        if len(self.all_prompts) > _MAX_PROMPTS:
            raise ValueError(
                f"At most {_MAX_PROMPTS} prompts can be sampled by one command, "
                f"got {len(self.all_prompts)}."
            )

    def check_files(self) -> None:
        """Raise ValueError or OSError for files that do not fit; called when sampling starts."""
        check_source_video("video", self.video)
        if self.cache_dir and Path(self.cache_dir).is_file():
            raise NotADirectoryError(
                f"`cache_dir` must be a folder, got the file {self.cache_dir}."
            )
        if self.revision and Path(self.pipeline).is_dir():
            raise ValueError(
                f"`revision` (={shown(self.revision)}) needs a `pipeline` of the hub, "
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
    def parameter_dtype(self) -> ms.Type | None:
        """The dtype that weights are kept in, or None for the compute dtype."""
        return compute_dtype(self.parameter_precision) if self.parameter_precision else None

    @property
    def trained_settings(self) -> dict[str, Any]:
        """The scheduler settings that `transformer` was trained with; empty for a plain folder."""
        return trained_scheduler_settings(self.transformer) if self.transformer else {}

    @property
    def can_request_at_once(self) -> bool:
        """Whether `requests` works without a `default_length`.

        It does where no video is read, or `video_length` says how much of it.
        """
        return not self.video or vars(self.options)["video_length"] is not None

    def requests(self, default_length: int | None = None) -> dict[str, TextRequest]:
        """One request per prompt, keyed by the prompt.

        Args:
            default_length: frames of the video to start from, the transformer's, where the recipe
                states no `video_length`.

        Raises ValueError for a video to start from that cannot be decoded, or is too short.
        """
        request_class = VideoRequest if self.video else TextRequest
        names = {field.name for field in dataclasses.fields(request_class) if field.init}
        chosen = vars(self.options)
        options = {name: value for name, value in chosen.items() if name in names}
        options |= {"generator": self.seed, "output_type": "np"}
        if self.video:
            length = chosen["video_length"] or default_length
            if length is None:
                raise ValueError("`video_length` must be given with a `video`, got None.")
            frames = read_source_video("video", self.video, length, self.frame_interval)
            options["video"] = PreparedVideo(to_pixels(frames))
        return {prompt: request_class(prompt=prompt, **options) for prompt in self.all_prompts}


def _read_lines(path: str) -> list[str]:
    """Lines of `prompts_file` without comments. Raises ValueError or OSError that name it."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"`prompts_file` is not a file: {path}.")
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        text = content.decode("utf-8-sig")  # without a byte order mark
    except UnicodeDecodeError as error:
        reason = f"{error.reason} at byte {error.start}"
        raise ValueError(f"`prompts_file` must be UTF-8 text, got {path}: {reason}.") from error
    except OSError as error:
        raise OSError(f"`prompts_file` cannot be read: {path}: {error.strerror}.") from error
    if len(content) > _MAX_BYTES:
        raise ValueError(f"`prompts_file` must have at most {_MAX_BYTES} bytes: {path}.")
    if "\0" in text:
        raise ValueError(f"`prompts_file` must be text, but holds NUL characters: {path}.")
    return [line for line in text.splitlines() if not line.lstrip().startswith("#")]


def trained_scheduler_settings(folder: str | Path) -> dict[str, Any]:
    """The settings of a scheduler that a training checkpoint was trained with.

    Empty where `folder` is no checkpoint. Raises ValueError where its record is damaged.
    """
    state = read_state(folder)
    if state is None or state.diffusion is None:
        return {}
    steps = int(state.diffusion["num_train_steps"])
    schedule = str(state.diffusion["noise_schedule"])
    prediction = "sample" if state.diffusion["prediction"] == "x0" else "epsilon"
    return {
        "num_train_timesteps": steps,
        "beta_schedule": schedule,
        # `diffusion.schedule` scales the ends of the linear schedule likewise.
        "beta_start": 0.1 / steps,
        "beta_end": 20.0 / steps,
        "trained_betas": None,
        "prediction_type": prediction,
    }
