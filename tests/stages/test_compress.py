"""The stage compress through the engine, against dense float64 arithmetic on the predictions."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from numpy.typing import NDArray

from stages.shared.contract import NoProgress
from store import images, tables
from store.check.verify import verify
from store.codecs import to_dense
from store.dense_codecs import decode_full
from store.errors import DataError, ParamsError
from store.layout import part_name
from store.soft_part import SoftPart
from tests.world import CLASSES, NUM_CROPS, NUM_IMAGES, Project, copy_project

C = len(CLASSES)
NUM_ROWS = NUM_IMAGES * NUM_CROPS
PART_1 = slice(8 * NUM_CROPS, 16 * NUM_CROPS)
F64 = NDArray[np.float64]

KINDS = ("hard", "smoothing", "marginal_smoothing", "marginal_renorm", "full")
INFER: dict[str, Any] = {"temperatures": [4.0]}
COMBINATIONS: list[dict[str, Any]] = [
    {"kind": kind, "k": k, "precision": precision, "temperature": temperature, "include_target": y}
    for kind in KINDS
    for k in ((2, C + 3) if kind.startswith("marginal") else (1,))
    for precision in ("float16", "compact")
    for temperature in ((1.0,) if precision == "float16" else (1.0, 4.0))
    for y in ((False, True) if kind not in ("hard", "full") else (False,))
]


@pytest.fixture(scope="module")
def served(made: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Dense predictions with temperatures 1 and 4, as the current folder of this module."""
    project = copy_project(made, tmp_path_factory.mktemp("served"))
    with contextlib.chdir(project.folder):
        project.run("infer", infer=INFER)
        yield project


def probabilities(project: Project, temperature: float) -> F64:
    """(N, C) what the teacher said of each crop, from its logits up to a constant."""
    z = project.predictions()["logp"].astype(np.float64).reshape(NUM_ROWS, C) / temperature
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def expected(project: Project, kind: str, k: int, temperature: float, include_target: bool) -> F64:
    """(N, C) the label by its definition, one crop at a time, not rounded."""
    order = project.predictions()["topk_class"].reshape(NUM_ROWS, -1)
    targets = np.repeat(images.load(project.layout).class_ids, NUM_CROPS)
    labels = np.zeros((NUM_ROWS, C))
    for row, p in enumerate(probabilities(project, temperature)):
        num_kept = 1 if kind in ("hard", "smoothing") else min(k, C)
        kept = {int(c) for c in order[row, :num_kept]}
        if include_target:
            kept.add(int(targets[row]))
        inside = sorted(kept)
        if kind == "full":
            labels[row] = p
        elif kind == "hard":
            labels[row, inside] = 1
        elif kind == "marginal_renorm":
            labels[row, inside] = p[inside] / p[inside].sum()
        else:
            labels[row] = (1 - p[inside].sum()) / max(1, C - len(inside))
            labels[row, inside] = p[inside]
    return labels


def stored(project: Project, *shards: int) -> F64:
    """(N, C) labels on disk of some shards, decoded."""
    found = []
    for shard in shards:
        part = SoftPart(project.layout, project.entry("soft", shard))
        if part.spec.kind == "full":
            found += [decode_full(prob.reshape(-1, C)) for _, _, prob in part.dense_blocks()]
        else:
            found.append(to_dense(part.spec, part.sparse(), part.scalars().targets))
    return np.concatenate(found)


def scalars(project: Project) -> dict[str, NDArray[Any]]:
    parts = [SoftPart(project.layout, project.entry("soft", s)).scalars() for s in range(3)]
    names = ("image_ids", "targets", "max_prob", "target_prob")
    return {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}


@pytest.mark.parametrize(
    "fields", COMBINATIONS, ids=lambda fields: "-".join(map(str, fields.values()))
)
def test_every_label_is_what_it_says(served: Project, fields: dict[str, Any]) -> None:
    served.run("compress", shards=(1,), infer=INFER, compress=fields)
    wanted = expected(
        served, fields["kind"], fields["k"], fields["temperature"], fields["include_target"]
    )[PART_1]
    labels = stored(served, 1)
    # compact rounds the first probability by up to 0.0025 and others by less than 0.015
    tolerance = 0.015 if fields["precision"] == "compact" and fields["kind"] != "full" else 2e-3
    np.testing.assert_allclose(labels, wanted, atol=tolerance)
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-12)
    assert labels.min() >= 0


