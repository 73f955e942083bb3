"""What the packets of a video stream say about its frames, without decoding them.

A container counts packets. A packet of VP8, VP9 or AV1 may show nothing (it holds a frame that
others refer to), and a packet of H.264 may hold one field, half of a frame. The bits that tell
stand at the beginning of a packet, or in the header of the stream.
"""

from collections.abc import Iterator

# Each packet that shows a frame shows exactly one, at the packet's time.
COUNTABLE = frozenset(
    ("h264", "hevc", "vp8", "vp9", "av1", "mjpeg", "prores", "dnxhd", "ffv1", "png")
)
# Their keyframes can be relied on, so that decoding may begin at any of them.
SEEKABLE = COUNTABLE | {"mpeg4", "msmpeg4v2", "msmpeg4v3"}
_FRAME_OBUS = {3, 6}  # frame header; frame header with its tiles
_HIGH_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}


def is_countable(codec: str, header: bytes) -> bool:
    """Whether the packets of this stream can be counted instead of its frames.

    `header` is what the container stores once for the whole stream ("extradata").
    """
    if codec == "h264":
        parameters = list(_h264_parameter_sets(header))
        return bool(parameters) and all(map(_has_no_fields, parameters))
    return codec in COUNTABLE


def shows_frame(codec: str, data: bytes) -> bool:
    """Whether a packet of a countable stream shows a frame. `data` is its content."""
    if not data:
        return False
    if codec == "vp8":
        return bool(data[0] & 0x10)
    if codec == "vp9":
        return _vp9_shows(data)
    if codec == "av1":
        return any(kind in _FRAME_OBUS and _av1_shows(body) for kind, body in _av1_units(data))
    return True


def _vp9_shows(data: bytes) -> bool:
    """By `show_existing_frame` and `show_frame`; a superframe ends with a frame that is shown."""
    mark = data[-1]
    index_size = 2 + ((mark >> 3 & 3) + 1) * ((mark & 7) + 1)
    if mark & 0xE0 == 0xC0 and data[-index_size:][0] == mark and len(data) > index_size:
        return True
    bits = Bits(data)
    bits.read(2)
    profile = bits.read(1) | bits.read(1) << 1
    bits.read(1 if profile == 3 else 0)
    if bits.read(1):
        return True
    bits.read(1)  # frame type
    return bool(bits.read(1))


def _av1_shows(header: bytes) -> bool:
    """By `show_existing_frame` and `show_frame` of a frame header."""
    return bool(header[:1]) and bool(header[0] & 0x90)


def _av1_units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and beginning of each open bitstream unit of a packet."""
    at = 0
    while at < len(data):
        first = data[at]
        at += 2 if first & 4 else 1  # with an extension
        size = len(data) - at
        if first & 2:  # with a size, seven bits per byte
            size = shift = 0
            while at < len(data):
                size |= (data[at] & 0x7F) << shift
                shift += 7
                at += 1
                if not data[at - 1] & 0x80:
                    break
        yield first >> 3 & 15, data[at : at + 1]
        at += size


def _h264_parameter_sets(header: bytes) -> Iterator[bytes]:
    """The sequence parameter sets in the header that mp4 and matroska hold (`avcC`)."""
    if len(header) < 7 or header[0] != 1:
        return
    at = 6
    for _ in range(header[5] & 31):
        size = int.from_bytes(header[at : at + 2], "big")
        yield header[at + 2 : at + 2 + size]
        at += 2 + size


def _has_no_fields(parameters: bytes) -> bool:
    """`frame_mbs_only_flag` of an H.264 sequence parameter set (ITU-T H.264, 7.3.2.1.1)."""
    bits = Bits(parameters.replace(b"\0\0\3", b"\0\0"))
    bits.read(8)
    profile = bits.read(8)
    bits.read(16)
    bits.golomb()  # id
    if profile in _HIGH_PROFILES:
        _skip_high_profile(bits)
    bits.golomb()  # size of frame numbers
    order_type = bits.golomb()
    if order_type == 0:
        bits.golomb()
    elif order_type == 1:
        bits.read(1)
        bits.golomb()
        bits.golomb()
        for _ in range(min(bits.golomb(), 255)):
            bits.golomb()
    bits.golomb()  # reference frames
    bits.read(1)
    bits.golomb()  # width
    bits.golomb()  # height
    return bool(bits.read(1))


def _skip_high_profile(bits: "Bits") -> None:
    """The part that only the profiles from High on have."""
    chroma = bits.golomb()
    if chroma == 3:
        bits.read(1)
    bits.golomb()
    bits.golomb()
    bits.read(1)
    if not bits.read(1):
        return
    for number in range(12 if chroma == 3 else 8):
        if bits.read(1):
            last = following = 8
            for _ in range(16 if number < 6 else 64):
                if following:
                    code = bits.golomb()
                    following = (last + (code + 1) // 2 * (1 if code % 2 else -1)) % 256
                last = following or last


class Bits:
    """Reads numbers bit by bit; past the end it reads zeros."""

    def __init__(self, data: bytes):
        self._data = data
        self._at = 0

    def read(self, count: int) -> int:
        """The next `count` bits as a number, the highest first."""
        value = 0
        for _ in range(count):
            byte = self._at >> 3
            bit = self._data[byte] >> (7 - (self._at & 7)) & 1 if byte < len(self._data) else 0
            value = value << 1 | bit
            self._at += 1
        return value

    def golomb(self) -> int:
        """The next number in unsigned exponential Golomb code; at most 32 leading zeros."""
        zeros = 0
        while zeros < 32 and not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)
