"""Tables and plots from made-up results: differences seed by seed, and the page's places."""

from pathlib import Path

import pytest

from experiments import plots, read, report, results, tables
from experiments.facts import Row
from experiments.study import Study
from store.errors import DataError
from tests.experiments import small_study

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def found(tmp_path: Path) -> Study:
    """The small study with students of known accuracy."""
    found = small_study.load(tmp_path)
    top1 = {"ms5": (0.5, 0.6), "revised": (0.53, 0.61), "truth": (0.4, 0.3)}
    rows: list[Row] = [
        {"world": "clean", "arm": arm, "seed": seed, "val": value, "test": value + 0.1}
        for arm, values in top1.items()
        for seed, value in enumerate(values)
    ]
    results.write(found, "students", rows)
    return found


def test_differences_are_taken_seed_by_seed(found: Study) -> None:
    change = read.results(found).difference("clean", "revised", "val")
    assert change is not None
    assert change.mean == pytest.approx(0.02)
    assert change.standard_error == pytest.approx(0.01)
    assert read.differing(change) == "+2.0 ± 1.0"
    assert read.results(found).difference("clean", "ms5", "val") is None


def test_a_seed_that_only_one_arm_has_is_in_no_difference(found: Study) -> None:
    rows = [
        row for row in read.rows(found, "students") if (row["arm"], row["seed"]) != ("ms5", "1")
    ]
    results.write(found, "students", [dict(row) for row in rows])
    change = read.results(found).difference("clean", "revised", "val")
    assert change is not None
    assert change.values == pytest.approx((0.03,))
    assert read.differing(change) == "+3.0"


def test_places_are_filled_and_wrong_ones_named() -> None:
    page = "a\n<!-- table:one -->\nold\n<!-- end -->\nb\n"
    filled = report.fill(page, {"one": "| x |"})
    assert filled == "a\n<!-- table:one -->\n\n| x |\n\n<!-- end -->\nb\n"
    assert report.fill(filled, {"one": "| x |"}) == filled
    with pytest.raises(DataError, match="no `<!-- table:two -->`"):
        report.fill(page, {"one": "", "two": ""})
    with pytest.raises(DataError, match="place for the table one, allowed: two"):
        report.fill(page + "<!-- table:two -->\n<!-- end -->\n", {"two": ""})


def test_plots_are_the_same_for_the_same_results(found: Study) -> None:
    once, again = (plots.plots(read.results(found)) for _ in range(2))
    assert once == again
    assert all(drawn.startswith(b"<?xml") for drawn in once.values())


def test_results_of_an_arm_that_is_gone_are_refused(found: Study) -> None:
    results.write(found, "students", [{"world": "noisy", "arm": "truth", "seed": 0}])
    with pytest.raises(DataError, match="noisy/truth, which the study does not"):
        read.results(found)


def test_the_studys_page_has_the_tables_of_its_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    from experiments import study

    whole = study.load()
    report.write(whole, report.PAGE, report.PLOTS, check=True)


def test_a_table_is_markdown() -> None:
    assert tables.markdown(("a", "b"), [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"
