"""What a calibration would do, before it is written: the same as what the stage then writes."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stages.calibrate import pieces
from stages.calibrate.counts import Counts
from stages.calibrate.label_entropy import label_entropy
from stages.calibrate.recipe import Recipe
from stages.calibrate.survey import Preview, close_up, preview
from stages.shared.contract import NoProgress
from store import entries, images, scores, tables
from store.codecs import LabelSpec, encode
from store.dense_codecs import encode_full
from store.errors import DataError, ParamsError
from store.inspection.label_rows import LabelRows, num_pieces
from store.overlay import Action, Overlay, combine_dense
from store.parts import PartWriter
from store.schema import SCORES
from store.soft_part import SoftPart
from tests.stages.calibration import FERKD_CUSTOM, steps
from tests.world import NUM_CROPS, NUM_IMAGES, Project, copy_project, forget_predictions

FERKD = {**FERKD_CUSTOM, "drop_below": 0.6, "soften_to": 0.7, "drop_from": 0.95}
NOISE = {"step": "noise", "confidence": 0.3, "agreement": 0.6, "target_below": 0.6}
REVISE = {"step": "revise", "eta": 0.7}
SELECT = {"step": "select", "scores": "mine", "share": 0.6, "teacher_weight": 0.8}
RECIPES: dict[str, list[dict[str, Any]]] = {
    "absolute": [FERKD],
    "target": [{**FERKD_CUSTOM, "on": "target", "drop_lowest": 0.2, "soften_lowest": 0.4}],
    "auto": [{"step": "ferkd", "preset": "auto", "drop_highest": 0.1, "eps": "auto"}],
    "teacher": [{**FERKD, "spread": "teacher", "eps": 0.2}],
    "revise": [REVISE],
    "everywhere": [{**REVISE, "where": "all"}],
    "truth": [{"step": "truth"}],
    "selection": [REVISE, SELECT, FERKD],
    "noise": [NOISE, REVISE, FERKD],
}


@pytest.fixture(scope="module")
def world(made: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny project with scores, and every recipe written by the stage."""
    project = copy_project(made, tmp_path_factory.mktemp("survey"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.folder)
        table = images.load(project.layout)
        lineage = {"revision": 1, "params": {}, "inputs": {"images": scores.images_digest(table)}}
        writer = PartWriter(project.layout, scores.ARTIFACT, "mine", "score", "key", lineage)
        values = np.random.default_rng(0).normal(size=NUM_IMAGES).astype(np.float32)
        rows = {"image_id": np.arange(NUM_IMAGES, dtype=np.int32), "score": values}
        writer.publish_table(tables.make_table(SCORES, rows), {})
        entries.write_manifest(project.layout, scores.ARTIFACT)
        project.run("calibrate", calibrate={"ferkd": None, "shares": None, **RECIPES})
    return project


@pytest.fixture
def here(world: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(world.folder)
    return world


def looked(project: Project, *names: str, everything: bool = False) -> list[Preview]:
    recipes = [Recipe(name, steps(*RECIPES[name])) for name in names]
    return preview(recipes, project.source(), NoProgress(), everything=everything)


def written(project: Project, name: str) -> Counts:
    total = Counts()
    for shard in range(3):
        total = total.merge(Counts(**project.entry(f"calibrated/{name}", shard).numbers))
    return total


def test_counts_are_those_that_the_stage_writes(here: Project) -> None:
    found = looked(here, *RECIPES)
    assert [seen.recipe.name for seen in found] == list(RECIPES)
    for seen in found:
        assert seen.counts == written(here, seen.recipe.name), seen.recipe.name
        assert seen.num_crops == seen.num_all_crops == NUM_IMAGES * NUM_CROPS
        assert not seen.is_sample
    assert found[list(RECIPES).index("noise")].counts.suspected_images
    assert sum(seen.counts.restored_images for seen in found) > 0


def test_every_label_of_a_close_up_is_the_written_one(here: Project) -> None:
    for seen in looked(here, "noise", "selection"):
        folder = here.layout.folder(f"calibrated/{seen.recipe.name}")
        frame = pd.read_parquet(folder).set_index("image_id").sort_index(kind="stable")
        for image_id in range(NUM_IMAGES):
            rows, overlay = close_up(seen, image_id)
            own = frame.loc[image_id]
            assert (rows.image_ids == image_id).all()
            np.testing.assert_array_equal(overlay.action, own["action"])
            np.testing.assert_array_equal(overlay.teacher_weight, own["teacher_weight"])
            np.testing.assert_array_equal(overlay.target_weight, own["target_weight"])


def test_images_are_counted_by_action(here: Project) -> None:
    [seen] = looked(here, "selection")
    frame = pd.read_parquet(here.layout.folder("calibrated/selection"))
    for column, action in enumerate(Action):
        own = frame[frame["action"] == action].groupby("image_id").size()
        expected = own.reindex(range(NUM_IMAGES), fill_value=0)
        np.testing.assert_array_equal(seen.looked_at.crops[:, column], expected)
    np.testing.assert_array_equal(seen.looked_at.image_ids, np.arange(NUM_IMAGES))


def test_suspects_are_those_that_the_stage_lists(here: Project) -> None:
    [seen] = looked(here, "noise")
    folder = here.layout.folder("calibrated/noise")
    frame = pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("_suspects-*"))])
    assert seen.suspects is not None and len(frame) > 0
    assert seen.suspects.image_ids.tolist() == frame["image_id"].tolist()
    assert seen.suspects.teacher_classes.tolist() == frame["teacher_class"].tolist()


