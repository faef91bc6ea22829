"""The stage calibrate through the engine: fit over all shards, apply to each."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from ferkd_pipeline import engine, jobs
from ferkd_pipeline.engine import StageOutcome
from stages.calibrate import inputs, validation
from stages.calibrate.config import Config
from stages.calibrate.inputs import open_inputs
from stages.calibrate.recipe import Recipe
from stages.calibrate.run import summarise
from stages.shared.contract import NoProgress
from store import fit_file, images
from store.check.verify import verify
from store.errors import DataError, ParamsError
from store.layout import part_name
from store.overlay import Action
from tests.world import NUM_CROPS, NUM_IMAGES, Project, write_teacher

NUM_ROWS = NUM_IMAGES * NUM_CROPS
FERKD: dict[str, Any] = {"step": "ferkd", "preset": "custom", "drop_below": 0.55, "soften_to": 0.7}
REVISE = {"step": "revise", "eta": 0.8}


def frame(project: Project, name: str) -> dict[str, NDArray[Any]]:
    """Columns of a calibration, all shards."""
    parts = [
        pq.read_table(project.layout.table(f"calibrated/{name}", part_name(shard))).to_pandas()
        for shard in range(3)
    ]
    return {c: np.concatenate([part[c].to_numpy() for part in parts]) for c in parts[0].columns}


def max_probs(project: Project) -> NDArray[np.float64]:
    parts = [
        pq.read_table(project.layout.table("soft", part_name(s))).to_pandas() for s in range(3)
    ]
    return np.concatenate([part["prob_0"].to_numpy(np.float64) for part in parts])


def test_absolute_thresholds(own: Project) -> None:
    own.run("calibrate", calibrate={"ferkd": [FERKD]})
    found, x = frame(own, "ferkd"), max_probs(own)
    grid = [float(np.float32(t)) for t in (0.55, 0.7)]  # borders of cells
    wanted = np.where(x < grid[0], Action.DROP, np.where(x <= grid[1], Action.SOFTEN, Action.KEEP))
    kept = wanted.reshape(NUM_IMAGES, NUM_CROPS) != Action.DROP
    wanted[np.repeat(~kept.any(axis=1), NUM_CROPS)] = Action.SOFTEN
    np.testing.assert_array_equal(found["action"], wanted)
    assert len(np.unique(wanted)) == 3
    np.testing.assert_array_equal(found["image_id"], np.repeat(np.arange(NUM_IMAGES), NUM_CROPS))
    np.testing.assert_array_equal(found["crop"], np.tile(np.arange(NUM_CROPS), NUM_IMAGES))


def test_shares_are_of_all_shards_together(shared: Project) -> None:
    """`shares` of the world: drop the lowest 10 %, soften up to 30 %, drop the top 20 %.

    As far as that can be done without cutting equal maxima in two.
    """
    x = np.sort(max_probs(shared))
    at_most = {share: [v for v in x if (x <= v).sum() <= share] for share in (10, 30)}
    top = min(v for v in x if (x >= v).sum() <= 20)
    fitted = fit_file.read(shared.layout, "calibrated/shares")
    assert fitted is not None
    thresholds = fitted["fit"]["steps"][0]["thresholds"]
    assert thresholds["drop_up_to"] == max(at_most[10])
    assert thresholds["soften_to"] == max(at_most[30])
    assert thresholds["drop_from"] == top
    counts: Counter[str] = Counter()
    for shard in range(3):
        counts.update(shared.entry("calibrated/shares", shard).numbers["groups"])
    dropped, hard, easy = len(at_most[10]), len(at_most[30]), int((x >= top).sum())
    assert counts == {
        "extreme_hard": dropped,
        "moderate_hard": hard - dropped,
        "hard_positive": len(x) - hard - easy,
        "easy_positive": easy,
    }
    actions = frame(shared, "shares")["action"]
    assert {int(a) for a in np.unique(actions)} <= {int(a) for a in Action}
    assert (actions == Action.REVISE).any()


def test_fit_reads_all_shards_and_apply_one(own: Project) -> None:
    before = own.tree("labels/calibrated")
    own.layout.entry("calibrated/shares", part_name(1)).unlink()
    own.run("calibrate", shards=(1,))
    after = own.tree("labels/calibrated")
    for name in ("ferkd", "shares"):
        before.pop(f"labels/calibrated/{name}/_manifest.json")
        after.pop(f"labels/calibrated/{name}/_manifest.json", None)
    assert after == before


@pytest.mark.parametrize("recipe", [FERKD, {"step": "ferkd", "preset": "ferkd_share"}])
def test_a_shard_without_a_fit(own: Project, recipe: dict[str, Any]) -> None:
    change: dict[str, Any] = {"calibrate": {"other": [recipe]}}
    with pytest.raises(
        DataError, match=r"calibration other, since it was not fitted yet; run `.* calibrate`"
    ):
        own.run("calibrate", shards=(1,), **change)
    assert not Path("labels/calibrated/other").exists()
    own.run("calibrate", **change)
    own.run("calibrate", shards=(1,), **change)


def test_a_fit_of_other_labels(own: Project) -> None:
    change: dict[str, Any] = {"compress": {"precision": "float16"}}
    own.run("compress", **change)
    with pytest.raises(DataError, match="since the kind of labels changed; run"):
        own.run("calibrate", shards=(2,), **change)


@pytest.mark.parametrize("name", ["precision", "label"])
def test_an_entry_that_lacks_an_attribute_is_named(own: Project, name: str) -> None:
    for shard in range(3):
        path = own.layout.entry("soft", part_name(shard))
        content = json.loads(path.read_bytes())
        del content["attributes"][name], content["sha256"]
        path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"soft/part-00000 does not say its {name}; run"):
        own.run("calibrate")


def test_only_ferkd_needs_the_other_shards(own: Project) -> None:
    change: dict[str, Any] = {"calibrate": {"ferkd": [{"step": "truth"}], "shares": None}}
    own.run("calibrate", **change)
    own.layout.entry("soft", part_name(2)).unlink()
    Path("labels/calibrated/ferkd/_part-00000.json").unlink()
    own.run("calibrate", shards=(0,), **change)
    with pytest.raises(DataError, match=r"soft/_part-00002.json is missing"):
        own.run("calibrate", shards=(0,))


def test_every_crop_dropped_is_refused_and_nothing_written(own: Project) -> None:
    before = own.tree("labels")
    all_gone = {**FERKD, "soften_to": None, "drop_below": 0.999}
    fine = {"step": "ferkd", "preset": "ferkd_share"}
    with pytest.raises(ParamsError, match=r"calibrate.new: .* drops every one of 100 crops"):
        own.run("calibrate", calibrate={"fine": [fine], "new": [all_gone]})
    assert own.tree("labels") == before


def test_a_dry_run_says_what_would_be_fitted(own: Project) -> None:
    change: dict[str, Any] = {"calibrate": {"ferkd": [{**FERKD, "soften_to": 0.8}], "new": [FERKD]}}
    plans = engine.plan_stage(own.params(**change), "calibrate", None)
    said = {(plan.calibration, plan.action, plan.why) for plan in plans}
    assert said == {
        ("ferkd", "run", "its steps changed"),
        ("new", "run", "it was not fitted yet"),
        ("shares", "skip", "complete"),
    }
    assert len(plans) == 9
    assert not Path("labels/calibrated/new").exists()


def actions_by_recipe(outcome: StageOutcome) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for shard in outcome.shards:
        found.setdefault(str(shard.calibration), set()).add(shard.action)
    return found


def test_scores_that_change_rerun_their_recipe_alone(own: Project) -> None:
    def change(seed: int) -> dict[str, Any]:
        select = {"step": "select", "scores": "chance", "share": 0.5}
        return {
            "score": {"chance": {"estimator": "random", "seed": seed}},
            "calibrate": {"new": [select]},
        }

    own.run("score", "calibrate", **change(0))
    first = frame(own, "new")
    assert (first["action"] == Action.TRUTH).sum() == NUM_ROWS // 2 // NUM_CROPS * NUM_CROPS
    assert own.why("calibrate", **change(0)) == ["complete"] * 9
    own.run("score", **change(1))
    with pytest.raises(DataError, match="calibration new, since scores changed; run"):
        own.run("calibrate", shards=(0,), **change(1))
    [outcome] = own.run("calibrate", **change(1))
    assert actions_by_recipe(outcome) == {"ferkd": {"skip"}, "shares": {"skip"}, "new": {"run"}}
    assert (frame(own, "new")["action"] != first["action"]).any()


def test_lineage_tells_every_choice(own: Project) -> None:
    [recipe] = [Recipe("shares", own.params().typed("calibrate", Config).root["shares"])]
    found = open_inputs(recipe, own.source())(1)
    other = replace(found.fit.steps[0], eps=0.2)
    changed = replace(found, fit=replace(found.fit, steps=(other, *found.fit.steps[1:])))
    assert changed.lineage() != found.lineage()
    told = replace(found, fit=replace(found.fit, reliability={}, num_crops=7))
    assert told.lineage() == found.lineage()  # for people: it changes no row


def test_validation_crops_choose_thresholds(own: Project) -> None:
    own.make_validation_store()
    auto = {"step": "ferkd", "preset": "auto", "eps": "auto", "drop_lowest": 0.3,
            "soften_lowest": 0.6}  # fmt: skip
    change: dict[str, Any] = {
        "calibrate": {"seen": [auto], "unseen": [{**auto, "validation": "labels-val"}]}
    }
    [outcome] = own.run("calibrate", **change)
    [line] = [line for line in outcome.lines if line.startswith("unseen: auto")]
    assert "of training crops and" in line and "of validation crops" in line
    fits = [fit_file.read(own.layout, f"calibrated/{name}") for name in ("seen", "unseen")]
    seen, unseen = (fitted["fit"] for fitted in fits if fitted is not None)
    assert seen["reliability"]["training"] == unseen["reliability"]["training"]
    assert seen["steps"][0]["eps"] != unseen["steps"][0]["eps"]
    own.make_validation_store(compress={"precision": "float16"})
    whys = own.why("calibrate", **change)
    assert whys.count("labels of the validation store changed") == 3
    [outcome] = own.run("calibrate", **change)
    assert actions_by_recipe(outcome)["seen"] == {"skip"}


def test_a_validation_store_is_looked_at_once_for_all_shards(
    own: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.make_validation_store()
    auto = {"step": "ferkd", "preset": "auto", "validation": "labels-val"}
    change: dict[str, Any] = {"calibrate": {"new": [auto]}}
    own.run("calibrate", **change)
    opened: list[str] = []
    plain = validation.open_validation

    def counted(name: str, *more: Any) -> Any:
        opened.append(name)
        return plain(name, *more)

    monkeypatch.setattr(inputs, "open_validation", counted)
    [recipe] = [Recipe("new", own.params(**change).typed("calibrate", Config).root["new"])]
    of_shard = open_inputs(recipe, own.source(**change))
    assert len({str(of_shard(shard).soft.stem) for shard in range(3)}) == 3
    assert opened == ["new"]


def test_what_is_no_validation_store_is_refused(own: Project) -> None:
    def fitted_on(root: str) -> None:
        auto = {"step": "ferkd", "preset": "auto", "validation": root}
        own.run("calibrate", calibrate={"new": [auto]})

    with pytest.raises(DataError, match=r"calibrate.new: validation is nowhere, .* docs/calib"):
        fitted_on("nowhere")
    with pytest.raises(DataError, match="25 of its 25 images in common with the training images"):
        fitted_on("labels")
    own.make_validation_store()
    lost = Path("labels-val/soft/_part-00002.json")
    kept = lost.read_bytes()
    lost.unlink()
    with pytest.raises(DataError, match=r"made from other .*, or store\.num_shards was changed"):
        fitted_on("labels-val")
    lost.write_bytes(kept)
    fitted_on("labels-val")
    write_teacher(Path("models/teacher"), seed=3)
    own.make_validation_store()
    with pytest.raises(DataError, match="are of different teachers"):
        fitted_on("labels-val")


def test_choices_are_told(own: Project) -> None:
    [outcome] = own.run("calibrate", calibrate={"new": [{"step": "ferkd", "preset": "auto"}]})
    told = [line for line in outcome.lines if line.startswith("new: auto on the teacher's maximum")]
    assert len(told) == 1
    assert "% of training crops" in told[0]
    [again] = own.run("calibrate", calibrate={"new": [{"step": "ferkd", "preset": "auto"}]})
    assert told[0] in again.lines


def test_suspects_are_listed_beside_the_overlay(own: Project) -> None:
    """The teacher's weights are random, so its labels say nothing: with a low bar many differ."""
    noise = {"step": "noise", "confidence": 0.0, "agreement": 0.51, "target_below": 1.0}
    own.run("calibrate", calibrate={"new": [noise, {"step": "truth"}]})
    folder = own.layout.folder("calibrated/new")
    table = images.load(own.layout)
    found = pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("_suspects-*"))])
    assert len(found) > 0
    assert found["path"].tolist() == table.paths[found["image_id"]].tolist()
    assert (found["class_id"] == table.class_ids[found["image_id"]]).all()
    assert (found["class_id"] != found["teacher_class"]).all()
    actions = frame(own, "new")
    kept = actions["action"] == Action.KEEP
    assert set(actions["image_id"][kept]) == set(found["image_id"])
    assert len(pd.read_parquet(folder)) == NUM_ROWS  # plain pandas sees the overlay alone
    assert not verify(own.layout.root, NoProgress()).damages
    alone: dict[str, Any] = {"calibrate": {"new": [{"step": "truth"}]}}
    jobs.fit(own.params(**alone), NoProgress())
    own.run("calibrate", shards=(0,), **alone)
    assert not (folder / "_suspects-00000.parquet").exists()
    own.run("calibrate", **alone)
    assert not list(folder.glob("_suspects-*"))
    assert not verify(own.layout.root, NoProgress()).damages


