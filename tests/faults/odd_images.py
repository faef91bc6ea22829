"""Odd image files, all made here and always the same: what people's folders really hold.

`READ` are files that must be read, with the rule that says as what; `REFUSED` are files that must
be refused, with words of the reason; `NAMES` are names of files; `write_corpus` puts all of them
into class folders.
"""

import io
import os
import socket
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

HEIGHT, WIDTH = 41, 53

Rule = Literal["both", "pillow", "high byte"]
"""Which pixels are right: those of Pillow's ``convert("RGB")``, which torchvision's own decoder
gives, too (both) or does not give or cannot give (pillow); or, of grey of more than 8 bits, its
highest 8 (Pillow makes all above 255 white)."""


@dataclass(frozen=True)
class Odd:
    """A file that must be read."""

    data: bytes
    rule: Rule = "both"


def photograph(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> NDArray[np.uint8]:
    """A smooth picture with noise, (height, width, 3)."""
    rng = np.random.default_rng([seed, height, width])
    rows, columns = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
    wave = np.sin(rows * 0.15 + rng.random(3) * 6) + np.cos(columns * 0.11 + rng.random(3) * 6)
    noise = rng.integers(-20, 21, (height, width, 3))
    return np.clip(128 + 50 * wave + noise, 0, 255).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image as Pillow writes it."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# PNG, by hand: kinds and sizes that Pillow does not write.


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(
    height: int, width: int, bits: int, color: int, rows: bytes, *, lace: int = 0, more: bytes = b""
) -> bytes:
    """A PNG; ``rows`` have a filter byte each, ``more`` are chunks before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, lace)
    pixels = _chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + more + pixels + _chunk(b"IEND", b"")


def _plain_rows(values: NDArray[Any]) -> bytes:
    """Rows of big-endian pixels, none filtered."""
    return b"".join(b"\0" + row.tobytes() for row in values)


def _wide(channels: int) -> NDArray[Any]:
    """16-bit pixels (HEIGHT, WIDTH, channels) of all sizes."""
    rng = np.random.default_rng(channels)
    return rng.integers(0, 65536, (HEIGHT, WIDTH, channels)).astype(">u2")


def _laced(pixels: NDArray[np.uint8]) -> bytes:
    """The seven passes of an interlaced PNG."""
    starts = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2))
    passes = [pixels[y::down, x::right] for y, x, down, right in (*starts, (1, 0, 2, 1))]
    return b"".join(_plain_rows(each) for each in passes)


def _apng() -> bytes:
    frames = [Image.fromarray(photograph(seed=seed)) for seed in (1, 2)]
    return encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])


# JPEG, by hand.


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def tiny_jpeg(frame: int, entropy: bytes, *, bits: int = 8, scan: bytes = b"\0\x3f\0") -> bytes:
    """A grey JPEG of one block; ``frame`` is the marker that says how it is coded."""
    size = struct.pack(">BHHB", bits, 8, 8, 1)
    tables = [bytes([kind]) + bytes([0, 1, *[0] * 14]) + b"\0" for kind in (0x00, 0x10)]
    return (
        b"\xff\xd8"
        + _segment(0xDB, b"\0" + b"\xff" * 64)
        + _segment(frame, size + b"\x01\x11\0")
        + b"".join(_segment(0xC4, table) for table in tables)
        + _segment(0xDA, b"\x01\x01\0" + scan)
        + entropy
        + b"\xff\xd9"
    )


def without_segments(data: bytes, *markers: int) -> bytes:
    """A JPEG without its segments of these kinds, such as Adobe's."""
    place, kept = 2, [data[:2]]
    while data[place + 1] != 0xDA:
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4])
        if data[place + 1] not in markers:
            kept.append(data[place:end])
        place = end
    return b"".join([*kept, data[place:]])


def _resized_in_header(data: bytes, height: int, width: int) -> bytes:
    frame = data.index(b"\xff\xc0")
    return data[: frame + 5] + struct.pack(">HH", height, width) + data[frame + 9 :]