@pytest.mark.parametrize("kind", ["marginal_smoothing", "full"])
def test_a_sample_is_whole_images_of_all_shards(
    kind: str, own: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    change: dict[str, Any] = {"compress": {"kind": kind, "k": 2}, "calibrate": None}
    own.run("compress", **change)
    [whole] = looked(own, "absolute")
    monkeypatch.setattr(pieces, "LOOKED_AT", 30)
    monkeypatch.setattr(pieces, "_LEAST_PIECES", 3)
    [seen] = looked(own, "absolute")
    assert seen.is_sample and 30 <= seen.num_crops < 60
    assert seen.num_all_crops == NUM_IMAGES * NUM_CROPS
    ids = seen.looked_at.image_ids
    assert len(set(ids.tolist())) == len(ids) == seen.num_crops / NUM_CROPS
    starts = [images.shard_bounds(NUM_IMAGES, 3, shard)[0] for shard in (1, 2)]
    assert set(np.searchsorted(starts, ids, side="right").tolist()) == {0, 1, 2}
    assert seen.training["max"].total == seen.counts.num_crops == seen.num_entropies
    own_rows = np.isin(whole.looked_at.image_ids, ids)
    np.testing.assert_array_equal(whole.looked_at.crops[own_rows], seen.looked_at.crops)

    [every] = looked(own, "absolute", everything=True)
    assert every.counts == whole.counts and every.fit == whole.fit
    assert not every.is_sample
    assert every.entropy_before == seen.entropy_before
    assert every.num_entropies == seen.num_entropies


def test_entropies_are_those_of_the_labels_that_training_is_served(here: Project) -> None:
    for seen in looked(here, "noise", "truth"):
        before, after = [], []
        for image_id in range(NUM_IMAGES):
            rows, overlay = close_up(seen, image_id)
            before.append(dense_entropy(rows.dense()))
            after.append(dense_entropy(served(rows, overlay)))
        assert seen.entropy_before == pytest.approx(np.nanmean(before), abs=1e-6)
        assert seen.entropy_after == pytest.approx(np.nanmean(after), abs=1e-6)
        assert seen.num_entropies == NUM_IMAGES * NUM_CROPS
    assert seen.entropy_after == 0


def test_a_validation_store_is_counted_too(own: Project) -> None:
    own.make_validation_store()
    auto: dict[str, object] = {"step": "ferkd", "preset": "auto", "validation": "labels-val"}
    [seen] = preview([Recipe("x", steps(auto))], own.source(), NoProgress())
    assert seen.validation["max"].total == 15 * NUM_CROPS
    assert seen.training["max"].total == NUM_IMAGES * NUM_CROPS
    [alone] = looked(own, "revise")
    assert alone.validation == {} and set(alone.training) == {"max"}
    assert set(looked(own, "target")[0].training) == {"max", "target"}


def test_a_recipe_that_drops_everything_and_missing_labels_are_refused(
    own: Project,
) -> None:
    nothing = Recipe("none", steps({**FERKD_CUSTOM, "drop_from": 0.1}))
    with pytest.raises(ParamsError, match=r"calibrate\.none: the step ferkd drops every one"):
        preview([nothing], own.source(), NoProgress())
    Path("labels/soft/_part-00001.json").unlink()
    with pytest.raises(DataError, match=r"_part-00001\.json is missing; run `.* compress"):
        looked(own, "revise")


@pytest.mark.parametrize("kind", ["marginal_smoothing", "full"])
def test_images_are_found_in_any_piece(
    kind: str, own: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "ROW_GROUP_ROWS", 3 * NUM_CROPS)
    own.run("compress", compress={"kind": kind, "k": 1}, calibrate=None)
    start, stop = images.shard_bounds(NUM_IMAGES, 3, 1)
    assert num_pieces(SoftPart(own.layout, own.entry("soft", 1))) == 3
    for image_id in range(start, stop):
        rows = pieces.rows_of_image(own.layout, own.entry("soft", 1), image_id - start)
        assert rows.image_ids.tolist() == [image_id] * NUM_CROPS


@pytest.mark.parametrize("kind", ["marginal_smoothing", "full"])
def test_rejected_crops_are_counted_apart(kind: str, own: Project) -> None:
    forget_predictions()
    Path("images/bee/0.jpg").unlink()
    change: dict[str, Any] = {"infer": {"max_reject_share": 0.5}}
    own.run("infer", "compress", compress={"kind": kind, "k": 2}, **change)
    [seen] = looked(own, "noise")
    assert seen.counts.actions["reject"] == NUM_CROPS
    assert seen.num_crops == NUM_IMAGES * NUM_CROPS
    assert seen.num_entropies == seen.training["max"].total == seen.num_crops - NUM_CROPS
    assert np.isfinite([seen.entropy_before, seen.entropy_after]).all()
    rows, overlay = close_up(seen, 5)
    assert np.isnan(rows.max_prob).all() and (overlay.action == Action.REJECT).all()


# Entropy of calibrated labels.

NUM_CLASSES = 8
SPECS = [
    LabelSpec("hard", 1, NUM_CLASSES),
    *(LabelSpec("smoothing", 1, NUM_CLASSES, include_target=each) for each in (False, True)),
    *(
        LabelSpec(kind, k, NUM_CLASSES, precision, include_target=each)
        for kind in ("marginal_smoothing", "marginal_renorm")
        for k in (1, 3, 8)
        for precision in ("float16", "compact")
        for each in (False, True)
    ),
    LabelSpec("full", NUM_CLASSES, NUM_CLASSES),
]


def block(spec: LabelSpec) -> LabelRows:
    """60 crops: sure, unsure and even ones, right and wrong; two are rejected."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(60, NUM_CLASSES)) * rng.choice([0, 0.3, 2, 9], (60, 1))
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    targets = rng.integers(0, NUM_CLASSES, 60).astype(np.int32)
    target_prob = probs[np.arange(60), targets]
    ids = np.argsort(-probs, axis=1, kind="stable").astype(np.int32)
    ranked = np.take_along_axis(probs, ids.astype(np.int64), axis=1)
    ids[:2], ranked[:2], probs[:2], target_prob[:2] = -1, np.nan, np.nan, np.nan
    is_full = spec.kind == "full"
    return LabelRows(
        spec,
        np.arange(60, dtype=np.int32) // 4,
        targets,
        probs.max(axis=1).astype(np.float32),
        target_prob.astype(np.float32),
        None if is_full else encode(spec, ids, ranked, targets, target_prob),
        encode_full(probs) if is_full else None,
    )


def overlay_of(rows: LabelRows) -> Overlay:
    """Every action, with weights that leave nothing, something or all to the teacher."""
    rng = np.random.default_rng(2)
    action = rng.choice([0, 1, 2, 3, 4], 60).astype(np.uint8)
    a, b = rng.random(60), rng.random(60)
    a, b = a * (1 - b), b
    for which, weights in ((Action.KEEP, (1, 0)), (Action.TRUTH, (0, 1)), (Action.DROP, None)):
        a[action == which], b[action == which] = weights or (np.nan, np.nan)
    a[action == Action.SOFTEN] = 0
    action[:2], a[:2], b[:2] = Action.REJECT, np.nan, np.nan
    return Overlay(action, a.astype(np.float32), b.astype(np.float32))


def served(rows: LabelRows, overlay: Overlay) -> np.ndarray:
    weights = overlay.teacher_weight, overlay.target_weight
    return combine_dense(rows.dense(), rows.targets, *weights)


def dense_entropy(labels: np.ndarray) -> np.ndarray:
    logs = np.log(np.where(labels > 0, labels, 1))
    return np.asarray(-(labels * logs).sum(axis=1))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_entropy_is_that_of_the_dense_label(spec: LabelSpec) -> None:
    rows = block(spec)
    overlay = overlay_of(rows)
    before = rows.entropy()
    np.testing.assert_allclose(before, dense_entropy(rows.dense()), atol=2e-6)
    after = label_entropy(rows, overlay, before)
    np.testing.assert_allclose(after, dense_entropy(served(rows, overlay)), atol=2e-6)
    gone = np.isin(overlay.action, [Action.DROP, Action.REJECT])
    np.testing.assert_array_equal(np.isnan(after), gone)
