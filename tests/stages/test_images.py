"""Decoding equals Pillow, damaged files give a reason, folders are listed the same everywhere."""

import errno
import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS, ImageFolder

from stages.shared import images
from stages.shared.images import ImageError, decode, find_classes, find_images, read_bytes
from store.errors import DataError, RetryError


def photograph(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth shapes with noise on them, (height, width, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 12 + 2, width // 12 + 2, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noise = rng.integers(-15, 16, (height, width, 3))
    pixels: NDArray[np.uint8] = np.clip(smooth.astype(np.int64) + noise, 0, 255).astype(np.uint8)
    return pixels


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(height: int, width: int, bits: int, color: int, raw: bytes) -> bytes:
    """A PNG of kinds that Pillow cannot write; ``raw`` has a filter byte before every row."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def by_pillow(data: bytes) -> NDArray[np.uint8]:
    """What torchvision's ImageFolder loads."""
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"))


PHOTO = Image.fromarray(photograph(61, 83))

ODD_IMAGES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encoded(PHOTO, "JPEG"),
    "progressive jpeg": lambda: encoded(PHOTO, "JPEG", progressive=True),
    "grey jpeg": lambda: encoded(PHOTO.convert("L"), "JPEG"),
    "cmyk jpeg": lambda: encoded(PHOTO.convert("CMYK"), "JPEG"),
    "rgb jpeg": lambda: encoded(PHOTO, "JPEG", keep_rgb=True),
    "jpeg with bytes after its end": lambda: encoded(PHOTO, "JPEG") + b"junk",
    "wide jpeg": lambda: encoded(Image.fromarray(photograph(1, 5000)), "JPEG"),
    "tall jpeg": lambda: encoded(Image.fromarray(photograph(5000, 1)), "JPEG"),
    "1 pixel jpeg": lambda: encoded(Image.fromarray(photograph(1, 1)), "JPEG"),
    "1 pixel png": lambda: encoded(Image.fromarray(photograph(1, 1)), "PNG"),
    "png": lambda: encoded(PHOTO, "PNG"),
    "alpha png": lambda: encoded(PHOTO.convert("RGBA"), "PNG"),
    "palette png": lambda: encoded(PHOTO.convert("P"), "PNG"),
    "1 bit png": lambda: encoded(PHOTO.convert("1"), "PNG"),
    "webp": lambda: encoded(PHOTO, "WEBP"),
    "bmp": lambda: encoded(PHOTO, "BMP"),
    "tiff": lambda: encoded(PHOTO, "TIFF"),
    "cmyk tiff": lambda: encoded(PHOTO.convert("CMYK"), "TIFF"),
    "ppm": lambda: encoded(PHOTO, "PPM"),
    "16-bit colour png": lambda: png(2, 2, 16, 2, (b"\0" + struct.pack(">6H", *[40000] * 6)) * 2),
}


@pytest.mark.parametrize("name", ODD_IMAGES)
def test_decodes_to_the_pixels_that_image_folder_loads(name: str) -> None:
    data = ODD_IMAGES[name]()
    pixels = decode(data)
    np.testing.assert_array_equal(pixels, by_pillow(data))
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable, "torch warns of arrays that it may not write to"


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411"])
@pytest.mark.parametrize("size", [(1, 7), (17, 3), (101, 99)])
def test_jpeg_pixels_are_exactly_pillows(subsampling: str, size: tuple[int, int]) -> None:
    data = simplejpeg.encode_jpeg(photograph(*size), colorsubsampling=subsampling)
    np.testing.assert_array_equal(decode(data), by_pillow(data))


def test_ordinary_jpegs_take_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(data: bytes, max_pixels: int) -> None:
        raise AssertionError("Pillow was asked")

    monkeypatch.setattr(images, "_decode_with_pillow", refuse)
    for name in ("jpeg", "progressive jpeg", "grey jpeg", "rgb jpeg"):
        decode(ODD_IMAGES[name]())


def test_a_jpeg_with_a_harmless_fault_is_read_as_pillow_reads_it() -> None:
    data = encoded(PHOTO, "JPEG")
    start_of_scan = data.index(b"\xff\xda")
    faulty = data[:start_of_scan] + b"\x12\x34" + data[start_of_scan:]
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(faulty)
    np.testing.assert_array_equal(decode(faulty), decode(data))


def test_exif_orientation_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(PHOTO, "JPEG", exif=exif)).shape == (61, 83, 3)


def test_an_animation_is_its_first_frame() -> None:
    frames = [Image.fromarray(np.full((5, 6, 3), value, np.uint8)) for value in (10, 200)]
    for kind in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(decode(data), np.full((5, 6, 3), 10))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_keeps_its_high_byte(kind: str) -> None:
    values = np.array([[0, 255, 256], [40000, 65279, 65535]], dtype=np.uint16)
    pixels = decode(encoded(Image.fromarray(values), kind))
    np.testing.assert_array_equal(pixels, np.repeat((values >> 8)[:, :, None], 3, axis=2))