@pytest.mark.parametrize("precision", ["float16", "compact"])
def test_what_calibration_reads_depends_on_predictions_alone(
    served: Project, precision: str
) -> None:
    served.run("compress", infer=INFER, compress={"kind": "hard", "precision": precision})
    first = scalars(served)
    p = np.exp(served.predictions()["logp"].astype(np.float64)).reshape(NUM_ROWS, C)
    step = 0.0025 if precision == "compact" else 2**-11
    np.testing.assert_allclose(first["max_prob"], p.max(axis=1), atol=step)
    at_target = p[np.arange(NUM_ROWS), first["targets"]]
    np.testing.assert_allclose(first["target_prob"], at_target, atol=step)
    for fields in COMBINATIONS:
        if fields["precision"] == precision and not fields["include_target"]:
            served.run("compress", infer=INFER, compress=fields)
            for name, values in scalars(served).items():
                np.testing.assert_array_equal(values, first[name], err_msg=f"{name} {fields}")


def test_top_r_predictions_give_the_labels_of_dense_ones(served: Project, own: Project) -> None:
    top: dict[str, Any] = {"infer": {**INFER, "keep": "topk", "top_r": 3}}
    own.run("infer", **top)
    for fields in COMBINATIONS:
        if fields["kind"] != "full" and fields["k"] <= 3 and fields["precision"] == "compact":
            own.run("compress", compress=fields, **top)
            with contextlib.chdir(served.folder):
                served.run("compress", infer=INFER, compress=fields)
                wanted = [served.entry("soft", shard).rows_digest for shard in range(3)]
            assert [own.entry("soft", shard).rows_digest for shard in range(3)] == wanted, fields


def test_plain_zarr_reads_full_labels(served: Project) -> None:
    served.run("compress", "calibrate", infer=INFER, compress={"kind": "full"})
    group = zarr.open_group("labels/soft/part-00001.zarr", mode="r")
    prob = np.asarray(group["prob"])
    assert prob.dtype == np.float16
    start = 8  # images of part 0
    rows = probabilities(served, 1.0).reshape(NUM_IMAGES, NUM_CROPS, C)[start : start + len(prob)]
    np.testing.assert_allclose(prob, rows, atol=1e-3)
    assert group["prob"].metadata.dimension_names == ("image", "crop", "class")  # type: ignore[union-attr]
    np.testing.assert_array_equal(group["image_id"], np.arange(start, start + len(prob)))
    assert not Path("labels/soft/part-00001.parquet").exists()
    assert verify(Path("labels"), NoProgress()).damages == []


def test_plain_pandas_reads_sparse_labels(served: Project) -> None:
    served.run("compress", infer=INFER, compress={"k": 2, "include_target": True})
    frame = pq.read_table("labels/soft/part-00000.parquet").to_pandas()
    assert list(frame.columns) == [
        *("image_id", "crop", "target", "target_prob", "outside_prob"),
        *("class_0", "class_1", "prob_0", "prob_1"),
    ]
    assert frame["image_id"].tolist() == np.repeat(np.arange(8), NUM_CROPS).tolist()
    assert (frame["prob_0"] >= frame["prob_1"]).all()
    kept = (frame[["class_0", "class_1"]].to_numpy() == frame["target"].to_numpy()[:, None]).any(1)
    assert (frame["outside_prob"].isna() == kept).all()


