"""Decoded frames as a player shows them: upright, with square pixels, in RGB.

The pixels are those of the ffmpeg program, and the same on every processor.
"""

import struct
from fractions import Fraction
from typing import Any

import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type

from latte_ms.data.colours import HALVED_CHROMA, to_rgb

MAX_PIXELS = 4096 * 2304  # of a frame as shown; 4K passes, 8K does not
MAX_PIXEL_ASPECT = 16  # width of a pixel by its height, or the reverse
# Bicubic as in the ffmpeg program; the rest makes all processors compute the same numbers.
_SCALER = "flags=bicubic+accurate_rnd+bitexact"
_FULL_RANGE = 2  # FFmpeg's number


class Screen:
    """Shows the frames of one stream, all at the size that the stream declares."""

    def __init__(self, stream: Any):
        """Raises ValueError for a stream whose frames would be empty, or too large."""
        width, height = stream.codec_context.width, stream.codec_context.height
        aspect = stream.sample_aspect_ratio or Fraction(1)
        if not 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT:
            raise ValueError(f"its pixels are {aspect} times as wide as high")
        # As in the header of an mp4 file, the height stays.
        self._size = (max(1, round(width * aspect)), height)
        if width < 1 or height < 1:
            raise ValueError("the size of its frames is unknown")
        if max(width, self._size[0]) * height > MAX_PIXELS:
            raise ValueError(
                f"its frames are {self._size[0]}x{height}, more than {MAX_PIXELS} pixels"
            )
        self._graphs: dict[tuple[int, int, str], Graph] = {}

    def size(self, frame: Any) -> tuple[int, int]:
        """Width and height of `frame` as shown."""
        width, height = self._size
        return (height, width) if display_turn(frame)[0] else (width, height)

    def show(self, frame: Any) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        transposed, flip_x, flip_y = display_turn(frame)
        name = frame.format.name
        plain = (frame.width, frame.height) == self._size and frame.height % 2 == 0
        if plain and name in HALVED_CHROMA:
            full = frame.color_range == _FULL_RANGE or name.startswith("yuvj")
            pixels = to_rgb(_planes(frame), frame.colorspace, full)
        else:
            pixels = self._converted(frame)
        if transposed:
            pixels = pixels.transpose(1, 0, 2)
        return pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1]

    def _converted(self, frame: Any) -> np.ndarray:
        """By FFmpeg's filters, (H, W, 3) uint8."""
        key = (frame.width, frame.height, frame.format.name)
        if key not in self._graphs:
            self._graphs = {key: _conversion(frame, self._size)}
        graph = self._graphs[key]
        graph.vpush(frame)
        return graph.vpull().to_ndarray()


def _conversion(frame: Any, size: tuple[int, int]) -> Graph:
    """A graph of filters that brings frames such as `frame` to RGB at `size`."""
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
    )
    scale = graph.add("scale", f"{size[0]}:{size[1]}:{_SCALER}")
    graph.link_nodes(source, scale, graph.add("format", "rgb24"), graph.add("buffersink"))
    graph.configure()
    return graph


def _planes(frame: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Y, Cb and Cr of a frame of 8 bits, without copying them."""
    luma, blue, red = (
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        for plane in frame.planes[:3]
    )
    return luma, blue, red


def display_turn(frame: Any) -> tuple[bool, bool, bool]:
    """What the display matrix of `frame` asks for: transpose, then flip left-right, up-down.

    The matrix (a b u; c d v; x y w) takes the place (p, q) to (a p + c q + x, b p + d q + y).
    Angles between the quarter turns are taken for the nearest one.
    """
    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return False, False, False
    a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, c < 0, b < 0
    return False, a < 0, d < 0
