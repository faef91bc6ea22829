"""Image files: finding them in class folders, reading their bytes, decoding them to RGB.

H and W are an image's height and width in pixels. Pixels are those that Pillow's
``convert("RGB")`` gives, which is what torchvision's ImageFolder loads, with one exception: grey of
12 or 16 bits keeps its 8 highest ones (as Pillow itself does for 16-bit colour) where Pillow would
clip every value above 255 to white. EXIF orientation is ignored, alpha is dropped, an animation is
its first frame.
"""

import io
import os
import re
import stat
import time
import warnings
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from stages.shared.find_images import (
    IMAGE_EXTENSIONS,
    FoundImages,
    Reject,
    find_classes,
    find_images,
)
from store.errors import EXHAUSTED_ERRNOS, TRANSIENT_ERRNOS, FerkdError, RetryError

__all__ = [
    "IMAGE_EXTENSIONS",
    "INDEXED_MAX_PIXELS",
    "MAX_PIXELS",
    "FoundImages",
    "ImageError",
    "Reject",
    "decode",
    "find_classes",
    "find_images",
    "read_bytes",
]

MAX_PIXELS = 100_000_000
"""Default limit of an image's pixels: 300 MB decoded. Cameras stay below it; a 12,000 x 12,000
bomb, which Pillow lets through with a warning, does not."""

INDEXED_MAX_PIXELS = 178_956_970
"""Limit for images that stage index accepted, whatever its own limit was: Pillow's."""

MAX_FILE_BYTES = 2**31
"""Larger files are not read: uncompressed, the most pixels that are allowed take less."""

_JPEG_MAGIC = b"\xff\xd8\xff"

_RGB_COLORSPACES = frozenset({"YCbCr", "RGB", "Gray"})
"""What simplejpeg turns into RGB exactly as Pillow does. CMYK and YCCK need Pillow's rules."""

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's decoders that may see untrusted bytes; its EPS one, for example, starts Ghostscript."""

_NOT_IMAGES = (
    (re.compile(rb"\s*<"), "not an image: HTML or XML text"),
    (re.compile(rb"version https://git-lfs"), "not an image: a Git LFS pointer, fetch its content"),
)


_JPEG_FRAME = re.compile(
    rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]\x00.([\x02-\x10])", re.DOTALL
)
"""The segment that says how many bits a channel has."""


class ImageError(Exception):
    """An image that cannot be used; the message is a short reason for the table of rejects."""


