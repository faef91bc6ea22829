"""What a picture of an image shows: its pixels, chosen crops, and their labels.

Shapes: H, W height and width of an image, M crops of it, m chosen crops, h, w a model's input
size, C classes.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from store import entries, tables
from store.errors import DataError, ParamsError
from store.layout import part_name
from store.notebook import arguments, decoding
from store.notebook.shard_tables import ShardTables

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_CROPS = 24
"""Crops that fit one picture."""
_SIZE = (224, 224)


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything that `store.notebook.pictures.draw` needs."""

    path: str
    target: int
    """Ground-truth class."""
    pixels: NDArray[np.uint8]
    """(H, W, 3)"""
    crops: NDArray[np.integer]
    """(m,) numbers of the chosen crops."""
    boxes: NDArray[np.integer]
    """(m, 4) top, left, height, width in pixels."""
    seen: NDArray[np.uint8]
    """(m, h, w, 3): cropped, resized and flipped."""
    max_prob: NDArray[np.floating] | None
    """(m,) the teacher's maximum; NaN where rejected, None for labels without one."""
    teacher: NDArray[np.float64] | None
    """(m, C) the teacher's labels; None for labels that are no probabilities."""
    label: NDArray[np.float64] | None
    """(m, C) the labels to train on; NaN where dropped or rejected."""
    actions: list[str] | None
    """(m,) names of what the calibration did, where one was asked for."""
    calibration: str | None
    class_names: tuple[str, ...]


def gather(
    store: ShardTables,
    image: int | str,
    crops: int | np.integer | Sequence[int],
    calibration: str | None,
    folder: str | Path | None,
    size: tuple[int, int] | None,
) -> Picture:
    """Read what a picture of ``image`` shows; arguments as of `LabelStore.show`.

    Raises:
        DataError: the image is unknown, its file is missing or is not the labelled one.
        ParamsError: a crop does not exist, or too many are asked for.
    """
    shard, _ = store.find(image)
    image_id = store.images.id_of(image)
    rows = store.image_labels(image, calibration)
    maxima = _max_prob(rows)
    chosen = _chosen(crops, rows.num_rows, maxima)
    rows = rows.take(chosen)
    boxes = np.stack([tables.column(rows, n) for n in ("top", "left", "height", "width")], axis=1)
    picture = _open(store, image_id, _folder(store, folder))
    has_probs = decoding.label_spec(store).kind != "logits"
    seen_size, resample = _input_size(store, shard)
    return Picture(
        path=store.images.paths[image_id].as_py(),
        target=int(store.images.table.class_ids[image_id]),
        pixels=np.asarray(picture),
        crops=tables.column(rows, "crop"),
        boxes=boxes,
        seen=_seen(picture, boxes, tables.column(rows, "flip"), size or seen_size, resample),
        max_prob=None if maxima is None else maxima[chosen],
        teacher=decoding.decode(store, rows, calibrated=False) if has_probs else None,
        label=(
            decoding.decode(store, rows, calibrated=calibration is not None) if has_probs else None
        ),
        actions=rows.column("action_name").to_pylist() if calibration else None,
        calibration=calibration,
        class_names=store.images.class_names,
    )


def choose(max_prob: NDArray[np.floating], num: int) -> NDArray[np.int64]:
    """Choose ``num`` of (M,) crops: the hardest, the easiest, and others evenly between by rank.

    Hardest first, by the teacher's maximum probability. Rejected crops count as hardest.
    """
    order = np.argsort(np.nan_to_num(max_prob, nan=-1.0), kind="stable")
    places = np.rint(np.linspace(0, len(order) - 1, min(num, len(order)))).astype(np.int64)
    return np.asarray(order[places], dtype=np.int64)


def _chosen(
    crops: int | np.integer | Sequence[int], num_crops: int, max_prob: NDArray[np.floating] | None
) -> NDArray[np.int64]:
    crops = arguments.crops(crops)
    num = crops if isinstance(crops, int) else len(crops)
    if not 1 <= num <= MAX_CROPS:
        raise ParamsError(f"{num} crops were asked for, allowed: 1 to {MAX_CROPS}")
    if isinstance(crops, int):
        return choose(np.zeros(num_crops) if max_prob is None else max_prob, num)
    chosen = np.asarray(crops, dtype=np.int64)
    if (chosen < 0).any() or (chosen >= num_crops).any():
        raise ParamsError(f"crops are {crops}, allowed: 0 to {num_crops - 1}")
    return chosen


def _max_prob(rows: pa.Table) -> NDArray[np.floating] | None:
    for name in ("max_prob", "prob_0"):
        if name in rows.column_names:
            return tables.column(rows, name)
    return None


def _folder(store: ShardTables, given: str | Path | None) -> Path:
    """The folder of images: as given, or as params.yaml beside the store says."""
    if given is not None:
        return Path(given)
    import yaml

    params = store.layout.root.parent / "params.yaml"
    remedy = "say where the images are: LabelStore(..., images=FOLDER) or show(..., images=FOLDER)"
    try:
        read: Any = yaml.safe_load(params.read_text(encoding="utf-8"))
        return params.parent / str(read["index"]["images"])
    except FileNotFoundError:
        raise DataError(f"{params} is missing, and a store holds no path; {remedy}") from None
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        raise DataError(f"{params} has no index.images; {remedy}") from None


def _open(store: ShardTables, image_id: int, folder: Path) -> "Image":
    """The image in RGB, decoded as every stage does: EXIF orientation is ignored."""
    from PIL import Image

    listed = store.images.rows.slice(image_id, 1).to_pylist()[0]
    file = folder / listed["path"]
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(
            f"{file} cannot be read ({error.strerror}); say where the images are: "
            "LabelStore(..., images=FOLDER) or show(..., images=FOLDER)"
        ) from None
    if xxhash.xxh3_128_hexdigest(data) != listed["content_hash"]:
        raise DataError(
            f"{file} is not the file that was labelled: its contents differ; give the right "
            "folder of images, or run `dvc repro` if the images were changed"
        )
    with Image.open(io.BytesIO(data)) as opened:
        if opened.mode.startswith("I"):  # 16-bit grey, which `convert` clips
            return Image.fromarray((np.asarray(opened) >> 8).astype(np.uint8)).convert("RGB")
        return opened.convert("RGB")


def _input_size(store: ShardTables, shard: int) -> tuple[tuple[int, int], str]:
    """Height, width and interpolation that the teacher saw crops with, where that is recorded."""
    entry = entries.find_entry(store.layout, "predictions", part_name(shard))
    pixels = {} if entry is None else entry.lineage.get("inputs", {}).get("pixels", {})
    height, width = pixels.get("size", _SIZE)
    return (int(height), int(width)), str(pixels.get("interpolation", "bilinear"))


def _seen(
    picture: "Image",
    boxes: NDArray[np.integer],
    flips: NDArray[np.bool_],
    size: tuple[int, int],
    interpolation: str,
) -> NDArray[np.uint8]:
    """(m, h, w, 3): each box cut out, what lies outside the image black, resized, then flipped."""
    from PIL import Image

    resample = Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR
    found = []
    for (top, left, height, width), flip in zip(boxes.tolist(), flips.tolist(), strict=True):
        crop = picture.crop((left, top, left + width, top + height))
        pixels = np.asarray(crop.resize((size[1], size[0]), resample))
        found.append(pixels[:, ::-1] if flip else pixels)
    return np.stack(found)
