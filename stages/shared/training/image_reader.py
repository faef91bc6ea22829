"""Image files as pixels: read again where that may help, checked, kept where all are small.

H and W are an image's height and width in pixels.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from stages.shared.images import INDEXED_MAX_PIXELS, ImageError, decode, read_bytes
from stages.shared.training.selection import Selection
from store.errors import DataError

KEPT_BYTES = 128 * 2**20
"""Image sets that are smaller than this when decoded are decoded once and kept, per process."""

_REMEDY = "restore the file, or run `ferkd-pipeline stage index` again"


class Wanted(NamedTuple):
    """An image as it was when its crops were drawn."""

    path: str
    height: int
    width: int
    content_hash: int | None
    """xxh3-128 of the file; None: any file of this size will do."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the decoded image: (H, W, 3)."""
        return self.height, self.width, 3


def wanted_images(selection: Selection) -> Iterator[Wanted]:
    """Yield the images of a selection, in order."""
    hashes = selection.content_hashes
    sizes = zip(selection.heights.tolist(), selection.widths.tolist(), strict=True)
    for place, (path, (height, width)) in enumerate(zip(selection.paths, sizes, strict=True)):
        content_hash = None
        if hashes is not None:
            high, low = hashes[place].tolist()
            content_hash = high << 64 | low
        yield Wanted(path, height, width, content_hash)


class ToRead(NamedTuple):
    """An image that crops of a selection are cut out of."""

    wanted: Wanted
    place: int | None
    """Whose own crops it gives, of the selection's images; None: no image's."""
    partners: list[int]
    """Which mixed crops it is mixed into: their numbers among the J that are mixed."""


def images_to_read(selection: Selection) -> list[ToRead]:
    """Return the images of a selection and those that its crops are mixed with, each path once.

    Own images come first, in their order; only one that the selection holds twice comes twice.
    """
    own = [ToRead(each, place, []) for place, each in enumerate(wanted_images(selection))]
    files = selection.partners
    if files is None:
        return own
    found = {each.wanted.path: each for each in reversed(own)}
    others: list[ToRead] = []
    sizes = zip(files.heights.tolist(), files.widths.tolist(), strict=True)
    hashes = files.content_hashes.tolist()
    for number, (path, (height, width)) in enumerate(zip(files.paths, sizes, strict=True)):
        if path not in found:
            high, low = hashes[number]
            found[path] = ToRead(Wanted(path, height, width, high << 64 | low), None, [])
            others.append(found[path])
        found[path].partners.append(number)
    return own + others


class ImageReader:
    """Reads and decodes image files; keeps them where all of them are small."""

    def __init__(self, decoded_bytes: int) -> None:
        """``decoded_bytes``: size of all images that may be asked for."""
        self._kept: dict[str, NDArray[np.uint8]] | None
        self._kept = {} if decoded_bytes <= KEPT_BYTES else None
        self._scratch = np.empty(0, np.uint8)

    def read(self, wanted: Wanted) -> NDArray[np.uint8]:
        """Return an image as (H, W, 3) uint8, to be used before the next one is read.

        Raises:
            DataError: the file is missing, is not an image, or is not the one that is wanted.
            RetryError: the file could not be read this time.
        """
        if self._kept is None:
            return _read(wanted, self._scratch_for(wanted))
        image = self._kept.get(wanted.path)
        if image is None:
            image = self._kept[wanted.path] = _read(wanted, None)
        return image

    def read_into(self, wanted: Wanted, out: NDArray[np.uint8]) -> None:
        """Write an image to ``out`` (H, W, 3) uint8; raises as `read`."""
        if self._kept is None:
            _read(wanted, out)
        else:
            out[:] = self.read(wanted)

    def _scratch_for(self, wanted: Wanted) -> NDArray[np.uint8]:
        size = 3 * wanted.height * wanted.width
        if self._scratch.size < size:
            self._scratch = np.empty(size, np.uint8)
        return self._scratch[:size].reshape(wanted.shape)


def read_image(path: str) -> NDArray[np.uint8]:
    """Return an image file as (H, W, 3) uint8, whatever its size.

    Raises:
        DataError: the file is missing or is not an image.
        RetryError: the file could not be read this time.
    """
    try:
        return decode(read_bytes(Path(path)), max_pixels=INDEXED_MAX_PIXELS)
    except ImageError as error:
        raise _unusable(path, error) from None


def _read(wanted: Wanted, into: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """Return a wanted image, in ``into`` where that is given."""
    try:
        data = read_bytes(Path(wanted.path))
        # Before decoding: a file that was replaced by a damaged one was replaced above all.
        if not _is_the_one(wanted, data):
            raise DataError(
                f"{wanted.path} is not the file that was indexed and labelled; {_REMEDY}"
            )
        image = decode(data, max_pixels=INDEXED_MAX_PIXELS, into=into)
    except ImageError as error:
        raise _unusable(wanted.path, error) from None
    if image.shape != wanted.shape:
        raise DataError(
            f"{wanted.path} is {image.shape[0]}x{image.shape[1]} pixels, but was "
            f"{wanted.height}x{wanted.width} when it was indexed; {_REMEDY}"
        )
    return image


def _is_the_one(wanted: Wanted, data: bytes) -> bool:
    expected = wanted.content_hash
    return expected is None or xxhash.xxh3_128_intdigest(data) == expected


def _unusable(path: str, error: ImageError) -> DataError:
    return DataError(f"{path}: {error}; {_REMEDY} to leave it out")
