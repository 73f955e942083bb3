"""8-bit YCbCr with subsampled chroma to RGB, in integers: the same numbers on every processor.

FFmpeg converts this kind of frame, which most videos consist of, by code of its own for each kind
of processor, and the results differ by up to two levels. The arithmetic here is that of its x86
code, which repeats chroma samples and rounds down. Its general code, for all other kinds of frames,
is exact with the right flags (`frame_converter._SCALER`).
"""

from functools import cache

import numpy as np

SUBSAMPLED_CHROMA = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuva420p"}
# By FFmpeg's number of the colour space: factors of (Cr in red, Cb in blue, Cb and Cr in green),
# times 65536, for a limited range.
_BT601 = (104597, 132201, 25675, 53279)
_FACTORS = {
    1: (117489, 138438, 13975, 34925),  # BT.709
    4: (104448, 132798, 24759, 53109),  # FCC
    7: (117579, 136230, 16907, 35559),  # SMPTE 240M
    9: (110013, 140363, 12277, 42626),  # BT.2020
    10: (110013, 140363, 12277, 42626),
}


def to_rgb(
    planes: tuple[np.ndarray, np.ndarray, np.ndarray], colour_space: int, full_range: bool
) -> np.ndarray:
    """Planes Y (H, W), Cb and Cr (H or H / 2, W / 2 rounded up) to (H, W, 3), all uint8; H even."""
    luma, cb, cr = planes
    height, width = luma.shape
    luma_table, cr_to_red, cb_to_blue, cb_to_green, cr_to_green = _tables(colour_space, full_range)
    luma_values = luma_table[luma].reshape(len(cr), -1, width)  # rows that share a row of chroma
    pixels = np.empty((*luma_values.shape, 3), np.uint8)
    offsets = (
        _looked_up(cr_to_red, cr),
        _looked_up(cb_to_green, cb) + _looked_up(cr_to_green, cr),
        _looked_up(cb_to_blue, cb),
    )
    for channel, offset in enumerate(offsets):
        values = luma_values + offset[:, None, :width]
        pixels[..., channel] = np.clip(values, 0, 255, out=values)
    return pixels.reshape(height, width, 3)


def _looked_up(pairs: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """What chroma `levels` (h, w) contribute, by a table of pairs of equal int16.

    Each result covers two neighbouring columns: (h, 2 w) int16.
    """
    return pairs[levels].view(np.int16)


@cache
def _tables(colour_space: int, full_range: bool) -> tuple[np.ndarray, ...]:
    """Five tables (256,) of what a level contributes.

    These are Y to every channel, Cr to red, Cb to blue, Cb to green, Cr to green, all int16; a
    chroma table holds each value twice, viewed as uint32.
    """
    levels = np.arange(256, dtype=np.int64)
    factors = _FACTORS.get(colour_space, _BT601)
    luma_factor, darkest, widening = (
        (65536, 0, 224) if full_range else (65536 * 255 // 219, 16, 255)
    )
    cr_to_red, cb_to_blue, cb_to_green, cr_to_green = (
        factor * widening // 255 for factor in factors
    )

    def times(values: np.ndarray, factor: int) -> np.ndarray:
        rounded = (factor * 8192 + 32768) >> 16
        return (values * 8 * rounded >> 16).astype(np.int16)

    def pairs(factor: int) -> np.ndarray:
        return np.repeat(times(levels - 128, factor), 2).view(np.uint32)

    return (
        times(levels - darkest, luma_factor),
        pairs(cr_to_red),
        pairs(cb_to_blue),
        pairs(-cb_to_green),
        pairs(-cr_to_green),
    )
