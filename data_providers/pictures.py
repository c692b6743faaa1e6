"""From a file to an RGB picture, whatever its mode: what is decoded, and what is refused.

Only formats in which photographs come are opened: Pillow goes by the content, not by the name, and
some of its decoders start other programs (EPS) or have no bounds.
"""

import mmap
import os
import struct
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from utils.errors import note, one_line, warn
from utils.files import open_regular
from utils.packages import is_installed

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "GIF", "TIFF", "WEBP",
           *(["AVIF"] if is_installed("PIL.AvifImagePlugin") else []))  # from Pillow 11.3 on
# 8192 x 8192. A decoded picture takes up to 7 bytes a pixel while it is converted, 13 where its
# values have 32 bits.
MAX_PIXELS = 2**26
# A strip of 1 x 1,000,000 pixels, resized by its short side, would fill the memory.
MAX_ASPECT = 100
_ROWS = 64  # that are scaled at a time
_BITS_12, _BITS_16 = 4095, 65535
_noted = mmap.mmap(-1, 1)  # shared with the processes that load: one note in a run
# What the decoders of Pillow raise on a file that is missing, cut off, or not an image.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError,
           NotImplementedError, struct.error, zlib.error, Image.DecompressionBombError)
_WHITE = (255, 255, 255, 255)
_ORIENTATION_IN = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")


def list_pictures(folder: str | os.PathLike) -> tuple[list[str], list[str]]:
    """Returns the pictures below a folder and the other files, each once even if links form loops.

    Hidden files and folders, which tools leave behind, are neither. A file without the suffix of a
    picture is one by its content.
    """
    seen = {_identity(parent) for parent in Path(folder).absolute().parents}
    found = []
    for place, names, files in os.walk(os.fspath(folder), followlinks=True):
        if (identity := _identity(place)) in seen:
            names.clear()
            continue
        seen.add(identity)
        names[:] = sorted(name for name in names if not name.startswith("."))
        found.append((place, sorted(name for name in files if not name.startswith("."))))
    pictures: list[str] = []
    others: list[str] = []
    for path in (os.path.join(place, name) for place, files in sorted(found) for name in files):
        (pictures if _is_picture(path) else others).append(path)
    return pictures, others


def warn_of_others(folder: str | os.PathLike, others: Sequence[str], total: int) -> None:
    """Prints how many of all files in a folder are no pictures, and the first one."""
    if others:
        warn(f"{one_line(folder)}: {len(others)} of {total} files are not read, the first one "
             f"{one_line(others[0])}: not in a format of {', '.join(FORMATS)}; convert or remove "
             "them")


def read_picture(path: str | os.PathLike) -> Image.Image:
    """Decodes a file.

    Returns:
        The first frame in RGB, rotated by its EXIF orientation.

    Raises:
        One of `DAMAGED`: it cannot be decoded, or is too large or too narrow.
    """
    with open_regular(path) as file, _open(file) as image:
        image.load()
        return to_rgb(_upright(image))


def picture_size(path: str | os.PathLike) -> tuple[int, int]:
    """Returns (height, width) in pixels, without decoding, of a picture as it is stored.

    Raises:
        One of `DAMAGED`: as `read_picture`, as far as the header shows.
    """
    with open_regular(path) as file, _open(file) as image:
        return image.height, image.width


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts any mode of Pillow to RGB, keeping what a viewer would show.

    Transparent pixels show white. 16-bit values are scaled to 8 bits, where Pillow's own `convert`
    cuts them off at 255; where none is above 4095, they are values of 12 bits, as scanners and
    cameras write them. Integers of 32 bits count as 16-bit values, floats as 0..1 where none is
    larger, else as 0..255.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if image.has_transparency_data:
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _open(file: IO[bytes]) -> Image.Image:
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:  # whose text is about the open file
        raise ValueError(f"damaged, or none of {', '.join(FORMATS)}") from None
    short, long = sorted(image.size)
    if short * long > MAX_PIXELS or long > MAX_ASPECT * short:
        raise ValueError(f"{image.width} x {image.height} pixels are too many, or too narrow")
    return image


@cache
def _suffixes() -> tuple[str, ...]:
    """Returns the suffixes of `FORMATS`; asking for them loads all plugins of Pillow."""
    return tuple(suffix for suffix, kind in Image.registered_extensions().items()
                 if kind in FORMATS)


def _is_picture(path: str) -> bool:
    if path.lower().endswith(_suffixes()):
        return True
    try:
        return bool(picture_size(path))
    except DAMAGED:
        return False


def _identity(folder: str | os.PathLike) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _upright(image: Image.Image) -> Image.Image:
    if image.format == "TIFF" or any(key in image.info for key in _ORIENTATION_IN):
        return ImageOps.exif_transpose(image)
    return image


def _eight_bits(image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    largest = values.max(initial=0)
    if image.mode == "F":
        scale = 255.0 if largest <= 1 else 1.0
    else:
        scale = 255 / (_BITS_12 if largest <= _BITS_12 else _BITS_16)
        if 0 < largest <= _BITS_12 and not _noted[0]:
            _noted[0] = 1
            note(f"16-bit pictures without a value above {_BITS_12} are read as pictures of 12 "
                 "bits")
    found = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), _ROWS):  # in float64, which takes 8 bytes and copies
        block = values[start:start + _ROWS].astype(np.float64) * scale
        found[start:start + _ROWS] = np.rint(np.nan_to_num(block).clip(0, 255))
    return found