def test_a_changed_recipe_runs_alone(own: Project) -> None:
    before = own.tree("labels/calibrated/shares")
    change: dict[str, Any] = {"calibrate": {"ferkd": [{**FERKD, "soften_to": 0.8}]}}
    assert own.why("calibrate") == ["complete"] * 6
    [outcome] = own.run("calibrate", **change)
    assert [shard.action for shard in outcome.shards] == ["run"] * 3 + ["skip"] * 3
    assert own.tree("labels/calibrated/shares") == before


def test_a_calibration_that_is_gone_from_params_is_removed(own: Project) -> None:
    own.run("calibrate", calibrate={"shares": None})
    assert not Path("labels/calibrated/shares").exists()
    assert Path("labels/calibrated/ferkd/_fit.json").exists()


@pytest.mark.parametrize("precision", ["float16", "compact"])
def test_the_same_actions_whatever_kind_k_and_temperature(own: Project, precision: str) -> None:
    own.run("compress", compress={"precision": precision})
    x = np.sort(max_probs(own))
    # A maximum that another grid would put on the other side of itself as a threshold.
    edge = next(float(v) for v in x[50:] if precision == "float16" or np.float16(v) > v)
    step = {**FERKD, "drop_from": edge}
    change: dict[str, Any] = {
        "infer": {"temperatures": [4.0]},
        "calibrate": {"ferkd": [step], "shares": [{"step": "ferkd", "preset": "ferkd_share"}]},
    }
    own.run("infer", **change)
    found: list[bytes] = []
    for label in (
        {"kind": "marginal_smoothing", "k": 2},
        {"kind": "marginal_smoothing", "k": 3, "temperature": 4.0},
        {"kind": "hard"},
        {"kind": "marginal_renorm", "k": 1, "include_target": True},
        {"kind": "full"},
        {"kind": "full", "temperature": 4.0},
    ):
        compress = {"k": 2, "precision": precision, **label}
        own.run("compress", "calibrate", compress=compress, **change)
        actions = np.stack([frame(own, name)["action"] for name in ("ferkd", "shares")])
        found.append(actions.tobytes())
    assert len(set(found)) == 1