def decode(
    data: bytes, *, max_pixels: int = MAX_PIXELS, into: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Decode an image file to RGB, by what its bytes are and not by its name.

    ``max_pixels`` is checked against the header, before memory is taken. Pillow itself refuses
    more than 178,956,970 whatever is asked for. Returns a contiguous, writable (H, W, 3) array:
    ``into``, which is contiguous too, where that has the image's shape. New memory for every image
    costs a quarter of the time that decoding takes.

    Raises:
        ImageError: the bytes are no image, are damaged or truncated, or hold too many pixels.
    """
    if not data:
        raise ImageError("empty file")
    pixels = None
    if data.startswith(_JPEG_MAGIC):
        pixels = _decode_jpeg(data, max_pixels, into)
    if pixels is None:
        pixels = _decode_with_pillow(data, max_pixels)
    if into is None or pixels is into or pixels.shape != into.shape:
        return pixels
    into[:] = pixels
    return into


def read_bytes(path: Path, *, num_attempts: int = 4, pause: float = 0.1) -> bytes:
    """Read a whole file, trying again (after ``pause`` seconds, then 4 times longer) where it may
    help.

    Raises:
        ImageError: there is no readable file of that name, and trying again will not change it.
        RetryError: the file system still fails after the last attempt, or the file's folder is
            gone.
        FerkdError: there are no file handles left, or no memory.
    """
    for attempt in range(num_attempts):
        try:
            return _read_regular(path)
        except FileNotFoundError as error:
            if not path.parent.exists():  # no fault of this one image
                raise RetryError(
                    f"{path.parent}: this folder vanished; check its mount and run the same "
                    "command again; only if it was deleted on purpose, index anew"
                ) from error
            raise ImageError("missing") from error
        except IsADirectoryError as error:
            raise ImageError("a folder, not an image file") from error
        except OSError as error:
            if error.errno in EXHAUSTED_ERRNOS:
                raise FerkdError(
                    f"{path}: cannot be read ({error.strerror}); raise `ulimit -n`, or lower "
                    "num_workers of the stage"
                ) from error
            if error.errno not in TRANSIENT_ERRNOS:
                raise ImageError(f"cannot be read: {error.strerror}") from error
            if attempt + 1 == num_attempts:
                raise RetryError(
                    f"{path}: reading failed {num_attempts} times ({error.strerror}); "
                    "check the file system and run the same command again"
                ) from error
            time.sleep(pause * 4**attempt)
    raise AssertionError("num_attempts is at least 1")


def _read_regular(path: Path) -> bytes:
    """Read a file, but wait for no pipe that became of it."""
    with open(path, "rb", buffering=0, opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise ImageError(f"too large: {status.st_size} bytes, no image has so many")
        return file.read()


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _decode_jpeg(
    data: bytes, max_pixels: int, into: NDArray[np.uint8] | None
) -> NDArray[np.uint8] | None:
    """Decode through simplejpeg, or return None for what only Pillow can judge.

    simplejpeg is strict: it refuses what libjpeg merely warns of. Pillow reads such a file as
    ImageFolder would, and tells truncated files from those with harmless faults.
    """
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    if colorspace not in _RGB_COLORSPACES:
        return None
    _check_pixels(int(width), int(height), max_pixels)
    fits = into is not None and into.shape == (height, width, 3)
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, "RGB", buffer=into if fits else None
        )
    except ValueError:
        return None
    return into if into is not None and fits else pixels


def _decode_with_pillow(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    _silence_pillow()
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_pixels(image.width, image.height, max_pixels)
            return _to_rgb(image)
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageError(_describe_unknown(data)) from error
    except Image.DecompressionBombError as error:
        raise ImageError("too many pixels: more than Pillow allows") from error
    except Exception as error:
        # Pillow's decoders raise many types on damaged bytes (SyntaxError and struct.error among
        # them); whatever it is, this image is damaged and the run goes on.
        raise ImageError(f"damaged: {_one_line(error)}") from error


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Pixels of the first frame; `Image.convert` clips 16-bit grey, so that is done here."""
    is_16_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    if is_16_bit:
        high_byte = (np.asarray(image) >> (_grey_bits(image) - 8)).astype(np.uint8)
        return np.repeat(high_byte[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        kind = "integer" if image.mode == "I" else "floating-point"
        raise ImageError(f"32-bit {kind} pixels: nothing says which value is white")
    return np.array(image.convert("RGB"))


def _grey_bits(image: Image.Image) -> int:
    """Bits of a grey pixel of more than 8; Pillow scales those of other formats to 16."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 16
    if image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
        raise ImageError("grey of 16 bits in which 0 is white: Pillow shows it as its negative")
    bits: int = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]
    return bits


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(f"too many pixels: {width} x {height}, at most {max_pixels} are allowed")


def _describe_unknown(data: bytes) -> str:
    if data.startswith(_JPEG_MAGIC):
        frame = _JPEG_FRAME.search(data)
        if frame and frame[1][0] > 8:
            return f"a JPEG of {frame[1][0]} bits a channel, which no decoder here reads"
        return "damaged: no readable JPEG header"
    for pattern, reason in _NOT_IMAGES:
        if pattern.match(data):
            return reason
    return "not an image of a known format"


def _one_line(error: Exception) -> str:
    """What an exception says, without memory addresses: the reason is kept in the store."""
    text = re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(error).split()))
    return text[:200] or type(error).__name__


def _silence_pillow() -> None:
    """Ignore Pillow's warnings about an image's contents; errors are what counts.

    Not `warnings.catch_warnings`, which is not safe in threads; adding the filter again each time
    (it is added once) survives tests and callers that put other filters in place.
    """
    if not (warnings.filters and warnings.filters[0] == _PILLOW_FILTER):
        warnings.filterwarnings("ignore", module=_PILLOW_MODULES)


_PILLOW_MODULES = r"PIL\."
_PILLOW_FILTER = ("ignore", None, Warning, re.compile(_PILLOW_MODULES), 0)
