"""Pictures as 8-bit RGB, turned as their EXIF orientation says."""

import os
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from videohpm.data.container import DecodeError

ORIENTATION, BITS, PHOTOMETRIC = 0x0112, 258, 262  # tags of EXIF and TIFF
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What displays a picture of each EXIF orientation upright."""
MAX_PIXELS = 2**26
"""Of a picture: 67 megapixels, which take 200 MB as RGB. More is refused by what its header says,
before any memory is taken: a file of 20 KB can hold a picture of gigabytes."""
FORMATS = frozenset(
    ["AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF"]
    + ["WEBP"]
)
"""Pillow's names of the formats that are read. Others, such as EPS, run programs."""
SCALED_TO_16_BITS = ("PNG", "PPM")
"""Formats whose deep pictures Pillow may give as 32-bit integers, of 16 bits by the format."""


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """A picture as displayed, uint8 (H, W, 3) RGB.

    Grey values of up to 16 bits are scaled to 8. Of others, floats and 32-bit integers, no range is
    known. Raises DecodeError for these, and for what is no readable picture.
    """
    return read_image_and_format(path)[0]


def read_image_and_format(path: str | os.PathLike[str]) -> tuple[np.ndarray, str]:
    """The picture of :func:`read_image`, and the format of the file, such as png."""
    path = os.fspath(path)
    try:
        # Opened here: a file that Pillow opens itself it maps into memory, and uncompressed TIFFs
        # that are turned by 90 degrees come out scrambled then (Pillow 13.0).
        with open(path, "rb") as file, Image.open(file) as image:
            _check_header(path, image)
            image.load()
            pixels = _pixels(path, image)
            return pixels, (image.format or "").lower()
    except (DecodeError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise DecodeError(path, "not readable as an image (no known format)") from None
    except Exception as error:  # of a damaged file Pillow raises nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DecodeError(path, f"not readable as an image ({reason})") from None


def _check_header(path: str, image: Image.Image) -> None:
    """DecodeError for a picture of another format, or too large a one; nothing is decoded yet."""
    if image.format not in FORMATS:
        raise DecodeError(path, f"a picture of format {image.format}, which is not read")
    if image.width * image.height > MAX_PIXELS:
        raise DecodeError(
            path,
            f"a picture of {image.width}x{image.height}, more than {MAX_PIXELS:,} pixels; make a "
            "smaller copy",
        )


def _pixels(path: str, image: Image.Image) -> np.ndarray:
    # TIFF is turned by Pillow itself as it is loaded, and its tag is gone then.
    orientation = _orientation(image)
    tags: Any = getattr(image, "tag_v2", {})
    upright: Image.Image = image
    if orientation in UPRIGHT:
        upright = image.transpose(UPRIGHT[orientation])
    deep = image.mode.startswith("I;16") or (
        image.mode == "I" and image.format in SCALED_TO_16_BITS
    )
    if not deep:
        if image.mode in ("I", "F"):
            kind = "floats" if image.mode == "F" else "32-bit integers"
            raise DecodeError(path, f"a picture of {kind}, whose range is not known; make it 8-bit")
        return np.array(upright.convert("RGB"))
    bits = tags.get(BITS, (16,))
    highest = 2 ** (bits[0] if isinstance(bits, tuple) else bits) - 1
    grey = np.asarray(upright).astype(np.int64).clip(0, highest)
    if tags.get(PHOTOMETRIC) == 0:  # white is 0: Pillow turns only 8 bits
        grey = highest - grey
    scaled = ((grey * 255 + highest // 2) // highest).astype(np.uint8)
    return np.repeat(scaled[:, :, None], 3, axis=2)


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1 (upright) also where the tags are damaged: the pixels are not."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # as above
        return 1