def _ycck() -> bytes:
    """Adobe's: the CMYK file of Pillow with three channels said to be YCC (transform 2)."""
    data = encoded(Image.fromarray(photograph()).convert("CMYK"), "JPEG")
    place = data.index(b"Adobe") + 11
    return data[:place] + b"\x02" + data[place + 1 :]


def _rotated(orientation: int, image: Image.Image | None = None, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image or PHOTO, kind, exif=exif)


# TIFF, by hand: little-endian, one strip or tile.


def tiff(height: int, width: int, bits: int, white_is_0: bool, data: bytes) -> bytes:
    """A grey TIFF of one strip."""
    shape = [(256, width), (257, height), (258, bits), (259, 1), (262, 0 if white_is_0 else 1)]
    tags = [*shape, (273, 8 + 2 + 12 * 9 + 4), (277, 1), (278, height), (279, len(data))]
    listed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 9) + listed + b"\0" * 4 + data


def _tiled_tiff() -> bytes:
    """Grey of 40 x 24 in tiles of 16."""
    pixels = np.zeros((32, 48), np.uint8)
    pixels[:24, :40] = photograph(24, 40)[..., 0]
    tiles = [pixels[y : y + 16, x : x + 16].tobytes() for y in (0, 16) for x in (0, 16, 32)]
    num_tags, num_tiles = 9, len(tiles)
    after = 8 + 2 + 12 * num_tags + 4
    first = after + 8 * num_tiles
    tags = [(256, 1, 40), (257, 1, 24), (258, 1, 8), (259, 1, 1), (262, 1, 1), (322, 1, 16)]
    tags += [(323, 1, 16), (324, num_tiles, after), (325, num_tiles, after + 4 * num_tiles)]
    listed = b"".join(struct.pack("<HHII", tag, 4, count, value) for tag, count, value in tags)
    offsets = struct.pack(f"<{num_tiles}I", *range(first, first + 256 * num_tiles, 256))
    sizes = struct.pack(f"<{num_tiles}I", *[256] * num_tiles)
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", num_tags)
    return head + listed + b"\0" * 4 + offsets + sizes + b"".join(tiles)


def twelve_bits(values: NDArray[Any]) -> bytes:
    """Rows of 12-bit values, two of them in three bytes; (H, W) with even W."""
    first, second = values[:, ::2].astype(np.int64), values[:, 1::2].astype(np.int64)
    packed = [first >> 4, (first & 15) << 4 | second >> 8, second & 255]
    return np.stack(packed, axis=-1).astype(np.uint8).tobytes()


# WebP and GIF bombs: a header, and nothing behind it.


def _webp(kind: bytes, body: bytes) -> bytes:
    chunk = kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def webp_bomb(side: int) -> bytes:
    """Lossless WebP that says it has this many pixels a side."""
    return _webp(
        b"VP8L", b"\x2f" + struct.pack("<I", side - 1 | side - 1 << 14 | 1 << 28) + b"\0" * 9
    )


def gif_bomb(screen: int, frame: int) -> bytes:
    """GIF of one frame, larger than the screen where asked for."""
    head = b"GIF89a" + struct.pack("<HHBBB", screen, screen, 0, 0, 0)
    return head + b"," + struct.pack("<HHHHB", 0, 0, frame, frame, 0) + b"\x02\x02\x4c\x01\x00;"


