"""What the bytes of coded pictures say that no decoder was asked for: random access, size, fields.

FFmpeg's own key flags are those of a container, corrected by a parser; an older FFmpeg inside
another reader need not see the same. These few header fields (of H.264, H.265, VP8 and VP9 after
their standards) are the same for everybody.
"""

from __future__ import annotations

from collections.abc import Iterator

_ORIENTATION_SEI = 47  # display orientation, in H.264 and H.265 alike
# High profiles, whose sequence parameter sets carry the chroma format and bit depths.
_HIGH = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)


def nal_length(extradata: bytes | None, codec: str = "h264") -> int:
    """Bytes of a NAL unit's length in MP4 and Matroska; 0 where start codes part the units."""
    at = 21 if codec == "hevc" else 4
    if not extradata or len(extradata) <= at or extradata[0] != 1:
        return 0
    return (extradata[at] & 3) + 1


def nal_units(data: bytes, length_bytes: int) -> Iterator[bytes]:
    """The non-empty NAL units of a packet, each prefixed by its length or (0) by a start code."""
    if not length_bytes:
        for unit in bytes(data).split(b"\0\0\1")[1:]:
            if unit:
                yield unit
        return
    at = 0
    while at + length_bytes < len(data):
        length = int.from_bytes(data[at : at + length_bytes], "big")
        at += length_bytes
        if length:
            yield data[at : at + length]
        at += length


def is_idr(data: bytes, length_bytes: int) -> bool:
    """Whether an H.264 packet holds a slice of an IDR picture (NAL unit type 5)."""
    return any(unit[0] & 31 == 5 for unit in nal_units(data, length_bytes))


def is_irap(data: bytes, length_bytes: int) -> bool:
    """Whether an H.265 packet holds a picture of random access (NAL unit types 16 to 21)."""
    return any(16 <= unit[0] >> 1 & 63 <= 21 for unit in nal_units(data, length_bytes))


def starts_afresh(codec: str, data: bytes, length_bytes: int) -> bool | None:
    """Whether a packet's picture can be decoded first; None for codecs that are not looked into."""
    if codec == "h264":
        return is_idr(data, length_bytes)
    if codec == "hevc":
        return is_irap(data, length_bytes)
    if codec == "vp8":
        return not data[0] & 1
    if codec == "vp9":
        return _vp9_size(data)[0]
    return None


def picture_parameters(codec: str, data: bytes, length_bytes: int) -> list[bytes]:
    """Bytes that fix the size of pictures, where a packet holds such: more than one is a change.

    Sequence parameter sets of H.264 and H.265; the sizes in the headers of VP8, VP9, MPEG-2 and
    JPEG; MPEG-4's video object layer.
    """
    if codec in ("h264", "hevc"):
        units = nal_units(data, length_bytes)
        return [bytes(unit).rstrip(b"\0") for unit in units if _nal_type(codec, unit) in (7, 133)]
    if codec == "vp8":
        return [bytes(data[6:10])] if not data[0] & 1 else []
    if codec == "vp9":
        return [size for frame in _vp9_frames(data) if (size := _vp9_size(frame)[1])]
    data = bytes(data)
    if codec == "mpeg2video":
        return [part[:3] for part in data.split(b"\0\0\1\xb3")[1:]]
    if codec == "mpeg4":
        units = data.split(b"\0\0\1")[1:]
        return [unit for unit in units if unit and 0x20 <= unit[0] <= 0x2F]
    if codec == "mjpeg":
        at = min((i for i in map(data.find, (b"\xff\xc0", b"\xff\xc1", b"\xff\xc2")) if i >= 0),
                 default=None)  # fmt: skip
        return [] if at is None else [data[at + 5 : at + 9]]
    return []


def has_orientation(codec: str, data: bytes, length_bytes: int) -> bool:
    """Whether an H.264 or H.265 packet says how its picture is to be turned."""
    if codec not in ("h264", "hevc"):
        return False
    header, kinds = (1, (6,)) if codec == "h264" else (2, (139, 140))
    for unit in nal_units(data, length_bytes):
        if _nal_type(codec, unit) in kinds and _ORIENTATION_SEI in _sei_types(bytes(unit[header:])):
            return True
    return False


def may_be_interlaced(sps: bytes) -> bool:
    """Whether an H.264 sequence parameter set allows fields; True where it is not understood."""
    try:
        return not _frame_mbs_only(_Bits(sps.replace(b"\0\0\3", b"\0\0")[1:]))
    except IndexError:
        return True