@pytest.mark.parametrize(
    ("predictions", "labels", "complaint"),
    [
        ({"keep": "topk", "top_r": 3}, {"k": 4}, r"compress.k is 4, .* rank 3 classes; .*top_r"),
        (
            {"keep": "topk", "top_r": 3},
            {"kind": "full"},
            "compress.kind is full.*infer.keep: dense",
        ),
        (
            {"keep": "topk", "top_r": 3},
            {"temperature": 2.0},
            "compress.temperature is 2.0.*infer.t",
        ),
        ({"top_r": 4}, {"k": 5}, "compress.k is 5.*rank 4 classes"),
        ({}, {"kind": "hard", "include_target": True}, "compress: include_target is true"),
    ],
)
def test_what_predictions_cannot_serve_removes_and_writes_nothing(
    own: Project, predictions: dict[str, Any], labels: dict[str, Any], complaint: str
) -> None:
    own.run("infer", infer=predictions)
    before = own.tree("labels", ".ferkd/work")
    with pytest.raises(ParamsError, match=complaint):
        own.why("compress", infer=predictions, compress=labels)
    for shards in (None, (1,)):
        with pytest.raises(ParamsError, match=complaint):
            own.run("compress", shards=shards, infer=predictions, compress=labels)
    assert own.tree("labels", ".ferkd/work") == before


@pytest.mark.parametrize("top_r", [C, C + 1, 64])
def test_more_kept_than_there_are_classes(own: Project, top_r: int) -> None:
    change: dict[str, Any] = {"infer": {"keep": "topk", "top_r": top_r}}
    own.run("infer", "compress", compress={"k": 9}, **change)
    assert own.entry("soft", 0).attributes["label"]["k"] == 9
    np.testing.assert_allclose(stored(own, 0, 1, 2), probabilities_of_top(own), atol=0.03)


def probabilities_of_top(project: Project) -> F64:
    """(N, C) from top-R predictions with R = C."""
    arrays = project.predictions()
    p = np.zeros((NUM_ROWS, C))
    classes = arrays["topk_class"].reshape(NUM_ROWS, C).astype(int)
    np.put_along_axis(p, classes, np.exp(arrays["topk_logp"].reshape(NUM_ROWS, C)), axis=1)
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def test_predictions_of_other_crops_are_refused(own: Project) -> None:
    own.run("sample", sample={"seed": 1})
    with pytest.raises(
        DataError, match=r"_part-00000.json was made from other crops .* stage infer"
    ):
        own.run("compress", sample={"seed": 1})


def test_missing_predictions_name_their_command(own: Project) -> None:
    own.layout.entry("predictions", part_name(1)).unlink()
    with pytest.raises(DataError, match="run `ferkd-pipeline stage infer --shard 1` first"):
        own.run("compress")


def change_attributes(project: Project, artifact: str, remove: str) -> None:
    """As an entry of a version that did not record ``remove``."""
    for shard in range(3):
        path = project.layout.entry(artifact, part_name(shard))
        content = json.loads(path.read_bytes())
        del content["attributes"][remove], content["sha256"]
        path.write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["num_crops", "temperatures", "arrays"])
def test_an_entry_that_lacks_an_attribute_is_named(own: Project, name: str) -> None:
    change_attributes(own, "predictions", name)
    with pytest.raises(DataError, match=rf"predictions/part-00000 does not say its {name}; run"):
        own.run("compress", compress={"k": 1})


def test_older_entries_do_not_say_how_many_classes_are_ranked(own: Project) -> None:
    assert own.entry("predictions", 0).attribute("num_ranked") == C
    own.run("infer", infer={"top_r": 4})
    assert own.entry("predictions", 0).attribute("num_ranked") == 4
    change_attributes(own, "predictions", "num_ranked")
    own.run("compress", infer={"top_r": 4}, compress={"k": 3})
    with pytest.raises(ParamsError, match="rank 4 classes"):
        own.run("compress", infer={"top_r": 4}, compress={"k": 5})


def test_another_number_of_shards_is_told_as_a_cause(own: Project) -> None:
    own.run("sample", store={"num_shards": 2})
    with pytest.raises(DataError, match=r"or store\.num_shards was changed; run .* stage infer"):
        own.run("compress", store={"num_shards": 2})


def test_damaged_predictions_are_found(own: Project) -> None:
    for path in Path("labels/predictions/part-00001.zarr/logp/c").rglob("*"):
        if path.is_file():
            data = bytearray(path.read_bytes())
            data[20] ^= 1
            path.write_bytes(data)
    with pytest.raises(DataError, match=r"part-00001.zarr/logp/c/0/0/0 has other bytes"):
        own.run("compress", compress={"k": 1})
    assert tables.read_table(own.layout.table("soft", part_name(0))).num_rows == 8 * NUM_CROPS
