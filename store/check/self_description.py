"""Whether a part's files say of themselves what its entry says: lineage, columns, types, rows."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from store import mixing, operations, schema
from store.arrays import ArrayReader, class_dtype
from store.check.damage import UNREADABLE, Damage, of_entry, part_of
from store.entry import Entry, NewerFormatError, check_version
from store.layout import Layout
from store.soft_part import SoftPart
from store.tables import METADATA_KEY

_FIXED = {
    "images/images.parquet": schema.IMAGES,
    "images/classes.parquet": schema.CLASSES,
    "rejects/index.parquet": schema.REJECTS,
}
_ARRAY_TYPES = {
    "image_id": "int32",
    "target": "int32",
    "crop_key": "uint64",
    "logp": "float16",
    "topk_logp": "float16",
    "target_logp": "float16",
    "logsumexp": "float32",
    "max_prob": "float32",
    "target_prob": "float32",
    "prob": "float16",
    "logit": "float16",
}
_NEEDED = {"predictions": {"image_id"}, "soft": {"image_id"}}


def check(layout: Layout, entry: Entry) -> list[Damage]:
    """What the files of a part say that its entry does not; their bytes must be right.

    Reads footers and Zarr metadata, no rows.
    """
    folder = layout.folder(entry.artifact)
    tables = sorted(name for name in entry.files if name.endswith(".parquet"))
    stores = sorted(name.split("/")[0] for name in entry.files if name.endswith(".zarr/zarr.json"))
    damages = []
    for name in [*tables, *stores]:
        path = folder / name
        try:
            wrong = _of_table(layout, entry, path) if name in tables else _of_arrays(entry, path)
            damages += [of_entry(layout, entry, kind, path) for kind in wrong]
        except NewerFormatError as error:
            kind = f"newer format ({error})"
            damages.append(Damage(str(path), kind, "upgrade ferkd-pipeline", part_of(entry)))
        except UNREADABLE as error:
            reason = " ".join(str(error).split())
            damages.append(of_entry(layout, entry, f"cannot be read ({reason})", path))
    if not {f"{entry.stem}.parquet", f"{entry.stem}.zarr/zarr.json"} & set(entry.files):
        damages.append(of_entry(layout, entry, "lists no file that holds rows"))
    return damages


def _of_table(layout: Layout, entry: Entry, path: Path) -> Iterator[str]:
    with pq.ParquetFile(path) as file:
        found, rows = file.schema_arrow, file.metadata.num_rows
    raw = (found.metadata or {}).get(METADATA_KEY)
    yield from _said(entry, json.loads(raw) if raw else {}, path)
    wanted = _schema_of(layout, entry, path)
    if wanted is not None:
        yield from _columns(wanted, found)
    num_ops = operations.count_of(entry)
    if entry.artifact == "crops" and f"op_{num_ops}" in found.names:
        yield f"has the column op_{num_ops}, its entry counts {num_ops} operations a crop"
    if entry.artifact == "crops" and "mix" in found.names and not mixing.has_mix(entry):
        yield "has the column mix, its entry says nothing of mixing"
    if path.stem == entry.stem and rows != entry.rows:
        yield f"holds {rows} rows, its entry says {entry.rows}"


def _said(entry: Entry, said: Any, path: Path) -> Iterator[str]:
    described = said if isinstance(said, dict) else {}
    check_version(described.get("format_version"), path)
    names = ("artifact", "stage", "key", "lineage", "attributes")
    if other := [name for name in names if described.get(name) != getattr(entry, name)]:
        yield f"it is a file of another part: its entry has another {', '.join(other)}"


def _schema_of(layout: Layout, entry: Entry, path: Path) -> pa.Schema | None:
    family = entry.artifact.split("/")[0]
    if family == "predictions":
        return schema.INFER_REJECTS
    if family == "soft":
        spec = SoftPart(layout, entry).spec
        return schema.soft(
            spec.num_stored,
            has_max_prob=not spec.max_is_prob_0,
            has_outside_prob=spec.include_target,
        )
    if family == "calibrated" and path.stem != entry.stem:
        return schema.SUSPECTS
    by_family = {
        "crops": schema.crops(operations.count_of(entry), has_mix=mixing.has_mix(entry)),
        "calibrated": schema.CALIBRATED,
        "scores": schema.SCORES,
    }
    return by_family.get(family) or _FIXED.get(f"{family}/{path.name}")


def _columns(wanted: pa.Schema, found: pa.Schema) -> Iterator[str]:
    """A later version may add columns: those known must be there, of their types, in order."""
    if missing := [name for name in wanted.names if name not in found.names]:
        yield f"lacks the columns {', '.join(missing)}"
        return
    if [name for name in found.names if name in wanted.names] != wanted.names:
        yield f"its columns are not in the order {', '.join(wanted.names)}"
        return
    for field in wanted:
        if found.field(field.name).type != field.type:
            kind = found.field(field.name).type
            yield f"column {field.name} has type {kind} instead of {field.type}"


def _of_arrays(entry: Entry, path: Path) -> Iterator[str]:
    reader = ArrayReader(path)
    yield from _said(entry, reader.attributes, path)
    names = reader.names
    if missing := _NEEDED.get(entry.artifact, set()) - set(names):
        yield f"lacks the arrays {', '.join(sorted(missing))}"
        return
    types = dict(_ARRAY_TYPES)
    if isinstance(entry.attributes.get("num_classes"), int):
        types["topk_class"] = class_dtype(entry.attributes["num_classes"])
    for name in names:
        if name in types and reader.dtype(name) != np.dtype(types[name]):
            yield f"array {name} has type {reader.dtype(name)} instead of {types[name]}"
        if reader.shape(name)[0] != reader.num_images:
            yield f"array {name} is of {reader.shape(name)[0]} images, not {reader.num_images}"
    num_crops = entry.attributes.get("num_crops")
    if isinstance(num_crops, int) and reader.num_images * num_crops != entry.rows:
        rows = reader.num_images * num_crops
        yield f"holds {rows} rows, its entry says {entry.rows}"
