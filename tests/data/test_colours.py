"""8-bit frames to RGB: equal to libswscale's x86 code, and near the definition."""

import platform

import av
import numpy as np
import pytest

from latte_ms.data.colours import to_rgb

SPACES = {0: "BT.601", 1: "BT.709", 2: "BT.601", 5: "BT.601", 6: "BT.601", 7: "240M", 9: "BT.2020"}
WEIGHTS = {"BT.601": (0.299, 0.114), "BT.709": (0.2126, 0.0722), "240M": (0.212, 0.087)}
WEIGHTS["BT.2020"] = (0.2627, 0.0593)


def noise(width: int, height: int, pixel_format: str) -> av.VideoFrame:
    rng = np.random.default_rng(0)
    frame = av.VideoFrame(width, height, pixel_format)
    for plane in frame.planes:
        plane.update(rng.integers(0, 256, plane.buffer_size, dtype=np.uint8).tobytes())
    return frame


def planes(frame: av.VideoFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    luma, blue, red = (
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:, : plane.width]
        for plane in frame.planes
    )
    return luma, blue, red


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the code that is compared is x86's")
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p"])
@pytest.mark.parametrize("size", [(64, 48), (131, 66)])
def test_equal_to_libswscale(pixel_format: str, size: tuple[int, int]):
    frame = noise(*size, pixel_format)
    for space in SPACES:
        for colour_range in (1, 2):
            frame.colorspace, frame.color_range = space, colour_range
            expected = frame.reformat(format="rgb24", threads=1).to_ndarray()
            ours = to_rgb(planes(frame), space, colour_range == 2)
            assert np.array_equal(ours, expected), (space, colour_range)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("full_range", [False, True])
def test_near_the_definition(space: int, full_range: bool):
    frame = noise(64, 48, "yuv422p")
    luma, blue, red = (plane.astype(float) for plane in planes(frame))
    blue, red = (np.repeat(plane, 2, axis=1) - 128 for plane in (blue, red))
    of_red, of_blue = WEIGHTS[SPACES[space]]
    light = luma if full_range else (luma - 16) * 255 / 219
    chroma = 2 * (1 if full_range else 255 / 224)
    r = light + chroma * (1 - of_red) * red
    b = light + chroma * (1 - of_blue) * blue
    g = (light - of_red * r - of_blue * b) / (1 - of_red - of_blue)
    expected = np.clip(np.stack([r, g, b], -1), 0, 255)
    assert np.abs(to_rgb(planes(frame), space, full_range) - expected).max() < 4
