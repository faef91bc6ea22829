"""`store export`: what it writes, prints and refuses."""

from pathlib import Path

import pandas as pd
import pytest

from tests.app.store_commands import run, run_json


def test_export_writes_a_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("export", "x.csv", "--class", "klasse 1", "--columns", "path,prob_0", "--limit", "3")
    assert run(*words) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("x.csv: 3 rows, ")
    assert list(pd.read_csv("x.csv").columns) == ["path", "prob_0"]
    assert run(*words) == 2
    assert "x.csv exists; --force replaces it" in capsys.readouterr().err
    found = run_json(capsys, *words, "--force")
    assert found == {"file": "x.csv", "rows": 3, "num_bytes": Path("x.csv").stat().st_size}


def test_export_to_stdout(here: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run("export", "-", "--artifact", "images", "--columns", "path", "--image-id", "0") == 0
    captured = capfdbinary.readouterr()
    assert captured.out.splitlines()[0] == b'"path"' and len(captured.out.splitlines()) == 2
    assert b"1 row\n" in captured.err
    assert run("export", "-", "--json") == 2


def test_export_of_an_incomplete_store(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("labels/soft/_part-00000.json").unlink()
    for words in (("export", "x.csv", "--shard", "1"), ("stats",), ("diff", "labels", "labels")):
        is_diff = words[0] == "diff"
        assert run(*words) == (0 if is_diff else 3)
        captured = capsys.readouterr()
        shown = captured.out if is_diff else captured.err
        assert "shard 0 of 2 is missing" in shown and "stage compress --shard 0`" in shown
    assert run("diff", "labels", "labels", "--rows") == 3
    assert not Path("x.csv").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("x.csv", "--action", "dropp"), "--action dropp: must be one of keep, drop"),
        (("x.txt",), "must end with .csv"),
        (("labels/x.csv",), "lies inside the store"),
        (("x.csv", "--class", "9"), "--class 9: no class of that name"),
        (("x.csv", "--max-prob", "2"), "--max-prob 2: must be LOW:HIGH"),
        (("x.csv", "--image-id", "99"), "--image-id 99: must be 0 to 7"),
        (("x.csv", "--columns", "x"), "--columns x: the store"),
        (("x.csv", "--columns", " , "), "--columns ' , ': names no column"),
        (("x.csv", "--columns", ""), "--columns '': names no column"),
        (
            ("x.csv", "--artifact", "calibrated/mixed", "--calibration", "other"),
            "--calibration other: artifact calibrated/mixed is another one",
        ),
    ],
)
def test_export_refuses(
    words: tuple[str, ...], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("export", *words) == 2
    assert message in capsys.readouterr().err
    assert not list(here.rglob("x.*"))
