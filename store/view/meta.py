"""What a training view says of itself, and which files it has.

Shapes: N images of the store, U of them usable, M crops, C classes.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from store.codecs import LabelSpec
from store.digest import sha256_json
from store.view import guard
from store.view.record import RecordLayout, describe, record_dtype

VIEW_VERSION = 5
"""Raised when a view built earlier cannot be read; views are rebuilt, never migrated."""

_IMAGE_COLUMNS = {
    "image_ids": "<i4",
    "targets": "<i8",
    "hashes": "<u8",
    "heights": "<i4",
    "widths": "<i4",
    "path_ends": "<i8",
    "num_kept": "<i4",
}
"""Files of one value a usable image, and their types."""

_STORED_COLUMNS = {
    "stored_targets": "<i4",
    "stored_heights": "<i4",
    "stored_widths": "<i4",
    "stored_path_ends": "<i8",
}
"""Files of one value an image of the store, where crops are mixed with any of them."""

GUARDED = ("records", "dense")
"""Files that are compared a block at a time, with ``NAME_digests.npy``; all others as a whole."""

_NOTHING = np.zeros(0)
_NARROWEST = RecordLayout()


@dataclass(frozen=True, slots=True)
class ViewMeta:
    """What a view says of itself in ``meta.json``."""

    digest: str
    """Of everything the labels were made of; the same wherever store and images lie."""
    images_folder: str
    """Absolute; with the digest it names the folder of the view."""
    num_images: int
    """U, images that can be trained on."""
    num_crops: int
    """M."""
    num_classes: int
    """C; of kind `logits` the outputs of the projection head."""
    label: LabelSpec
    calibration: str | None
    num_stored: int = 0
    """N: records stand for these, at their image ids."""
    has_losses: bool = False
    """Whether a usable image lost a crop: then ``kept.npy`` lists what can be drawn."""
    record: RecordLayout = _NARROWEST
    images_digest: str = ""
    """Rows digest of the images, files included; it too names the folder of the view."""
    digests: dict[str, str] = field(default_factory=dict)
    """Of the files that are compared when the view is opened, by stem; see `guard`."""
    version: int = VIEW_VERSION

    def to_json(self) -> dict[str, Any]:
        """As JSON: ``fields`` spells the record out for others, ``sha256`` is of the rest."""
        said = {**asdict(self), "fields": describe(record_dtype(self.label, self.record))}
        return {**said, "sha256": sha256_json(said)}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """From what `to_json` gave.

        Raises:
            TypeError, KeyError, ValueError: it is something else.
        """
        known = {n: value for n, value in raw.items() if n not in ("fields", "sha256")}
        label, record = LabelSpec(**raw["label"]), RecordLayout(**raw["record"])
        meta = cls(**{**known, "label": label, "record": record})
        if meta.to_json() != raw:
            raise ValueError("its meta.json does not match its own SHA-256, or its records")
        return meta

    @property
    def names(self) -> list[str]:
        """Stems of the view's .npy files."""
        is_dense = self.label.is_dense
        optional = {
            "prob_values": self.record.prob == "uint16" and not is_dense,
            "weight_values": self.record.weights == "uint8",
            "kept": self.has_losses,
            "dense": is_dense,
            "dense_digests": is_dense,
        }
        if self.record.has_mix:
            of_all = [*_STORED_COLUMNS, "stored_content_hashes", "stored_path_bytes"]
            optional |= dict.fromkeys(of_all, True)
        always = [*_IMAGE_COLUMNS, "content_hashes", "path_bytes", "records", "records_digests"]
        return [*always, *[name for name, present in optional.items() if present]]

    def fits(self, arrays: dict[str, NDArray[Any]]) -> bool:
        """Whether the arrays have the shapes and types that this promises."""
        rows = self.num_stored * self.num_crops
        values: list[tuple[str, tuple[int, ...], Any]] = [
            (name, (self.num_images,), kind) for name, kind in _IMAGE_COLUMNS.items()
        ]
        values += [(name, (self.num_stored,), kind) for name, kind in _STORED_COLUMNS.items()]
        values += [
            ("stored_content_hashes", (self.num_stored, 2), "<u8"),
            ("content_hashes", (self.num_images, 2), "<u8"),
            ("path_bytes", arrays["path_bytes"].shape, "|u1"),
            ("records", (rows,), record_dtype(self.label, self.record)),
            ("prob_values", (arrays.get("prob_values", _NOTHING).size,), "<f4"),
            ("weight_values", (arrays.get("weight_values", _NOTHING).size // 2, 2), "<f4"),
            ("kept", (self.num_stored, self.num_crops), keep_dtype(self.num_crops)),
            ("dense", (rows, self.num_classes), "<f2"),
        ]
        values += [
            (f"{name}_digests", (guard.num_blocks(arrays[name]),), "<u8")
            for name in GUARDED
            if name in arrays
        ]
        found = {name: (array.shape, array.dtype) for name, array in arrays.items()}
        return (
            all(
                found[name] == (shape, np.dtype(kind))
                for name, shape, kind in values
                if name in found
            )
            and int(arrays["image_ids"].max()) < self.num_stored
            and int(arrays["path_ends"][-1]) == arrays["path_bytes"].size
        )


def digests_of(arrays: dict[str, NDArray[Any]]) -> dict[str, str]:
    """Digests of the files that are compared as a whole, by stem."""
    whole = sorted(set(arrays) - set(GUARDED))
    return {name: guard.digest_of(arrays[name]) for name in whole}


def keep_dtype(num_crops: int) -> np.dtype[Any]:
    """Smallest type of crop numbers below ``num_crops``."""
    return np.dtype("u1" if num_crops <= 256 else "<u2")


def map_file(path: Path) -> NDArray[Any]:
    """A .npy file as a plain array over a mapping: slices of np.memmap cost 1 us more each.

    What the disk reads ahead is left as it is: without it (MADV_RANDOM) a view that fits into
    memory takes four times as long to get there.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no .npy file.
    """
    try:
        return np.asarray(np.lib.format.open_memmap(path, mode="r").view(np.ndarray))
    except (OSError, ValueError):
        raise
    except Exception as error:  # numpy reads the header as Python's text, and raises what that does
        raise ValueError(f"{path.name}: {' '.join(str(error).split())}") from error