def test_revised_labels_lead_by_the_margin(own: Project) -> None:
    """On the labels as training is served them: 1 - eta between the truth and the best other."""
    change: dict[str, Any] = {"calibrate": {"ferkd": [REVISE]}}
    own.run("calibrate", **change)
    found = frame(own, "ferkd")
    top = own.predictions()["topk_class"][..., 0].reshape(-1)
    targets = np.repeat(images.load(own.layout).class_ids, NUM_CROPS)
    np.testing.assert_array_equal(found["action"] == Action.REVISE, top != targets)
    np.testing.assert_array_equal(found["action"] == Action.KEEP, top == targets)
    weights = found["teacher_weight"] + found["target_weight"]
    np.testing.assert_allclose(weights, 1, atol=1e-6)


def test_all_shards_are_told_together(own: Project) -> None:
    own.layout.entry("calibrated/ferkd", part_name(0)).unlink()
    [outcome] = own.run("calibrate")
    assert len(outcome.shards) == 6
    assert [shard.action for shard in outcome.shards].count("run") == 1
    assert sum(line.startswith("ferkd: 100 crops: ") for line in outcome.lines) == 1
    assert sum(line.startswith("shares: 100 crops: ") for line in outcome.lines) == 1


def test_thresholds_that_do_not_suit_the_teacher_are_warned_of() -> None:
    def told(low: int, high: int) -> tuple[str, ...]:
        groups = {"extreme_hard": low, "moderate_hard": 5, "easy_positive": high}
        actions = {"keep": 95 - low - high, "soften": 5, "drop": low + high, "reject": 7}
        return summarise("calibrated/mine", [{"actions": actions, "groups": groups}]).warnings

    assert told(4, 6) == ()
    [warning] = told(4, 7)
    assert warning.startswith("mine: FerKD's thresholds would drop 11.0% of the crops")


def test_images_that_would_lose_everything_are_warned_of() -> None:
    numbers = {"actions": {"keep": 70, "soften": 30}, "num_images": 10, "restored_images": 2}
    [warning] = summarise("calibrated/mine", [numbers]).warnings
    assert warning.startswith("mine: 2 of 10 images would lose all their crops")
    assert summarise("calibrated/mine", [numbers | {"restored_images": 1}]).warnings == ()
