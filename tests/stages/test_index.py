"""The index stage describes every image truly, whatever stands beside it and however many work."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import xxhash
from PIL import Image

from stages.index.config import Config
from stages.index.core import Scan, scan
from stages.shared.contract import NoProgress
from stages.shared.images import MAX_PIXELS
from store.errors import DataError, RetryError, ShardError


class Counter(NoProgress):
    """Remembers how far the stage said it was."""

    def __init__(self) -> None:
        self.total = 0
        self.done = 0

    def start(self, label: str, total: int, unit: str) -> None:
        self.total = total

    def advance(self, amount: int = 1) -> None:
        self.done += amount


def encoded(kind: str, mode: str = "RGB", size: tuple[int, int] = (20, 10)) -> bytes:
    """An image file; ``size`` is width, height."""
    width, height = size
    rng = np.random.default_rng(width * height)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    options = {"transparency": bytes(range(256))} if mode == "P" else {}
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


def rotated() -> bytes:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(file, "JPEG", exif=exif)
    return file.getvalue()


def animated() -> bytes:
    file = io.BytesIO()
    frames = [Image.new("RGB", (20, 10), color) for color in ("red", "blue")]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def grey_16_bit() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(200, dtype=np.uint16).reshape(10, 20) * 300).save(file, "PNG")
    return file.getvalue()


GOOD = {
    "fish/16bit.png": grey_16_bit(),
    "fish/cmyk.jpg": encoded("JPEG", "CMYK"),
    "fish/grey.jpg": encoded("JPEG", "L"),
    "fish/palette.png": encoded("PNG", "P"),
    "fish/png named.JPEG": encoded("PNG"),
    "fish/rotated.jpg": rotated(),
    "fish/x.jpg/inside.jpg": encoded("JPEG"),
    "bird/gif named.jpg": animated(),
    "bird/one.png": encoded("PNG", size=(1, 1)),
    "bird/plain.jpeg": encoded("JPEG"),
    "bird/wide.bmp": encoded("BMP", size=(5000, 1)),
    "bird/ö ü.webp": encoded("WEBP"),
}
BAD = {
    "bird/empty.jpg": b"",
    "bird/text.jpg": b"not a picture",
    "bird/truncated.jpg": encoded("JPEG")[:-40],
    "bird/large.png": encoded("PNG", size=(101, 100)),
}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for name, data in {**GOOD, **BAD, "fish/ignored.gif": animated()}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "fish/broken.jpg").symlink_to("nowhere")
    (tmp_path / os.fsdecode(b"fish/\xff.jpg")).write_bytes(encoded("JPEG"))
    return tmp_path


def config(folder: Path, **fields: object) -> Config:
    return Config.model_validate({"images": str(folder), "max_pixels": 10_000, **fields})


def run(folder: Path, **fields: object) -> Scan:
    return scan(folder, config(folder, **fields), NoProgress())


def test_every_good_image_is_described(corpus: Path) -> None:
    result = run(corpus)
    expected = sorted(GOOD, key=lambda path: path.encode())
    assert list(result.paths) == expected
    assert result.classes == ("bird", "fish")
    assert [result.classes[c] for c in result.class_ids] == [p.split("/")[0] for p in expected]
    assert result.num_bytes.tolist() == [len(GOOD[path]) for path in expected]
    assert list(result.content_hashes) == [xxhash.xxh3_128(GOOD[p]).hexdigest() for p in expected]
    sizes = dict(zip(result.paths, zip(result.heights, result.widths, strict=True), strict=True))
    assert sizes["bird/one.png"] == (1, 1)
    assert sizes["bird/wide.bmp"] == (1, 5000)
    assert {size for path, size in sizes.items() if path.startswith("fish")} == {(10, 20)}
    dtypes = [result.class_ids.dtype, result.heights.dtype, result.widths.dtype]
    assert [*dtypes, result.num_bytes.dtype] == [np.int32, np.int32, np.int32, np.int64]


def test_every_bad_image_is_a_reject_with_its_reason(corpus: Path) -> None:
    result = run(corpus)
    assert [reject.path for reject in result.rejects] == [
        "bird/empty.jpg",
        "bird/large.png",
        "bird/text.jpg",
        "bird/truncated.jpg",
        r"fish/\xff.jpg",
        "fish/broken.jpg",
        "fish/x.jpg",
    ]
    reasons = dict(result.rejects)
    assert reasons["bird/empty.jpg"] == "empty file"
    assert reasons["bird/large.png"].startswith("too many pixels: 101 x 100")
    assert reasons["bird/text.jpg"] == "not an image of a known format"
    assert "truncated" in reasons["bird/truncated.jpg"]
    assert result.num_ignored == {".gif": 1}


def test_workers_and_chunks_leave_no_trace(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = run(corpus, num_workers=1)
    monkeypatch.setattr("stages.index.core._CHUNK_IMAGES", 1)
    many = run(corpus, num_workers=8)
    for name in Scan.__slots__:
        np.testing.assert_array_equal(getattr(one, name), getattr(many, name), err_msg=name)


def test_progress_counts_every_candidate(corpus: Path) -> None:
    progress = Counter()
    result = scan(corpus, config(corpus), progress)
    assert progress.done == progress.total == len(GOOD) + len(BAD)
    assert len(result.paths) == len(GOOD)


def test_a_class_whose_images_are_all_bad_is_told(corpus: Path) -> None:
    (corpus / "ant").mkdir()
    (corpus / "ant/1.jpg").write_bytes(b"bad")
    result = run(corpus)
    assert result.classes == ("ant", "bird", "fish")
    assert result.empty_classes == ("ant",)
    assert set(result.class_ids.tolist()) == {1, 2}


def test_no_usable_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "ant").mkdir()
    (tmp_path / "ant/1.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 1 image files is usable.*ant/1.jpg \(empty"):
        run(tmp_path)


def test_the_share_of_rejects_may_be_limited(corpus: Path) -> None:
    share = 7 / 19
    run(corpus, max_reject_share=share + 1e-9)
    with pytest.raises(ShardError, match=r"7 of 19 .*index.max_reject_share = 0.36"):
        run(corpus, max_reject_share=share - 1e-3)


def test_a_vanished_folder_is_no_pile_of_rejects(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "is_dir", lambda self: False)
    with pytest.raises(RetryError, match="vanished"):
        run(corpus)


def test_a_failing_file_system_stops_the_scan(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> bytes:
        raise RetryError(f"{path}: reading failed")

    monkeypatch.setattr("stages.index.core.read_bytes", fail)
    with pytest.raises(RetryError, match="reading failed"):
        run(corpus)


def test_the_default_pixel_limit_is_the_decoders() -> None:
    assert Config(images="x").max_pixels == MAX_PIXELS
    assert set(Config.model_fields) >= Config.NOT_KEYED
