"""A self-supervised teacher's outputs, from infer through compress to view and commands."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from numpy.typing import NDArray

from ferkd_pipeline import cli
from ferkd_pipeline.report import labels
from stages.compress.config import Config as CompressConfig
from stages.infer.config import Config
from stages.infer.run import open_inputs
from stages.shared import models
from stages.shared.contract import NoProgress, keyed_params
from stages.shared.images import decode
from stages.shared.model_config import ModelConfig
from stages.shared.pixels import crop_resize, normalise
from store import images, tables
from store.check.verify import verify
from store.dense_codecs import decode_logits
from store.errors import DataError, ParamsError, ShardError
from store.layout import part_name
from store.soft_part import SoftPart
from store.view.build import plan_view
from tests.world import (
    NETWORK,
    NUM_CROPS,
    NUM_IMAGES,
    Project,
    copy_project,
    forget_predictions,
)

D = 9
HEAD = ModelConfig(**NETWORK, input_size=(32, 32), mean=(0.4, 0.4, 0.4), std=(0.3, 0.3, 0.3))
INFER: dict[str, Any] = {
    "teacher": {"weights": "models/head"},
    "outputs": "projection",
    "num_outputs": D,
}
SHOWN: dict[str, Any] = {"infer": INFER, "compress": {"kind": "logits"}, "calibrate": None}


def write_head(folder: Path, num_outputs: int = D, scale: float = 3.0) -> None:
    """A network of random weights with ``num_outputs`` outputs about as large as ``scale``."""
    model = models.build(HEAD, num_outputs, seed=4)
    with torch.no_grad():
        layer = dict(model.module.named_parameters())["fc.weight"]
        layer.copy_(scale * torch.randn(layer.shape, generator=torch.Generator().manual_seed(4)))
    names = [f"prototype {place}" for place in range(num_outputs)]
    models.save_model(folder, model.module, models.card_of(HEAD, model.spec, names))


@pytest.fixture(scope="module")
def whole(made: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A store of projections and their labels, as the current folder of this module."""
    project = copy_project(made, tmp_path_factory.mktemp("projection"))
    with contextlib.chdir(project.folder):
        write_head(Path("models/head"))
        shutil.rmtree("labels/calibrated")
        project.run("infer", "compress", **SHOWN)
        project.write_params(**SHOWN)
        yield project