def extradata_sps(extradata: bytes | None) -> list[bytes]:
    """The H.264 sequence parameter sets that a container stores before all pictures."""
    if not extradata or len(extradata) < 8:
        return []
    if extradata[0] != 1:
        return picture_parameters("h264", extradata, 0)
    found, at = [], 6
    for _ in range(extradata[5] & 31):
        length = int.from_bytes(extradata[at : at + 2], "big")
        found.append(bytes(extradata[at + 2 : at + 2 + length]))
        at += 2 + length
    return found


def _nal_type(codec: str, unit: bytes) -> int:
    """The type; 100 is added to H.265's, so that the two are never mistaken for one another."""
    return unit[0] & 31 if codec == "h264" else 100 + (unit[0] >> 1 & 63)


def _sei_types(payload: bytes) -> list[int]:
    found, at = [], 0
    while at + 2 < len(payload):
        numbers = []
        for _ in range(2):  # a type, then a size
            number = 0
            while at < len(payload) and payload[at] == 255:
                number, at = number + 255, at + 1
            if at >= len(payload):
                return found
            numbers.append(number + payload[at])
            at += 1
        found.append(numbers[0])
        at += numbers[1]
    return found


class _Bits:
    """A reader of bits and of exponential Golomb codes. Past the end: IndexError."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def read(self, count: int) -> int:
        number = 0
        for _ in range(count):
            number = number << 1 | (self.data[self.at >> 3] >> (7 - self.at % 8) & 1)
            self.at += 1
        return number

    def golomb(self) -> int:
        zeros = 0
        while not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)


def _frame_mbs_only(bits: _Bits) -> bool:
    """``frame_mbs_only_flag`` (H.264, 7.3.2.1.1): no picture of the sequence is of fields."""
    profile = bits.read(8)
    bits.read(16)
    bits.golomb()
    if profile in _HIGH:
        if bits.golomb() == 3:
            bits.read(1)
        bits.golomb()
        bits.golomb()
        bits.read(1)
        if bits.read(1):
            return False  # scaling lists: not followed
    bits.golomb()
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.read(1)
        bits.golomb()
        bits.golomb()
        for _ in range(bits.golomb()):
            bits.golomb()
    bits.golomb()
    bits.read(1)
    bits.golomb()
    bits.golomb()
    return bool(bits.read(1))


def _vp9_frames(data: bytes) -> list[bytes]:
    """The frames of a packet: several where it is a superframe."""
    marker = data[-1]
    count, width = (marker & 7) + 1, (marker >> 3 & 3) + 1
    start = len(data) - 2 - count * width
    if marker & 0xE0 != 0xC0 or start < 0 or data[start] != marker:
        return [data]
    frames, at = [], 0
    for i in range(count):
        size = int.from_bytes(data[start + 1 + i * width : start + 1 + (i + 1) * width], "little")
        frames.append(data[at : at + size])
        at += size
    return [frame for frame in frames if len(frame)]


def _vp9_size(frame: bytes) -> tuple[bool, bytes | None]:
    """Whether a frame is a key frame, and the size that it states itself (VP9, 6.2)."""
    bits = _Bits(frame)
    try:
        if bits.read(2) != 2:
            return False, None  # no VP9
        profile = bits.read(1) | bits.read(1) << 1
        if profile == 3:
            bits.read(1)
        if bits.read(1):
            return False, None  # shows a frame that is there already
        inter, shown, resilient = bits.read(1), bits.read(1), bits.read(1)
        intra_only = 0 if not inter or shown else bits.read(1)
        if inter and not resilient:
            bits.read(2)
        if not inter or intra_only:
            bits.read(24)
            if not inter or profile:
                _skip_vp9_colours(bits, profile)
            if inter:
                bits.read(8)
        else:
            bits.read(8 + 3 * 4)
            if any(bits.read(1) for _ in range(3)):
                return False, None  # as a frame that it refers to
        return not inter, bits.read(32).to_bytes(4, "big")
    except IndexError:
        return False, None


def _skip_vp9_colours(bits: _Bits, profile: int) -> None:
    if profile >= 2:
        bits.read(1)
    if bits.read(3) != 7:
        bits.read(3 if profile in (1, 3) else 1)
    elif profile in (1, 3):
        bits.read(1)
