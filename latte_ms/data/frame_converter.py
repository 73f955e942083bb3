"""Decoded frames as a player shows them: upright, with square pixels, in RGB.

The pixels are those of the ffmpeg program, and the same on every processor.
"""

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type

from latte_ms.data.colours import SUBSAMPLED_CHROMA, to_rgb

MAX_PIXELS = 4096 * 2304  # of a frame as shown; 4K passes, 8K does not
MAX_PIXEL_ASPECT = 16  # width of a pixel over its height, or the reverse
# Bicubic as in the ffmpeg program; the rest makes all processors compute the same numbers.
_SCALER = "flags=bicubic+accurate_rnd+bitexact"
_FULL_RANGE = 2  # FFmpeg's number


@dataclass(frozen=True)
class Orientation:
    """How a frame is turned for display: transposed first, then flipped."""

    transposed: bool = False
    flip_x: bool = False  # left to right
    flip_y: bool = False  # up and down

    def filters(self) -> list[tuple[str, str]]:
        """The same as filters of FFmpeg."""
        if self.transposed:
            return [("transpose", str(self.flip_x + 2 * self.flip_y))]
        flips = [("hflip", "")] if self.flip_x else []
        return flips + ([("vflip", "")] if self.flip_y else [])


class FrameConverter:
    """Converts the frames of one stream to RGB, all at the size that the stream declares."""

    def __init__(self, stream: Any, orientation: Orientation):
        """Raises ValueError for a stream whose frames would be empty, or too large."""
        width, height = stream.codec_context.width, stream.codec_context.height
        if width < 1 or height < 1:
            raise ValueError(f"its frames have no size, or more than {MAX_PIXELS} pixels")
        aspect = stream.sample_aspect_ratio or Fraction(1)
        if not 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT:
            raise ValueError(f"its pixels are {aspect} times as wide as high")
        if orientation.transposed:
            width, height, aspect = height, width, 1 / aspect
        # As in ffmpeg and its player, the height stays.
        self.size = (max(1, round(width * aspect)), height)
        if max(width, self.size[0]) * height > MAX_PIXELS:
            raise ValueError(
                f"its frames are {self.size[0]}x{height}, more than {MAX_PIXELS} pixels"
            )
        self._orientation_filters = orientation.filters()
        self._graphs: dict[tuple[Any, ...], Graph] = {}

    def convert(self, frame: Any) -> np.ndarray:
        """(H, W, 3) uint8 RGB, of `size`."""
        if self._orientation_filters:
            frame = self._filtered(frame, self._orientation_filters)
        name = frame.format.name
        plain = (frame.width, frame.height) == self.size and frame.height % 2 == 0
        if plain and name in SUBSAMPLED_CHROMA:
            if frame.planes[0].line_size < 0:  # stored from the last line to the first
                frame = self._filtered(frame, [("copy", "")])
            full = frame.color_range == _FULL_RANGE or name.startswith("yuvj")
            return to_rgb(_planes(frame), frame.colorspace, full)
        width, height = self.size
        scale = ("scale", f"{width}:{height}:{_SCALER}")
        return self._filtered(frame, [scale, ("format", "rgb24")]).to_ndarray()

    def _filtered(self, frame: Any, filters: list[tuple[str, str]]) -> Any:
        """The frame after a chain of FFmpeg's filters."""
        key = (frame.width, frame.height, frame.format.name, *filters)
        if key not in self._graphs:
            if len(self._graphs) > 2:  # the stream has changed its size or format
                self._graphs.clear()
            self._graphs[key] = _chain(frame, filters)
        graph = self._graphs[key]
        graph.vpush(frame)
        return graph.vpull()


def _chain(frame: Any, filters: list[tuple[str, str]]) -> Graph:
    """A graph of `filters` for frames such as `frame`."""
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
    )
    steps = [graph.add(name, arguments or None) for name, arguments in filters]
    graph.link_nodes(source, *steps, graph.add("buffersink"))
    graph.configure()
    return graph


def _planes(frame: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Y, Cb and Cr of a frame of 8 bits, without copying them."""
    luma, cb, cr = (
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        for plane in frame.planes[:3]
    )
    return luma, cb, cr


def orientation_of(frame: Any) -> Orientation:
    """What the display matrix of `frame` asks for.

    The matrix (a b u; c d v; x y w) takes the place (p, q) to (a p + c q + x, b p + d q + y).
    Angles between the quarter turns are taken for the nearest one.
    """
    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return Orientation()
    a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, flip_x=c < 0, flip_y=b < 0)
    return Orientation(False, flip_x=a < 0, flip_y=d < 0)
