"""A small study, end to end: worlds, students, facts, results, page."""

import json
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from experiments import facts, read, report, results, student, students, tables, world
from experiments.study import Study
from stages.shared.contract import Json
from store import images
from store.errors import DataError, RetryError
from store.overlay import Action
from tests.experiments import small_study


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The small study with its worlds and the students of seed 0 made."""
    found = small_study.load(tmp_path_factory.mktemp("study"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world, "_stage", small_study.stage_here)
        small_study.make_worlds(found)
    for place, arm, seed in found.cells():
        if seed == 0:
            student.train(found, place, arm, seed)
    return found


def test_a_finished_student_is_not_trained_again(made: Study) -> None:
    cells = made.cells()
    assert students.unfinished(made, cells) == [cell for cell in cells if cell[2] == 1]
    path = made.student_file("clean", "ms5", 0)
    kept = json.loads(path.read_bytes())
    again = student.train(made, "clean", "ms5", 0)
    del kept["seconds_per_step"], again["seconds_per_step"]
    assert again == kept
    assert [step for step, _ in kept["curve"]] == [2, 3]


def test_a_student_of_other_parameters_is_trained_anew(made: Study, tmp_path: Path) -> None:
    ready = student.prepare(made, "clean", "ms5", 0)
    changed = small_study.load(tmp_path, student={"lr": 0.02})
    changed = changed.model_copy(update={"out": made.out})
    assert student.prepare(changed, "clean", "ms5", 0).key != ready.key
    assert students.unfinished(changed, [("clean", "ms5", 0)])


def test_a_missing_world_is_named(tmp_path: Path) -> None:
    found = small_study.load(tmp_path)
    with pytest.raises(DataError, match="clean/truth"):
        students.unfinished(found, found.cells())
    with pytest.raises(DataError, match="world teacher strong"):
        world.make_world(found, "clean")


def test_label_facts_tell_what_calibration_did(made: Study) -> None:
    plain, revised = (facts.labels(made, "noisy", arm) for arm in ("ms5", "revised"))
    assert "revise" not in plain
    assert 0 < float(revised["revise"]) < 1
    assert float(revised["keep"]) + float(revised["revise"]) == pytest.approx(1)
    truth = facts.labels(made, "clean", "truth")
    assert (truth["entropy"], truth["right"]) == (0, 1)
    # Revision makes every label right by its folder, and 12 of 60 folders are wrong.
    assert revised["right"] == pytest.approx(0.8)
    assert facts.labels(made, "clean", "revised")["right"] == 1


def test_true_classes_undo_the_wrong_folders(made: Study) -> None:
    ready = student.prepare(made, "noisy", "ms5", 0)
    table = images.load(ready.plan.layout)
    wrong = facts.true_classes(ready.world, table) != table.class_ids
    assert wrong.sum() == 12
    clean = student.prepare(made, "clean", "ms5", 0)
    table = images.load(clean.plan.layout)
    np.testing.assert_array_equal(facts.true_classes(clean.world, table), table.class_ids)


def test_suspects_of_all_shards_are_compared_with_the_wrong_folders(made: Study) -> None:
    row = facts.noise(made, "noisy", "suspicious")
    ready = student.prepare(made, "noisy", "suspicious", 0)
    table = images.load(ready.plan.layout)
    wrong = facts.true_classes(ready.world, table) != table.class_ids
    overlays = [pq.read_table(path) for path in _overlays(ready.plan.layout.root)]
    kept = np.concatenate([each["action"].to_numpy() == Action.KEEP for each in overlays])
    # The teacher is hardly trained and says one class of nearly everything: what is not suspected
    # has the folder of that class, or is revised where a crop is wrong.
    suspected = int(row["suspected"])
    assert 30 < suspected <= int(kept.reshape(60, -1).all(1).sum())
    assert row["wrong"] == wrong.sum() == 12
    hits = float(row["precision"]) * suspected
    assert hits == pytest.approx(float(row["recall"]) * 12, abs=0.01)


def _overlays(root: Path) -> list[Path]:
    return sorted((root / "calibrated" / "suspicious").glob("part-*.parquet"))


def test_mixing_moves_labels_and_no_mixing_does_not(made: Study) -> None:
    assert facts.mixing(made, "clean", "ms5")["moved"] == 0
    assert float(facts.mixing(made, "clean", "mixup")["moved"]) > 0


def test_results_are_whole_or_asked_to_be_partial(made: Study) -> None:
    with pytest.raises(DataError, match="9 students are not finished"):
        results.gather(made)
    results.gather(made, partial=True)
    found = read.results(made)
    assert found.arms("noisy") == ["ms5", "revised", "suspicious"]
    kept = json.loads(made.student_file("noisy", "revised", 0).read_bytes())
    assert found.summary("noisy", "revised", "val").mean == pytest.approx(kept["val"], abs=1e-6)
    assert {row["seed"] for row in read.rows(made, "curves")} == {"0"}


def test_the_page_is_filled_and_checked(made: Study, tmp_path: Path) -> None:
    results.gather(made, partial=True)
    page = tmp_path / "study.md"
    names = tables.tables(made, read.results(made))
    page.write_text("".join(f"{n}\n<!-- table:{n} -->\nold\n<!-- end -->\n" for n in names))
    report.write(made, page, tmp_path / "plots")
    text = page.read_text()
    assert "old" not in text
    assert "| Mixup |" in text
    report.write(made, page, tmp_path / "plots", check=True)
    drawn = {path.stem for path in (tmp_path / "plots").iterdir()}
    assert drawn == {"groups", "worlds", "sweeps", "noise"}
    page.write_text(text.replace("| Mixup |", "| Mixdown |"))
    with pytest.raises(DataError, match="has other tables"):
        report.write(made, page, tmp_path / "plots", check=True)


def test_a_failing_student_is_named(made: Study) -> None:
    future: Future[dict[str, Json]] = Future()
    future.set_exception(DataError("x.png: damaged"))
    with pytest.raises(DataError, match=r"clean/ms5, seed 1: x\.png: damaged"):
        students._finished(future, ("clean", "ms5", 1))
    future = Future()
    future.set_exception(BrokenProcessPool())
    with pytest.raises(RetryError, match="it goes on"):
        students._finished(future, ("clean", "ms5", 1))
