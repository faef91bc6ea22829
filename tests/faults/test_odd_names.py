"""Names that would break a line, colour a terminal or cannot be encoded: shown as escapes."""

import ast
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ferkd_pipeline import cli, exit_codes
from ferkd_pipeline.progress import LineProgress, TerminalProgress
from store import tables
from store.errors import DataError, FerkdError, ParamsError
from tests.world import NETWORK, PARAMS, Project, merged, write_images, write_teacher

NAMES = ("ant", "b\x1b[31m\ne e", "c[red]at", "d\u202eog")
"""Of classes: colours for a terminal, a line break, markup of the library that draws tables, and
the mark that turns the rest of a line around."""
ROOT = "lab[red]\u202eels"
SET = "v[red]\u202eal"
CHANGES: dict[str, Any] = {
    "store": {"root": ROOT, "num_shards": 2},
    "index": {"images": "pictures"},
    "calibrate": {"shares": None},
    "train": {
        "model": {**NETWORK, "input_size": 16},
        "evaluation": "val",
        "calibration": "ferkd",
        "crops_per_image": 2,
        "batch_size": 4,
        "steps": 1,
        "lr": 0.01,
        "device": "cpu",
    },
    "evaluate": {"sets": {SET: "val"}, "device": "cpu"},
}
COMMANDS: tuple[tuple[str, ...], ...] = (
    *(("stage", each) for each in ("index", "sample", "infer", "compress", "calibrate")),
    ("stage", "train"),
    ("stage", "evaluate"),
    ("stage", "infer", "--dry-run"),
    ("record", "infer"),
    ("store", "info"),
    ("store", "verify"),
    ("store", "stats", "--per-class", "--calibration", "ferkd"),
    ("store", "gc"),
    ("store", "diff", ROOT, "other"),
    ("store", "export", "all.csv"),
    ("trace", f"{ROOT}/soft"),
    ("trace", "models/student"),
    ("trace", "metrics/train"),
    ("calibrate", "preview"),
    ("report", "--out", "report.html"),
    ("export", "student.safetensors"),
)

Told = Callable[..., str]


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str]) -> Told:
    """Runs a command; returns what it said, every line of which can be printed."""

    def run(*arguments: str, code: int = 0) -> str:
        capfd.readouterr()
        assert cli.main([*arguments]) == code, (arguments, capfd.readouterr().err)
        said = capfd.readouterr()
        both = said.out + said.err
        assert [line for line in both.split("\n") if not line.isprintable()] == [], arguments
        return both

    return run


def test_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Told) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(Path("pictures"), NAMES, num=2)
    write_images(Path("val"), NAMES, num=1, seed=2)
    Path("pictures/ant/zero\n\x1b[31m.jpg").write_bytes(b"")
    Path(os.fsdecode(b"pictures/ant/no\xff.jpg")).write_bytes(b"")
    write_teacher(Path("models/teacher"), names=NAMES)
    Path("params.yaml").write_text(json.dumps(merged(PARAMS, CHANGES)))
    said = {}
    for command in COMMANDS:
        if "other" in command:
            shutil.copytree(ROOT, "other")
        said[command] = told(*command)
    assert r"lab[red]\u202eels: label store" in said["store", "info"]
    stats = said["store", "stats", "--per-class", "--calibration", "ferkd"]
    for shown in ("c[red]at", r"d\u202eog", r"b\x1b[31m\ne e"):
        assert stats.count(shown) == 2, shown  # of two tables
    assert rf"student on {SET}".encode("ascii", "backslashreplace").decode() in said[COMMANDS[-2]]
    next(Path(ROOT).glob("soft/part-00000.parquet")).unlink()
    assert r"lab[red]\u202eels/soft/part-00000.parquet: is missing" in told(
        "store", "verify", code=3
    )
    assert "\x1b" not in Path("report.html").read_text()


def test_a_name_that_is_not_utf_8(own: Project, told: Told) -> None:
    """Refused as that, and not as a damaged store that should be deleted."""
    own.write_params()
    root = os.fsdecode(b"lab\xffels")
    Path("labels").rename(root)
    for command in ("info", "stats", "verify", "gc"):
        assert r"'lab\udcffels' is not UTF-8" in told("store", command, "--root", root, code=2)
    with pytest.raises(FerkdError, match=r"lab\\udcffels.* is not UTF-8") as caught:
        tables.read_table(Path(root, "soft/part-00001.parquet"))
    assert not isinstance(caught.value, DataError)


def test_letters_that_stdout_cannot_show(own: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of another encoding: an escape stands for a letter, also in JSON."""
    Path("labels").rename("läbels☃")
    for more in ((), ("--json",)):
        stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
        monkeypatch.setattr(sys, "stdout", stream)
        assert cli.main(["store", "info", "--root", "läbels☃", *more]) == 0
        stream.flush()
        said = stream.buffer.getvalue().decode("latin-1")
        assert r"\u2603" in said
        assert not more or json.loads(said)["root"] == "läbels☃"


LINE = "a\nb\x1b[2Jc\udcff\r[red]"
SHOWN = r"a\nb\x1b[2Jc\udcff\r[red]"


def test_notes_and_labels_of_progress() -> None:
    plain = io.StringIO()
    lines = LineProgress(plain)
    lines.note(LINE)
    lines.start(LINE, 1, "images")
    lines.close()
    assert plain.getvalue().split("\n")[0] == SHOWN
    assert plain.getvalue().split("\n")[1].startswith(f"{SHOWN}: 0 of 1 images")
    drawn = io.StringIO()
    with TerminalProgress(Console(file=drawn, force_terminal=True, width=200)) as terminal:
        terminal.note(LINE)
        terminal.start(LINE, 1, "images")
    assert drawn.getvalue().count(SHOWN) >= 2
    assert "\x1b[2J" not in drawn.getvalue()


@pytest.mark.parametrize(
    "error", [DataError(LINE), OSError(28, "no space", LINE), KeyError(LINE), ValueError(LINE)]
)
def test_errors(error: Exception) -> None:
    message = exit_codes.message(error)
    assert message.isprintable()
    assert message.isascii()


def test_problems_of_parameters_are_a_line_each() -> None:
    first, second = exit_codes.message(ParamsError("a\x1b[2J\nb")).split("\n")
    assert (first, second) == (r"a\x1b[2J", "b")


PRINTING = {"click.echo", "print", "sys.stdout.write", "sys.stderr.write"}
ALLOWED = {
    "plain.py": "the place",
    "funnel.py": "errors, which are escaped before",
    "cli.py": "nothing else can be imported yet",
    "progress.py": "escapes by itself: it writes to a stream of its own",
    "commands/options.py": "JSON",
    "commands/params.py": "texts of ours, in bold",
    "commands/init.py": "texts of ours",
    "commands/store/shared.py": "broken into lines after it was escaped",
}


def test_lines_for_people_are_printed_in_one_place() -> None:
    """Whoever prints otherwise has to escape by himself: say so here, or use `plain.say`."""
    top = Path(cli.__file__).parent
    found = set()
    for path in top.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and node.args):
                continue  # an empty line
            if ast.unparse(node.func) in PRINTING:
                found.add(path.relative_to(top).as_posix())
    assert found == set(ALLOWED)
