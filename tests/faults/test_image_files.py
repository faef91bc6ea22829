"""Odd image files: each is read as the rule says, or refused with its reason."""

import io
import re
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
import torchvision.io
from numpy.typing import NDArray
from PIL import Image

from stages.shared.images import ImageError, decode
from tests.faults.odd_images import HIGH_BYTES, PHOTO, READ, REFUSED, encoded
from tests.faults.soak import rounds

MAX_PIXELS = 1_000_000
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def by_pillow(data: bytes) -> NDArray[np.uint8]:
    """What torchvision's ImageFolder loads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about what is damaged
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return np.array(image.convert("RGB"))


def by_torchvision(data: bytes) -> NDArray[np.generic]:
    """What torchvision's own decoders give."""
    given = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of these decoders, since 0.29
        pixels = torchvision.io.decode_image(given, mode=torchvision.io.ImageReadMode.RGB)
    return np.asarray(pixels.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("name", READ)
def test_is_read_as_its_rule_says(name: str) -> None:
    odd = READ[name]
    pixels = decode(odd.data)
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    if odd.rule == "high byte":
        np.testing.assert_array_equal(pixels, np.repeat(HIGH_BYTES[name][:, :, None], 3, axis=2))
    else:
        np.testing.assert_array_equal(pixels, by_pillow(odd.data))
    if odd.rule == "both":
        np.testing.assert_array_equal(pixels, by_torchvision(odd.data))


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_with_its_reason(name: str) -> None:
    data, reason = REFUSED[name]
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert re.search(reason, str(caught.value))
    assert str(caught.value).isprintable()


def test_orientation_is_no_part_of_the_pixels() -> None:
    plain = decode(READ["jpeg/plain.jpg"].data)
    for number in (1, 2, 3, 6, 8):
        np.testing.assert_array_equal(decode(READ[f"jpeg/exif {number}.jpg"].data), plain)


DAMAGED = {
    **{name: READ[f"jpeg/{name}.jpg"].data for name in ("plain", "progressive", "grey", "cmyk")},
    **{name: READ[f"jpeg/{name}.jpg"].data for name in ("restarts", "rgb", "ycck", "arithmetic")},
    "png": READ["png/palette, some clear.png"].data,
    "interlaced": READ["png/interlaced.png"].data,
    "webp": READ["other/lossy.webp"].data,
    "lossless": READ["other/lossless alpha.webp"].data,
    "gif": READ["other/animated gif.jpg"].data,
    "tiff": READ["other/lzw.tif"].data,
    "bmp": encoded(PHOTO.resize((9, 7)), "BMP"),
}


def damaged_at(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut off, overwritten or with bytes missing somewhere, more often near its start."""
    place = int(rng.integers(len(data) if rng.random() < 0.6 else min(len(data), 700)))
    kind = rng.random()
    if kind < 0.35:
        return data[:place]
    if kind < 0.5:
        return data[:place] + data[place + int(rng.integers(1, 40)) :]
    changed = bytearray(data)
    for other in (place, *rng.integers(len(data), size=rng.integers(0, 3)).tolist()):
        changed[other] = int(rng.integers(256))
    return bytes(changed)


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_anywhere_it_is_what_pillow_shows(name: str) -> None:
    """Or refused, where Pillow refuses it; never other pixels than ImageFolder's."""
    rng = np.random.default_rng([*name.encode()])
    found: Counter[str] = Counter()
    for number in range(rounds(300)):
        data = damaged_at(DAMAGED[name], rng)
        shown = pixels = None
        try:
            pixels = decode(data, max_pixels=MAX_PIXELS)
        except ImageError as error:
            if "too many pixels" in str(error) or "nothing says which value" in str(error):
                found["refused by a rule"] += 1
                continue
        try:
            shown = by_pillow(data)
        except Exception:  # Pillow raises whatever its readers meet; both must refuse, see below
            found["refused"] += 1
        if shown is None or pixels is None:
            assert pixels is None, f"{name} {number}: read, but Pillow refuses it"
            assert shown is None, f"{name} {number}: refused, but Pillow reads it"
            continue
        found["read"] += 1
        np.testing.assert_array_equal(pixels, shown, err_msg=f"{name} {number}")
    print(f"{name}: {dict(found)}")  # pytest -rP shows it
    assert found["refused"]