def test_16_bit_grey_and_16_bit_colour_agree() -> None:
    grey = png(1, 1, 16, 0, b"\0" + struct.pack(">H", 40000))
    color = png(1, 1, 16, 2, b"\0" + struct.pack(">3H", *[40000] * 3))
    np.testing.assert_array_equal(decode(grey), decode(color))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_without_a_range_are_refused(dtype: type[np.generic]) -> None:
    data = encoded(Image.fromarray(np.ones((2, 2), dtype=dtype)), "TIFF")
    with pytest.raises(ImageError, match="nothing says which value is white"):
        decode(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello", "not an image of a known format"),
        (b"\n <!DOCTYPE html><p>404", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\xff\xd8\xff", "no readable JPEG header"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
        (encoded(PHOTO, "JPEG")[:1500], "truncated"),
        (encoded(PHOTO.convert("CMYK"), "JPEG")[:2500], "truncated"),
        (encoded(PHOTO, "PNG")[:3000], "truncated"),
        (encoded(PHOTO, "WEBP")[:300], "damaged"),
        (encoded(PHOTO, "TIFF")[:300], "damaged"),
    ],
)
def test_what_is_no_image_gives_a_short_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason) as caught:
        decode(data)
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value), "a memory address would make the store differ"


def test_a_reason_is_one_line_without_memory_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("broken\n  stream <BytesIO at 0x7f00aa>")

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(ImageError, match=r"^damaged: broken stream <BytesIO>$"):
        decode(b"anything")


def test_any_cut_of_any_image_is_refused_or_read_but_never_crashes() -> None:
    for make in ODD_IMAGES.values():
        data = make()
        for end in np.linspace(0, len(data) - 1, 25, dtype=int).tolist():
            try:
                decode(data[:end])
            except ImageError as error:
                assert str(error)


def test_any_flipped_byte_is_refused_or_read_but_never_crashes() -> None:
    rng = np.random.default_rng(0)
    for name in ("jpeg", "cmyk jpeg", "palette png", "tiff", "webp", "bmp"):
        data = ODD_IMAGES[name]()
        for _ in range(40):
            damaged = bytearray(data)
            damaged[rng.integers(len(data) if rng.random() < 0.5 else 60)] ^= rng.integers(1, 256)
            try:
                decode(bytes(damaged), max_pixels=10_000_000)
            except ImageError as error:
                assert str(error)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_pixel_limit_is_inclusive(kind: str) -> None:
    data = encoded(PHOTO, kind)
    assert decode(data, max_pixels=61 * 83).shape == (61, 83, 3)
    with pytest.raises(ImageError, match=r"too many pixels: 83 x 61, at most 5062"):
        decode(data, max_pixels=61 * 83 - 1)


