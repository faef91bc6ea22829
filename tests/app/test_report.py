import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from ferkd_pipeline import cli, report
from ferkd_pipeline.report import labels, page
from ferkd_pipeline.report.tables import tables
from store.errors import DataError
from tests.app import report_world

NETWORK = "{model: {name: resnet18}, steps: 1, lr: 0.1, crops_per_image: 1}"
SECTIONS = f"""
store: {{root: labels, num_shards: 1}}
teacher: {NETWORK}
train: {NETWORK}
linear: {{steps: 1, lr: 0.1, crops_per_image: 1}}
calibrate: {{ferkd: [{{step: ferkd}}]}}
evaluate: {{sets: {{test: images}}}}
compare: {{val: images}}
"""


@pytest.fixture
def world(project: Path) -> Path:
    (project / "params.yaml").write_text(SECTIONS)
    report_world.write_metrics(project / "metrics")
    report_world.write_store(project / "labels")
    return project


def test_it_prints_and_writes_a_page(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report"]) == 0
    shown = capsys.readouterr().out
    for text in ("ground truth", "66.8 ± 1.1", "+5.9 ± 1.6", "50.2", "1.40", "abc123", "drop"):
        assert text in shown
    assert (world / "metrics/report/report.html").exists()
    summary = json.loads((world / "metrics/report/summary.json").read_text())
    assert summary == {
        "student.test": 0.67,
        "teacher": 0.79,
        "from truth.test": 0.609,
        "from store.test": 0.668,
        "from ferkd.test": 0.648,
        "step time, store / truth": 1.004,
    }


def test_quiet_and_no_page(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "--no-page"]) == 0
    assert capsys.readouterr().out
    assert not (world / "metrics/report").exists()
    assert cli.main(["report", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_the_page_holds_everything_inside(world: Path) -> None:
    text = page.page(report.gather(Path("metrics"), Path("labels")))
    assert "<script" not in text
    assert not re.search(r"(?:src|href)=\"(?!#)", text)
    assert not re.search(r"url\((?!#)", text)
    drawn = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(drawn) == 2
    for svg in drawn:
        ET.fromstring(svg)
        assert "currentColor" in svg
    assert "66.8 ± 1.1" in text


def test_the_same_results_make_the_same_bytes(world: Path) -> None:
    results = report.gather(Path("metrics"), Path("labels"))
    assert page.page(results) == page.page(results)


def test_the_histogram_counts_edges_upwards(tmp_path: Path) -> None:
    edges = np.array([0, 0.05, 0.3, 0.95, 1], np.float32)
    report_world.write_part(tmp_path / "soft/part-00000.parquet", {"prob_0": edges})
    report_world.write_entry(tmp_path, "soft", {})
    counts = labels.max_prob_histogram(tmp_path)
    assert np.flatnonzero(counts).tolist() == [0, 1, 6, 19]
    assert counts[19] == 2


def test_the_histogram_leaves_rejected_crops_out(world: Path) -> None:
    assert labels.max_prob_histogram(Path("labels")).sum() == 99
    rows = page.histogram_csv(report.gather(Path("metrics"), Path("labels"))).splitlines()
    assert rows[0] == "max_prob,share,crops"
    assert rows[1].startswith("0.00 to 0.05,")
    assert len(rows) == 1 + labels.NUM_BINS


def test_actions_are_counted(world: Path) -> None:
    assert labels.actions(Path("labels"), "calibrated/ferkd") == {
        "keep": 90,
        "drop": 3,
        "soften": 6,
        "reject": 1,
    }


def test_nothing_has_run(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report"]) == 0
    assert "Nothing to report" in capsys.readouterr().out
    assert "No stage has run yet" in (project / "metrics/report/report.html").read_text()


def test_without_a_comparison(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (world / "metrics/compare").iterdir():
        path.unlink()
    assert cli.main(["report"]) == 0
    shown = capsys.readouterr().out
    assert "Students" not in shown
    assert "student on test" in shown


def test_a_linear_classifier_has_its_row(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = {"steps": 90, "num_parameters": 1, "top1": 0.421, "top5": 0.8, "num_images": 500}
    folder = world / "metrics/linear"
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(trained))
    assert cli.main(["report"]) == 0
    shown = capsys.readouterr().out
    assert "classifier on its features" in shown
    assert "42.1" in shown
    assert json.loads(Path("metrics/report/summary.json").read_text())["linear"] == 0.421


def test_what_an_earlier_project_left_is_not_told(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (world / "params.yaml").write_text(f"store: {{root: labels}}\ntrain: {NETWORK}\n")
    assert cli.main(["report"]) == 0
    shown = capsys.readouterr().out
    for text in ("student on test", "teacher, at the end", "ferkd", "Time per step"):
        assert text not in shown
    assert "student, at the end" in shown


def test_sets_of_several_labels_have_no_top5(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = {
        "val": {"top1": 0.67, "top5": 0.97, "num_images": 50000},
        "real": {"top1": 0.812, "num_images": 46837},
    }
    (world / "metrics/evaluate/summary.json").write_text(json.dumps(sets))
    results = report.gather(Path("metrics"), Path("labels"))
    assert (results.summary()["student.val"], results.summary()["student.real"]) == (0.67, 0.812)
    table = next(table for table in tables(results) if table.title == "Accuracy")
    assert table.rows[-2:] == (
        ("student on val", "", "", "50,000", "67.0", "97.0"),
        ("student on real", "", "", "46,837", "81.2", "-"),
    )
    assert any(note.startswith("Images of real have several labels") for note in table.notes)
    assert cli.main(["report"]) == 0
    assert "Images of real have several labels" in capsys.readouterr().out
    assert "Images of real have" in (world / "metrics/report/report.html").read_text()


@pytest.mark.parametrize("damage", ["{", '{"student": "x"}'])
def test_a_damaged_file_is_named(world: Path, damage: str) -> None:
    (world / "metrics/compare/compare.json").write_text(damage)
    with pytest.raises(DataError, match=r"compare\.json: .*run its stage again"):
        report.gather(Path("metrics"), Path("labels"))


def test_a_damaged_table_is_named(world: Path) -> None:
    (world / "labels/soft/part-00000.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"part-00000\.parquet has 7 bytes instead of"):
        report.gather(Path("metrics"), Path("labels"))