def png_bomb(side: int) -> bytes:
    """A true one: black of one bit a pixel, small because all rows are alike."""
    return png(side, side, 1, 0, bytes((1 + -(-side // 8)) * side))


PHOTO = Image.fromarray(photograph())
_ALPHA = PHOTO.convert("RGBA")
_ALPHA.putalpha(Image.fromarray(photograph(seed=3)[..., 0]))
_FRAMES = [Image.fromarray(photograph(seed=seed)) for seed in (1, 2)]
_PALETTE = PHOTO.quantize(40)
_JPEG, _PNG = encoded(PHOTO, "JPEG"), encoded(PHOTO, "PNG")
_CMYK = encoded(PHOTO.convert("CMYK"), "JPEG")
_GREY_16 = _wide(1)[..., 0]

READ: dict[str, Odd] = {
    "jpeg/plain.jpg": Odd(_JPEG),
    "jpeg/again.jpg": Odd(_JPEG),
    "jpeg/progressive.jpg": Odd(encoded(PHOTO, "JPEG", progressive=True)),
    "jpeg/restarts.jpg": Odd(encoded(PHOTO, "JPEG", restart_marker_blocks=3)),
    "jpeg/grey.jpg": Odd(encoded(PHOTO.convert("L"), "JPEG")),
    "jpeg/rgb.jpg": Odd(encoded(PHOTO, "JPEG", keep_rgb=True)),
    "jpeg/cmyk.jpg": Odd(_CMYK),
    "jpeg/cmyk without adobe.jpg": Odd(without_segments(_CMYK, 0xEE)),
    "jpeg/ycck.jpg": Odd(_ycck()),
    "jpeg/arithmetic.jpg": Odd(tiny_jpeg(0xC9, b"\x53")),
    "jpeg/411.jpg": Odd(simplejpeg.encode_jpeg(photograph(), colorsubsampling="411")),
    "jpeg/440.jpg": Odd(simplejpeg.encode_jpeg(photograph(), colorsubsampling="440")),
    "jpeg/no jfif.jpg": Odd(without_segments(_JPEG, 0xE0)),
    "jpeg/junk behind.jpg": Odd(_JPEG + b"junk" * 100),
    "jpeg/junk before scan.jpg": Odd(_JPEG.replace(b"\xff\xda", b"\x12\x34\xff\xda", 1)),
    "jpeg/is a png.JPEG": Odd(_PNG),
    "jpeg/is a gif.jpg": Odd(encoded(PHOTO.quantize(30), "GIF")),
    "jpeg/icc.jpg": Odd(encoded(PHOTO, "JPEG", icc_profile=b"no profile at all")),
    "jpeg/bad exif.jpg": Odd(encoded(PHOTO, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")),
    **{f"jpeg/exif {n}.jpg": Odd(_rotated(n)) for n in (1, 2, 3, 6, 8)},
    "jpeg/exif cmyk.jpg": Odd(_rotated(6, PHOTO.convert("CMYK")), "pillow"),
    "png/exif.png": Odd(_rotated(6, kind="PNG"), "pillow"),
    "other/exif.webp": Odd(_rotated(6, kind="WEBP"), "pillow"),
    "png/is a jpeg.png": Odd(_JPEG),
    "png/grey.png": Odd(encoded(PHOTO.convert("L"), "PNG")),
    "png/grey and alpha.png": Odd(encoded(_ALPHA.convert("LA"), "PNG")),
    "png/alpha.png": Odd(encoded(_ALPHA, "PNG")),
    "png/1 bit.png": Odd(encoded(PHOTO.convert("1"), "PNG")),
    "png/2 bits.png": Odd(png(2, 4, 2, 0, b"\0\x1b\0\xe4")),
    "png/4 bits.png": Odd(png(2, 2, 4, 0, b"\0\x0f\0\x73")),
    "png/16 bits.png": Odd(png(HEIGHT, WIDTH, 16, 0, _plain_rows(_GREY_16)), "high byte"),
    "png/16 bits rgb.png": Odd(png(HEIGHT, WIDTH, 16, 2, _plain_rows(_wide(3))), "pillow"),
    "png/16 bits alpha.png": Odd(png(HEIGHT, WIDTH, 16, 6, _plain_rows(_wide(4))), "pillow"),
    "png/16 bits grey alpha.png": Odd(png(HEIGHT, WIDTH, 16, 4, _plain_rows(_wide(2))), "pillow"),
    "png/palette.png": Odd(encoded(_PALETTE, "PNG")),
    "png/palette, one clear.png": Odd(encoded(_PALETTE, "PNG", transparency=7)),
    "png/palette, some clear.png": Odd(encoded(_PALETTE, "PNG", transparency=bytes(range(40)))),
    "png/colour that is clear.png": Odd(encoded(PHOTO, "PNG", transparency=(9, 9, 9))),
    "png/interlaced.png": Odd(png(HEIGHT, WIDTH, 8, 2, _laced(photograph()), lace=1)),
    "png/gamma.png": Odd(
        png(
            HEIGHT,
            WIDTH,
            8,
            2,
            _plain_rows(photograph()),
            more=_chunk(b"gAMA", struct.pack(">I", 100_000)),
        )
    ),
    "png/animated.png": Odd(_apng()),
    "png/1x1.png": Odd(encoded(Image.fromarray(photograph(1, 1)), "PNG")),
    "png/1x5000.png": Odd(encoded(Image.fromarray(photograph(1, 5000)), "PNG")),
    "png/5000x1.png": Odd(encoded(Image.fromarray(photograph(5000, 1)), "PNG")),
    "other/1x5000.jpg": Odd(encoded(Image.fromarray(photograph(1, 5000)), "JPEG")),
    "other/5000x1.jpg": Odd(encoded(Image.fromarray(photograph(5000, 1)), "JPEG")),
    "other/lossy.webp": Odd(encoded(PHOTO, "WEBP")),
    "other/lossless.webp": Odd(encoded(PHOTO, "WEBP", lossless=True)),
    "other/alpha.webp": Odd(encoded(_ALPHA, "WEBP")),
    "other/lossless alpha.webp": Odd(encoded(_ALPHA, "WEBP", lossless=True, exact=True)),
    "other/animated.webp": Odd(
        encoded(_FRAMES[0], "WEBP", save_all=True, append_images=_FRAMES[1:], lossless=True),
        "pillow",
    ),
    "other/animated gif.jpg": Odd(
        encoded(
            _FRAMES[0].quantize(50), "GIF", save_all=True, append_images=[_FRAMES[1].quantize(50)]
        ),
        "pillow",
    ),
    "other/clear gif.png": Odd(encoded(_PALETTE, "GIF", transparency=3), "pillow"),
    "other/plain.bmp": Odd(encoded(PHOTO, "BMP"), "pillow"),
    "other/palette.bmp": Odd(encoded(_PALETTE, "BMP"), "pillow"),
    "other/1 bit.bmp": Odd(encoded(PHOTO.convert("1"), "BMP"), "pillow"),
    "other/plain.ppm": Odd(encoded(PHOTO, "PPM"), "pillow"),
    "other/text.ppm": Odd(b"P3\n# a comment\n2 1\n15\n0 7 15 15 0 3\n", "pillow"),
    "other/10 bits.pgm": Odd(b"P5 3 1 1023\n" + struct.pack(">3H", 1023, 512, 0), "high byte"),
    "other/plain.tif": Odd(encoded(PHOTO, "TIFF"), "pillow"),
    "other/lzw.tif": Odd(encoded(PHOTO, "TIFF", compression="tiff_lzw"), "pillow"),
    "other/jpeg.tif": Odd(encoded(PHOTO, "TIFF", compression="jpeg"), "pillow"),
    "other/cmyk.tif": Odd(encoded(PHOTO.convert("CMYK"), "TIFF"), "pillow"),
    "other/pages.tif": Odd(
        encoded(_FRAMES[0], "TIFF", save_all=True, append_images=_FRAMES[1:]), "pillow"
    ),
    "other/tiles.tif": Odd(_tiled_tiff(), "pillow"),
    "other/white is 0.tif": Odd(tiff(2, 2, 8, True, bytes([0, 1, 254, 255])), "pillow"),
    "other/16 bits.tif": Odd(
        tiff(HEIGHT, WIDTH, 16, False, _GREY_16.astype("<u2").tobytes()), "high byte"
    ),
    "other/12 bits.tif": Odd(
        tiff(
            2, 4, 12, False, twelve_bits(np.array([[0, 255, 256, 1000], [2048, 3000, 4094, 4095]]))
        ),
        "high byte",
    ),
}
"""Files that are read, by path; of equal bytes `again` is a second one."""

HIGH_BYTES: dict[str, NDArray[np.uint8]] = {
    "png/16 bits.png": (_GREY_16 >> 8).astype(np.uint8),
    "other/16 bits.tif": (_GREY_16 >> 8).astype(np.uint8),
    "other/10 bits.pgm": np.array([[255, 128, 0]], np.uint8),
    "other/12 bits.tif": np.array([[0, 15, 16, 62], [128, 187, 255, 255]], np.uint8),
}
"""Grey pixels of the files of this rule."""

REFUSED: dict[str, tuple[bytes, str]] = {
    "bad/empty.jpg": (b"", "empty file"),
    "bad/text.jpg": (b"not a picture\n", "not an image of a known format"),
    "bad/nul.jpg": (bytes(500), "not an image of a known format"),
    "bad/page.jpg": (b"\n<!DOCTYPE html><title>404</title>", "HTML or XML text"),
    "bad/drawing.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "HTML or XML text"),
    "bad/pointer.jpg": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    "bad/postscript.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    "bad/archive.jpg": (b"PK\x03\x04" + bytes(60), "not an image of a known format"),
    "bad/start.jpg": (_JPEG[:3], "no readable JPEG header"),
    "bad/header.jpg": (_JPEG[:300], "Truncated"),
    "bad/truncated.jpg": (_JPEG[: len(_JPEG) // 2], "[Tt]runcated"),
    "bad/last bytes.jpg": (_JPEG[:-30], "truncated"),
    "bad/truncated cmyk.jpg": (_CMYK[: len(_CMYK) // 2], "truncated"),
    "bad/12 bits.jpg": (tiny_jpeg(0xC1, b"\x0f", bits=12), "12 bits"),
    "bad/16 bits lossless.jpg": (tiny_jpeg(0xC3, b"\x0f", bits=16, scan=b"\x01\0\0"), "16 bits"),
    "bad/no size.jpg": (_resized_in_header(_JPEG, 0, 0), "damaged"),
    "bad/truncated.png": (_PNG[: len(_PNG) // 2], "truncated"),
    "bad/checksum.png": (_PNG[:60] + b"\0\0" + _PNG[62:], "damaged"),
    "bad/truncated.webp": (READ["other/lossy.webp"].data[:200], "damaged"),
    "bad/truncated.tif": (READ["other/plain.tif"].data[:300], "damaged"),
    "bad/truncated.bmp": (READ["other/plain.bmp"].data[:300], "truncated"),
    "bad/32 bits.tif": (encoded(Image.fromarray(np.ones((2, 2), np.int32)), "TIFF"), "32-bit"),
    "bad/floats.tif": (encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), "32-bit"),
    "bad/16 bits, white is 0.tif": (tiff(1, 2, 16, True, bytes(4)), "0 is white"),
    "bad/bomb.png": (png_bomb(20_000), "too many pixels"),
    "bad/small bomb.png": (png_bomb(10_001), "too many pixels: 10001 x 10001"),
    "bad/bomb.jpg": (_resized_in_header(_JPEG, 20_000, 20_000), "too many pixels"),
    "bad/bomb.webp": (webp_bomb(16_383), "too many pixels"),
    "bad/small bomb.webp": (webp_bomb(11_000), "too many pixels"),
    "bad/bomb gif.jpg": (gif_bomb(65_535, 65_535), "too many pixels"),
    "bad/hidden bomb gif.jpg": (gif_bomb(5, 12_000), "too many pixels"),
    "bad/bomb.ppm": (b"P6 99999 99999 255\n", "too many pixels"),
    "bad/unpacked bomb.png": (
        png(
            2, 2, 8, 0, b"\0\0\0" * 2, more=_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2**26)))
        ),
        "damaged",
    ),
}
"""Files that are refused, by path, with words of the reason."""

NAMES = (
    "a name with spaces.jpg",
    "new\nline.jpg",
    "tab\tand\rreturn.jpg",
    "\x1b[31mred\x07.jpg",
    "quotes'\"`$(true).jpg",
    "back\\slash.jpg",
    "-leading dash.jpg",
    "--debug.jpg",
    "per%20cent%s{0}.jpg",
    "star*and?[a].jpg",
    "comma,semi;colon:.jpg",
    "dots...jpg",
    " space first.jpg",
    "emoji \U0001f436.jpg",
    "e\u0301 decomposed.jpg",
    "\u00e9 decomposed.jpg",
    "right \u202eto left.jpg",
    "line\u2028separator.jpg",
    "Case.jpg",
    "case.JPG",
    "l" * 251 + ".jpg",
    "nested/in a/deep/folder.jpg",
    "folder.jpg/inside.jpg",
)
"""Names of one image each, in the class folder `names`."""


@dataclass(frozen=True)
class Corpus:
    """What a folder of `write_corpus` must come out as."""

    read: dict[str, bytes]
    """Bytes of files to be read, by path."""
    refused: dict[str, str]
    """Words of the reason, by path as it is shown."""


def write_corpus(folder: Path) -> Corpus:
    """Write all of it below ``folder``, links to a folder beside it."""
    read = {path: odd.data for path, odd in READ.items()}
    refused = {path: reason for path, (_, reason) in REFUSED.items()}
    for number, name in enumerate(NAMES):
        picture = Image.fromarray(photograph(24, 30 + number, seed=number))
        read[f"names/{name}"] = encoded(picture, "JPEG")
    contents = {**read, **{path: data for path, (data, _) in REFUSED.items()}}
    for hidden in ("names/.hidden.jpg", "names/._Case.jpg", "names/Thumbs.db", ".cache/x/a.jpg"):
        contents[hidden] = b"nothing that anybody looks at"
    for path, data in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    beside = folder.resolve().parent / "beside"
    beside.mkdir()
    (beside / "far.jpg").write_bytes(_JPEG)
    (folder / "linked").symlink_to(beside)  # a class folder that is a link
    read["linked/far.jpg"] = _JPEG
    (folder / "unmounted").symlink_to("nowhere/at/all")
    (folder / "names/link.jpg").symlink_to("Case.jpg")
    read["names/link.jpg"] = read["names/Case.jpg"]
    refused |= {"unmounted": "a broken link", **_write_special(folder / "bad")}
    return Corpus(read, refused)


def _write_special(folder: Path) -> dict[str, str]:
    """What is no file, or has no name that a store can hold."""
    (folder / "broken.jpg").symlink_to("nowhere")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "device.jpg").symlink_to("/dev/zero")
    (folder / "round").symlink_to("..")
    os.mkfifo(folder / "pipe.jpg")
    listening = socket.socket(socket.AF_UNIX)
    here = os.open(".", os.O_RDONLY)
    os.chdir(folder)  # the name of a socket has 107 bytes at most
    try:
        listening.bind("socket.jpg")
    finally:
        os.fchdir(here)
        os.close(here)
        listening.close()
    (Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg"))).write_bytes(_JPEG)
    return {
        "bad/broken.jpg": "a broken link",
        "bad/loop.jpg": "a broken link",
        "bad/device.jpg": "not a regular file",
        "bad/round": "a link to a folder that contains it",
        "bad/pipe.jpg": "not a regular file",
        "bad/socket.jpg": "not a regular file",
        r"bad/caf\xe9.jpg": "the name is not UTF-8",
        "names/folder.jpg": "a folder, not an image file",
    }