@pytest.fixture
def alone(whole: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of it, as the current folder, to change."""
    copied = copy_project(whole, tmp_path / "alone")
    monkeypatch.chdir(copied.folder)
    return copied


def changed(**infer: Any) -> dict[str, Any]:
    return {**SHOWN, "infer": {**INFER, **infer}}


def slow_outputs(project: Project) -> NDArray[np.float64]:
    """(N, M, D) z: each crop decoded, resized and forwarded alone."""
    config = project.params(**SHOWN).typed("infer", Config)
    model = open_inputs(config, project.source())(0).teachers[0].model
    paths = images.load(project.layout).paths
    found = []
    for shard in range(3):
        table = tables.read_table(project.layout.table("crops", part_name(shard)))
        for row in table.to_pylist():
            pixels = decode((Path("images") / str(paths[row["image_id"]])).read_bytes())
            box = [row[name] for name in ("top", "left", "height", "width")]
            spec = model.spec
            crop = crop_resize(pixels, [box], [row["flip"]], spec.size, spec.interpolation)
            with torch.inference_mode():
                found.append(model.module(normalise(crop, spec.mean, spec.std))[0].numpy())
    return np.stack(found).reshape(NUM_IMAGES, NUM_CROPS, D).astype(np.float64)


def stored_labels(project: Project) -> NDArray[np.float64]:
    """(N, M, D) labels on disk."""
    parts = [SoftPart(project.layout, project.entry("soft", shard)) for shard in range(3)]
    blocks = [stored for part in parts for _, _, stored in part.dense_blocks()]
    return decode_logits(np.concatenate(blocks))


def test_outputs_are_kept_whole_and_as_they_are(whole: Project) -> None:
    stored, z = whole.predictions(), slow_outputs(whole)
    assert sorted(stored) == ["crop_key", "image_id", "logit"]
    assert stored["logit"].dtype == np.float16
    np.testing.assert_allclose(stored["logit"], z, rtol=6e-4, atol=1e-3)
    assert (z > 1).any() and (z < -1).any(), "no softmax, no logarithm of one"
    entry = whole.entry("predictions", 0)
    assert entry.attributes == {
        "arrays": ["crop_key", "image_id", "logit"],
        "num_crops": NUM_CROPS,
        "num_outputs": D,
    }
    assert entry.lineage["inputs"]["num_outputs"] == D
    group = zarr.open_group("labels/predictions/part-00001.zarr", mode="r")
    assert group["logit"].metadata.dimension_names == ("image", "crop", "output")  # type: ignore[union-attr]


def test_the_summary_says_no_accuracy(alone: Project) -> None:
    forget_predictions()
    [outcome] = alone.run("infer", **SHOWN)
    assert outcome.lines[0] == f"100 crops labelled with {D} outputs each"
    assert not outcome.warnings


@pytest.mark.parametrize("normalize", ["none", "l2"])
def test_labels_are_the_outputs(alone: Project, normalize: str) -> None:
    compress = {"kind": "logits", "normalize": normalize}
    alone.run("compress", **{**SHOWN, "compress": compress})
    z = alone.predictions()["logit"].astype(np.float64)
    labelled = stored_labels(alone)
    if normalize == "l2":
        np.testing.assert_allclose(np.linalg.norm(labelled, axis=-1), 1, atol=1e-3)
        z = z / np.linalg.norm(z, axis=-1, keepdims=True)
        np.testing.assert_allclose(labelled, z, atol=3e-4)
    else:
        np.testing.assert_array_equal(labelled, z)
    part = SoftPart(alone.layout, alone.entry("soft", 1))
    assert part.spec.kind == "logits" and part.spec.normalize == normalize
    assert part.spec.num_classes == D and part.spec.precision == "float16"
    assert verify(Path("labels"), NoProgress(), deep=True).damages == []


def test_the_view_serves_them(whole: Project) -> None:
    view = plan_view(whole.layout, 3, Path("images")).open()
    rows = np.array([3, 20])
    crops = np.array([[0, 3], [2, 1]])
    batch = view.gather(rows, crops)
    assert batch.dense is not None and batch.dense.shape == (2, 2, D)
    np.testing.assert_array_equal(batch.dense, stored_labels(whole)[rows[:, None], crops])
    np.testing.assert_array_equal(batch.targets, images.load(whole.layout).class_ids[rows])


def test_the_commands_of_the_store_know_them(
    whole: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (("info",), ("verify",), ("verify", "--deep"), ("stats",)):
        code = cli.main(["store", *words])
        said = capsys.readouterr()
        assert code == 0, said.out + said.err
    cli.main(["store", "info", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["label"]["kind"] == "logits" and found["teacher"]["name"] == "resnet18"
    assert labels.max_prob_histogram(Path("labels")).sum() == 0


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 9},
        {"teacher": {"weights": "models/head", "mean": [0.5, 0.5, 0.5]}},
    ],
)
def test_what_changes_outputs_changes_the_key(whole: Project, change: dict[str, Any]) -> None:
    assert whole.why("infer", **SHOWN) == ["complete"] * 3
    assert whole.why("infer", **changed(top_r=3, keep="dense")) == ["complete"] * 3
    assert whole.why("infer", **changed(**change)) == ["parameters or inputs changed"] * 3


def test_normalisation_is_keyed_where_it_says_something(shared: Project, whole: Project) -> None:
    other = {**SHOWN, "compress": {"kind": "logits", "normalize": "l2"}}
    with contextlib.chdir(whole.folder):
        assert whole.why("compress", **SHOWN) == ["complete"] * 3
        assert whole.why("compress", **other) == ["parameters or inputs changed"] * 3
    with contextlib.chdir(shared.folder):
        assert shared.why("compress", compress={"normalize": "none"}) == ["complete"] * 3


def test_labels_and_predictions_of_classes_keep_their_keys() -> None:
    """Of before there were projections and ensembles: stores of then are complete now."""
    infer = Config.model_validate({"teacher": {"name": "resnet18", "weights": "x"}})
    assert keyed_params(infer) == {
        "teacher": {"name": "resnet18", "model_kwargs": {}},
        "batch_size": 256,
        "precision": "float32",
        "temperatures": [1.0],
        "block_images": 256,
    }
    assert keyed_params(CompressConfig()) == {
        "kind": "marginal_smoothing",
        "k": 5,
        "precision": "compact",
        "temperature": 1.0,
        "include_target": False,
    }


def test_moved_borders_cost_no_forward(alone: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    before = alone.predictions()
    monkeypatch.setattr("stages.infer.forward.Labeller._launch", None)
    alone.run("sample", "infer", "compress", store={"num_shards": 2}, **SHOWN)
    for name, values in alone.predictions(2).items():
        np.testing.assert_array_equal(values, before[name], err_msg=name)


def test_an_unreadable_image_goes_its_whole_way(alone: Project) -> None:
    forget_predictions()
    lost = list(images.load(alone.layout).paths).index("bee/2.jpg")
    Path("images/bee/2.jpg").unlink()
    [outcome, _] = alone.run("infer", "compress", **changed(max_reject_share=0.5))
    assert any("1 images could not be used" in warning for warning in outcome.warnings)
    for values in (alone.predictions()["logit"], stored_labels(alone)):
        assert np.isnan(values[lost]).all()
        assert np.isfinite(np.delete(values, lost, axis=0)).all()
    assert alone.entry("soft", 0).numbers["num_rejected_crops"] == NUM_CROPS
    view = plan_view(alone.layout, 3, Path("images")).open()
    assert lost not in view.image_ids and view.num_images == NUM_IMAGES - 1
    assert verify(Path("labels"), NoProgress(), deep=True).damages == []


@pytest.mark.parametrize(
    ("scale", "complaint"),
    [
        (1e6, r"resnet18 gave [\d.e+]+ for crop \d of ant/0\.jpg.* up to 65504; scale"),
        (float("inf"), r"gave NaN or infinity for crop 0 of ant/0\.jpg"),
    ],
)
def test_outputs_that_cannot_be_stored_stop_the_shard(
    alone: Project, scale: float, complaint: str
) -> None:
    write_head(Path("models/head"), scale=scale)
    with pytest.raises(ShardError, match=complaint):
        alone.run("infer", **SHOWN)


def test_the_number_of_outputs_must_be_the_heads(whole: Project) -> None:
    with pytest.raises(DataError, match=r"models/head/.* 9 .*; .* infer\.num_outputs is 8"):
        whole.why("infer", **changed(num_outputs=8))


@pytest.mark.parametrize(
    "kind", ["hard", "smoothing", "marginal_smoothing", "marginal_renorm", "full"]
)
def test_outputs_have_no_probabilities(whole: Project, kind: str) -> None:
    complaint = rf"compress\.kind is {kind}, but infer\.outputs is projection.* to logits"
    with pytest.raises(ParamsError, match=complaint):
        whole.why("compress", **{**SHOWN, "compress": {"kind": kind}})


def test_classes_have_no_raw_outputs(shared: Project) -> None:
    complaint = r"compress\.kind is logits, but infer\.outputs is classes.* to projection"
    with pytest.raises(ParamsError, match=complaint):
        shared.why("compress", compress={"kind": "logits"})


@pytest.mark.parametrize(
    ("compress", "complaint"),
    [
        ({"kind": "full", "normalize": "l2"}, "normalize is l2, allowed with kind full: none"),
        ({"kind": "logits", "temperature": 2.0}, "allowed with kind logits: 1, since training"),
        ({"kind": "logits", "include_target": True}, "allowed with kind logits: false"),
    ],
)
def test_wrong_parameters(whole: Project, compress: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ParamsError, match=complaint):
        whole.params(**{**SHOWN, "compress": compress})


def test_outputs_are_not_calibrated(whole: Project) -> None:
    steps = {"ferkd": [{"step": "ferkd"}]}
    with pytest.raises(DataError, match="kind logits, which are no probabilities: calibration is"):
        whole.run("calibrate", **{**SHOWN, "calibrate": steps})


def test_verify_finds_outputs_that_are_rejected_in_one_place_only(alone: Project) -> None:
    """Labels of before an image was lost, predictions of after."""
    from store.check.consistency import check_rejects

    listed = [alone.entry(artifact, 0) for artifact in ("predictions", "soft")]
    assert list(check_rejects(alone.layout, listed)) == []
    Path("images/ant/1.png").unlink()
    alone.run("infer", **changed(max_reject_share=0.5, batch_size=9))
    listed = [alone.entry("predictions", 0), listed[1]]
    [damage] = check_rejects(alone.layout, listed)
    assert "its rejected rows are not those of predictions/part-00000" in damage.kind