@pytest.mark.parametrize("side", [10_001, 12_000, 13_000, 50_000])
def test_a_bomb_is_refused_from_its_header(side: int) -> None:
    bomb = png(side, side, 8, 2, b"")
    with pytest.raises(ImageError, match="too many pixels"):
        decode(bomb)
    jpeg = bytearray(encoded(PHOTO, "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    with pytest.raises(ImageError, match="too many pixels"):
        decode(bytes(jpeg))


def test_warnings_of_pillow_do_not_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        decode(encoded(PHOTO, "PNG"))
        decode(encoded(PHOTO.convert("P"), "PNG", transparency=bytes(range(256))))
        warnings.warn("of somebody else", stacklevel=1)
    assert [str(warning.message) for warning in leaked] == ["of somebody else"]


def test_reads_bytes_and_says_why_it_cannot(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"abc")
    (tmp_path / "folder.jpg").mkdir()
    assert read_bytes(tmp_path / "a.jpg") == b"abc"
    with pytest.raises(ImageError, match=r"^missing$"):
        read_bytes(tmp_path / "b.jpg")
    with pytest.raises(ImageError, match="a folder"):
        read_bytes(tmp_path / "folder.jpg")
    with pytest.raises(ImageError, match="cannot be read"):
        read_bytes(tmp_path / ("a" * 300))


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.EAGAIN, errno.ETIMEDOUT])
def test_transient_faults_are_tried_again(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = [OSError(code, os.strerror(code))] * 3

    def flaky(path: Path) -> bytes:
        if faults:
            raise faults.pop()
        return b"abc"

    monkeypatch.setattr(images, "_read_regular", flaky)
    assert read_bytes(Path("x"), num_attempts=4, pause=0) == b"abc"
    faults[:] = [OSError(code, os.strerror(code))] * 4
    with pytest.raises(RetryError, match=r"x: reading failed 4 times"):
        read_bytes(Path("x"), num_attempts=4, pause=0)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def test_finds_what_image_folder_finds(tmp_path: Path) -> None:
    touch(tmp_path, "b/1.jpg", "a/x y.JPEG", "a/Z.png", "a/deep/er/2.webp", "a/ü.tif", "a/a.jpg")
    touch(tmp_path, "é/1.ppm", "Z/1.pgm", "a-b/1.bmp", "a/10.jpg", "a/9.jpg")
    found = find_images(tmp_path)
    theirs = ImageFolder(str(tmp_path))
    assert list(found.classes) == theirs.classes
    assert set(found.paths) == {os.path.relpath(path, tmp_path) for path, _ in theirs.samples}
    assert list(found.paths) == sorted(found.paths, key=lambda path: path.encode())
    assert found.rejects == ()
    assert images.IMAGE_EXTENSIONS == IMG_EXTENSIONS


def test_sorts_by_utf8_bytes_and_not_by_parts(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "a b/1.jpg", "a-b/1.jpg", "\uffff/1.jpg", "\U0001f600/1.jpg")
    assert find_classes(tmp_path) == ("a", "a b", "a-b", "\uffff", "\U0001f600")
    # In UTF-8 a space and a hyphen come before the slash that ends a shorter name.
    assert find_images(tmp_path).paths[:3] == ("a b/1.jpg", "a-b/1.jpg", "a/1.jpg")


def test_hidden_files_and_other_extensions_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "a/._1.jpg", "a/.hidden.jpg", ".cache/1.jpg", "a/.d/1.jpg")
    touch(tmp_path, "a/1.GIF", "a/2.gif", "a/notes.txt", "a/README", "top.txt")
    found = find_images(tmp_path)
    assert (found.classes, found.paths, found.rejects) == (("a",), ("a/1.jpg",), ())
    assert found.num_ignored == {".gif": 2, ".txt": 1, "none": 1}


def test_tells_what_only_looks_like_an_image(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "a/folder.jpg/2.jpg", "loose.jpg")
    (tmp_path / "a/broken.jpg").symlink_to("nowhere")
    (tmp_path / "a/self.jpg").symlink_to("self.jpg")
    (tmp_path / "a/link.jpg").symlink_to("1.jpg")
    os.mkfifo(tmp_path / "a/pipe.jpg")
    (tmp_path / "a/loop").symlink_to("..")
    touch(tmp_path, os.fsdecode(b"a/caf\xe9.jpg"), os.fsdecode(b"b\xff/1.jpg"))
    found = find_images(tmp_path)
    assert found.classes == ("a",)
    assert found.paths == ("a/1.jpg", "a/folder.jpg/2.jpg", "a/link.jpg")
    assert dict(found.rejects) == {
        "a/broken.jpg": "a broken link",
        r"a/caf\xe9.jpg": "the name is not UTF-8",
        "a/folder.jpg": "a folder, not an image file",
        "a/loop": "a link to a folder that contains it",
        "a/pipe.jpg": "not a regular file",
        "a/self.jpg": "a broken link",
        r"b\xff/1.jpg": "the name is not UTF-8",
        "loose.jpg": "not in a class folder",
    }


def test_a_folder_that_cannot_be_used_is_one_clear_line(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(DataError, match=rf"{missing}: .*No such file"):
        find_images(missing)
    touch(tmp_path, "file")
    with pytest.raises(DataError, match="Not a directory"):
        find_images(tmp_path / "file")
    with pytest.raises(DataError, match="no class folders"):
        find_images(tmp_path)
    touch(tmp_path, "a/1.jpg", "b/1.txt")
    (tmp_path / "c").mkdir()
    with pytest.raises(DataError, match=rf"{tmp_path}/b \(and 1 more classes\): .*without images"):
        find_images(tmp_path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_pixels_go_where_they_are_wanted(kind: str) -> None:
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)).save(data, kind)
    expected = decode(data.getvalue())
    memory = np.zeros((7, 9, 3), np.uint8)
    assert decode(data.getvalue(), into=memory) is memory
    np.testing.assert_array_equal(memory, expected)
    for shape in [(9, 7, 3), (7, 8, 3), (8, 9, 3)]:
        other = np.full(shape, 5, np.uint8)
        np.testing.assert_array_equal(decode(data.getvalue(), into=other), expected)
        assert (other == 5).all()


def test_what_simplejpeg_refuses_still_goes_where_it_is_wanted() -> None:
    data = io.BytesIO()
    Image.new("CMYK", (9, 7), (10, 200, 30, 40)).save(data, "JPEG")
    memory = np.zeros((7, 9, 3), np.uint8)
    assert decode(data.getvalue(), into=memory) is memory
    np.testing.assert_array_equal(memory, decode(data.getvalue()))
