"""The stage infer through the engine: right values, and the same bits in all circumstances."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stages.infer.config import Config
from stages.infer.core import Kept, kept_values
from stages.infer.inputs import Inputs
from stages.infer.run import open_inputs
from stages.shared.images import decode
from stages.shared.pixels import crop_resize, normalise
from store import images, tables
from store.errors import DataError, ParamsError
from store.layout import part_name
from tests.world import NUM_CROPS, NUM_IMAGES, Project, write_teacher

Arrays = dict[str, NDArray[Any]]
VALUES = ("topk_class", "logp", "target_logp", "logsumexp", "crop_key")


def assert_same(a: Arrays, b: Arrays, names: tuple[str, ...] = VALUES) -> None:
    for name in names:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def slow_logits(project: Project) -> NDArray[np.float32]:
    """(N, M, C) logits: each crop decoded, resized and forwarded alone."""
    config = project.params().typed("infer", Config)
    model = open_inputs(config, project.source())(0).teachers[0].model
    rows = [
        row
        for shard in range(3)
        for row in tables.read_table(project.layout.table("crops", part_name(shard))).to_pylist()
    ]
    paths = images.load(project.layout).paths
    found = []
    for row in rows:
        pixels = decode((Path("images") / str(paths[row["image_id"]])).read_bytes())
        box = [row[name] for name in ("top", "left", "height", "width")]
        spec = model.spec
        crop = crop_resize(pixels, [box], [row["flip"]], spec.size, spec.interpolation)
        with torch.inference_mode():
            found.append(model.module(normalise(crop, spec.mean, spec.std))[0].numpy())
    return np.stack(found).reshape(NUM_IMAGES, NUM_CROPS, -1)


def test_predictions_are_those_of_each_crop_alone(shared: Project) -> None:
    stored, z = shared.predictions(), slow_logits(shared).astype(np.float64)
    targets = images.load(shared.layout).class_ids
    logsumexp = np.log(np.exp(z).sum(axis=2))
    np.testing.assert_allclose(stored["logsumexp"][..., 0], logsumexp, atol=1e-5)
    logp = z - logsumexp[..., None]
    np.testing.assert_allclose(stored["logp"], logp, rtol=6e-4, atol=1e-4)
    at_target = np.take_along_axis(logp, targets[:, None, None], axis=2)[..., 0]
    np.testing.assert_allclose(stored["target_logp"], at_target, rtol=6e-4, atol=1e-4)
    np.testing.assert_array_equal(stored["topk_class"], np.argsort(-z, axis=2, kind="stable"))
    np.testing.assert_array_equal(stored["image_id"], np.arange(NUM_IMAGES))
    assert len(np.unique(stored["crop_key"])) == NUM_IMAGES * NUM_CROPS
    assert np.exp(logp.max(axis=2)).std() > 0.1  # the teacher is sure of some and not of others


def test_classes_are_ranked_by_the_unrounded_logit_and_ties_by_the_lower_id() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 3.0 + 2e-7, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    logits[0, 3] = torch.nextafter(torch.tensor(3.0), torch.tensor(4.0))
    kept = Kept(1, 5, 5, True, (1.0,))
    values = kept_values(kept, logits, torch.tensor([0, 4]))
    assert values["topk_class"].tolist() == [[3, 1, 2, 0, 4], [0, 1, 2, 3, 4]]
    assert values["logp"][0, 1] == values["logp"][0, 3]  # float16 cannot tell them apart


def test_an_impossible_class_stays_finite() -> None:
    kept = Kept(1, 2, 2, True, (1.0,))
    values = kept_values(kept, torch.tensor([[2e5, -2e5]]), torch.tensor([1]))
    assert values["logp"].tolist() == [[0.0, -65504.0]]
    assert values["target_logp"].tolist() == [-65504.0]


@pytest.mark.parametrize("num_shards", [1, 2, 7])
def test_shard_borders_change_no_bit(own: Project, num_shards: int) -> None:
    before = own.predictions()
    change: dict[str, Any] = {"store": {"num_shards": num_shards}}
    for path in Path("labels/predictions").iterdir():
        path.rename(f"gone-{path.name}")  # nothing to copy from
    own.run("sample", "infer", **change)
    assert_same(own.predictions(num_shards), before)


@pytest.mark.parametrize("block_images", [1, 100])
def test_places_in_a_batch_change_no_bit(own: Project, block_images: int) -> None:
    """A block begins a batch: other blocks put crops at other places of the batches."""
    before = own.predictions()
    own.run("infer", infer={"block_images": block_images})
    assert_same(own.predictions(), before)


def test_workers_change_no_byte(own: Project) -> None:
    before = own.tree("labels/predictions")
    for num_workers in (1, 7):
        for path in list(Path("labels/predictions").iterdir()):
            path.rename(f"gone-{num_workers}-{path.name}")
        own.run("infer", infer={"num_workers": num_workers})
        assert own.tree("labels/predictions") == before


def test_low_precision_is_near_and_finite(own: Project) -> None:
    before = own.predictions()
    own.run("infer", infer={"precision": "bf16"})
    after = own.predictions()
    assert np.isfinite(after["logp"]).all()
    assert np.abs(np.exp(after["logp"]) - np.exp(before["logp"])).max() < 0.2
    assert np.abs(after["logp"] - before["logp"]).max() > 0


def test_top_r_is_the_head_of_dense(own: Project) -> None:
    dense = own.predictions()
    own.run("infer", infer={"keep": "topk", "top_r": 3})
    top = own.predictions()
    assert "logp" not in top
    np.testing.assert_array_equal(top["topk_class"], dense["topk_class"][..., :3])
    head = np.take_along_axis(dense["logp"], dense["topk_class"].astype(int)[..., :3], axis=2)
    np.testing.assert_array_equal(top["topk_logp"], head)
    assert_same(top, dense, ("target_logp", "logsumexp", "crop_key"))


def test_every_temperature_has_its_logsumexp(own: Project) -> None:
    own.run("infer", infer={"temperatures": [4, 0.5]})
    stored, z = own.predictions(), slow_logits(own).astype(np.float64)
    assert own.entry("predictions", 0).attributes["temperatures"] == [0.5, 1.0, 4.0]
    for place, temperature in enumerate((0.5, 1.0, 4.0)):
        expected = np.log(np.exp(z / temperature).sum(axis=2))
        np.testing.assert_allclose(stored["logsumexp"][..., place], expected, atol=2e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"num_workers": 5},
        {"max_reject_share": 0.5},
        {"device": "auto"},
        {"keep": "dense"},
        {"top_r": 5},
        {"teacher": {"crop_ratio": 0.5, "input_size": 32}},
    ],
)
def test_what_changes_no_byte_changes_no_key(shared: Project, change: dict[str, Any]) -> None:
    if torch.cuda.is_available() and "device" in change:
        change = {"device": "cpu"}
    assert shared.why("infer", infer=change) == ["complete"] * 3


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 9},
        {"block_images": 4},
        {"precision": "bf16"},
        {"temperatures": [2.0]},
        {"keep": "topk", "top_r": 4},
        {"top_r": 4},
        {"teacher": {"mean": [0.5, 0.5, 0.5]}},
        {"teacher": {"interpolation": "bilinear"}},
        {"teacher": {"input_size": 40}},
    ],
)
def test_what_changes_bytes_changes_the_key(shared: Project, change: dict[str, Any]) -> None:
    assert shared.why("infer", infer=change) == ["parameters or inputs changed"] * 3


def test_moving_the_weights_changes_nothing(own: Project) -> None:
    Path("models/teacher").rename("elsewhere")
    where = str(Path("elsewhere").resolve())
    assert own.why("infer", infer={"teacher": {"weights": where}}) == ["complete"] * 3
    own.run("infer", shards=(0,), infer={"teacher": {"weights": where}, "batch_size": 4})
    data = b"".join(own.tree().values())
    assert str(own.folder).encode() not in data  # no absolute path in any file


@pytest.mark.parametrize(
    ("change", "error", "complaint"),
    [
        ({"teacher": {"weights": None}}, ParamsError, "neither weights nor pretrained"),
        ({"teacher": {"new_classifier": True}}, ParamsError, "new_classifier"),
        (
            {"teacher": {"name": "resnet1888"}},
            ParamsError,
            r"infer\.teacher\.name: timm has no model 'resnet1888'; did you mean .*resnet18",
        ),
        ({"teacher": {"name": "resnet34"}}, DataError, "the parameters say resnet34"),
        ({"precision": "fp16"}, ParamsError, r"infer\.precision is fp16, which needs a GPU"),
        (
            {"precision": "fp16", "device": "auto"},
            ParamsError,
            r"infer\.precision is fp16, which needs a GPU",
        ),
        ({"device": "cuda"}, ParamsError, "infer.device is cuda"),
    ],
)
def test_wrong_teachers(
    shared: Project,
    change: dict[str, Any],
    error: type[Exception],
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = shared.tree()
    with pytest.raises(error, match=complaint):
        shared.why("infer", infer=change)
    with pytest.raises(error, match=complaint):
        shared.run("infer", infer=change)
    assert shared.tree() == before


def test_half_precision_of_a_gpu_is_read_without_one(
    own: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    change: dict[str, Any] = {"infer": {"precision": "fp16", "device": "auto"}}

    lineage = Inputs.lineage

    with monkeypatch.context() as patch:
        patch.setattr("stages.infer.inputs._refuse_half_on_cpu", lambda config, inputs: None)
        made_there = {"device": "cuda", "resize": "device"}
        patch.setattr(Inputs, "lineage", lambda self: {**lineage(self), **made_there})
        own.run("infer", **change)
    assert own.why("infer", **change) == ["complete"] * 3
    own.run("compress", **change)


def test_an_entry_that_lacks_an_attribute_is_named(own: Project) -> None:
    path = own.layout.entry("crops", part_name(0))
    content = json.loads(path.read_bytes())
    del content["attributes"]["num_crops"], content["sha256"]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"crops/part-00000 does not say its num_crops; run"):
        own.run("infer")


@pytest.mark.parametrize(("num_classes", "complaint"), [(4, "4 classes.*has 5"), (6, "6 classes")])
def test_a_teacher_of_other_classes_reads_no_image(
    own: Project, num_classes: int, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_teacher(Path("models/teacher"), num_classes=num_classes)
    monkeypatch.setattr("stages.infer.decoded.read_bytes", None)
    with pytest.raises(DataError, match=complaint):
        own.run("infer")


def test_a_teacher_of_classes_in_another_order(own: Project) -> None:
    Path("images/elk").rename("images/aardvark")
    own.run("index", "sample")
    with pytest.raises(DataError, match=r"its class 0 is 'ant', that of labels.* 'aardvark'"):
        own.run("infer")


def test_teachers_near_chance_are_told(own: Project) -> None:
    [outcome] = own.run("infer")
    right = sum(shard.numbers["num_crops_right"] for shard in outcome.shards)  # type: ignore[misc]
    top = own.predictions()["topk_class"][..., 0]
    assert right == int((top == images.load(own.layout).class_ids[:, None]).sum())
    assert outcome.lines[0].startswith("100 crops labelled; the teacher's first class is the")
    assert len(outcome.warnings) == 1, "random weights know nothing"
    assert "near chance" in outcome.warnings[0]
