"""How generated videos become files."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from latte_ms.data.video_file import read_video
from latte_ms.media import FRAME_FORMATS, check_formats, is_saved, save_video, video_path
from latte_ms.options import check_each, frame_rate, integers

MAX_CRF = 51


@dataclass(frozen=True)
class VideoFiles:
    """The keys of a recipe that say what files a video is written to.

    Raises ValueError where a value is wrong, or formats exclude each other.
    """

    fps: float = 8.0
    # mp4, gif, png (frames side by side), frames (a folder of PNG files) or frames_jpg
    formats: list[str] = field(default_factory=lambda: ["mp4"])
    crf: int = 8  # x264's rate factor of mp4, 0 (lossless) to 51; the reference's quality 9 is 5

    def __post_init__(self) -> None:
        check_each(self, {"fps": frame_rate, "crf": integers(0, MAX_CRF)})
        check_formats(self.formats, self.fps)

    def save(self, stem: Path, frames: np.ndarray) -> None:
        """Write `frames` (F, H, W, 3) uint8; see `media.save_video`."""
        save_video(stem, frames, self.formats, self.fps, self.crf)

    def are_saved(self, stem: Path) -> bool:
        """Whether all files of a video are there."""
        return is_saved(stem, self.formats)

    def would_replace(self, stem: Path) -> Path | None:
        """What stands where a file of a video goes, or a folder; None where all places are free."""
        paths = [video_path(stem, name) for name in self.formats]
        return next((path for path in paths if path.exists()), None)

    @property
    def has_folders(self) -> bool:
        """Whether a video is, or is also, a folder of frames."""
        return any(name in FRAME_FORMATS for name in self.formats)

    def read(self, stem: Path, num_frames: int) -> np.ndarray:
        """A saved video (F, H, W, 3) uint8 of `num_frames`, from the file that loses least.

        Not from folders of frames.
        """
        name = next(name for name in ("png", "mp4", "gif") if name in self.formats)
        path = video_path(stem, name)
        if name != "png":
            return read_video(path)
        with Image.open(path) as image:
            return np.stack(np.split(np.asarray(image), num_frames, axis=1))
