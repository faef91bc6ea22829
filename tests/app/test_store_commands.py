"""The commands of `store` on a small real store: what they print, their JSON, their exit codes."""

import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from ferkd_pipeline.commands.store import store
from store import entries, shelf, tables
from store.layout import Layout
from tests.app.store_commands import run, run_json
from tests.store.small_store import NAME, NUM_CROPS, NUM_IMAGES, rewrite_table

COMMANDS = ("info", "verify", "stats", "diff", "export", "gc")


def test_the_options_are_frozen() -> None:
    found = {
        name: sorted(option for each in command.params for option in each.opts)
        for name, command in store.commands.items()
    }
    shared = {"--json", "--params"}
    options = {
        "info": {"--root"},
        "verify": {"--root", "--deep"},
        "stats": {"--root", "--calibration", "--per-class"},
        "diff": {"a", "b", "--rev", "--rows", "--exit-code"},
        "export": {
            *("out", "--root", "--shard", "--image-id", "--class", "--path", "--action", "--limit"),
            *("--max-prob", "--calibration", "--columns", "--artifact", "--force"),
        },
        "gc": {"--root", "--kind", "--dry-run", "--force", "--shared-cache"},
    }
    assert found == {name: sorted(names | shared) for name, names in options.items()}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_it_does(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: ferkd-pipeline store {name}")
    assert max(map(len, shown.splitlines())) <= 80
    assert isinstance(store.commands[name], click.Command)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from ferkd_pipeline.cli import main;"
        f"[main(['store', name, '--help']) for name in {COMMANDS}];"
        "heavy = {'torch', 'pyarrow', 'pydantic', 'numpy', 'rich', 'yaml', 'zarr', 'dvc'};"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "[]\n"
    assert time.perf_counter() - begun < 1.5  # 0.1 s where nothing else runs


@pytest.mark.parametrize("name", ["info", "verify", "stats", "gc"])
def test_without_a_store(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--root", str(tmp_path / "none")) == 3
    assert "there is no label store" in capsys.readouterr().err


def test_info_says_where_everything_came_from(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("info") == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert lines[0] == "labels: label store, format version 1"
    assert "teacher       resnet18, weights SHA-256 000000000000.., on cpu" in lines
    assert "labels        marginal_smoothing, K = 2 of 5 classes, float16" in lines
    row = next(line for line in lines if line.startswith("soft"))
    assert row.split()[1:3] == ["2", "32"] and row.endswith("compress, revision 1        yes")
    assert "predictions       teacher.name resnet18" in lines
    assert max(map(len, lines)) <= 100
    found = run_json(capsys, "info")
    assert found["artifacts"]["predictions"]["inputs"] == {"device": "cpu", "teacher": "0" * 32}
    kept = {"num_parts", "rows", "num_bytes", "stage", "revision", "params", "is_one_run"}
    assert kept | {"is_recorded", "numbers", "software"} <= set(found["artifacts"]["soft"])


def test_stats_prints_every_table(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("stats", "--calibration", NAME) == 0
    captured = capsys.readouterr()
    for title in (
        "How sure the teacher is (FerKD, Table 1)",
        "The teacher on these crops, all and by FerKD's groups",
        "Bytes by label kind in the reference's layout (FKD, Table 2)",
        "Bytes of this store, measured",
        f"What calibration {NAME} does",
        "All 5 classes",
    ):
        assert title in captured.out
    assert f"{NUM_CROPS} rejected crops are left out" in captured.out
    assert captured.err.startswith(f"stats: {NUM_IMAGES * NUM_CROPS} crops in ")
    assert max(map(len, captured.out.splitlines())) <= 85
    found = run_json(capsys, "stats", "--calibration", NAME)
    assert found["num_crops"] == NUM_IMAGES * NUM_CROPS and len(found["classes"]) == 5
    assert found["calibrations"][NAME][0]["action"] == "keep"
    assert found["reference_bytes_per_crop"] == 36


def test_stats_of_an_unknown_calibration(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("stats", "--calibration", "none") == 2
    assert "--calibration none: " in capsys.readouterr().err


def test_verify_sees_values_only_when_deep(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = Layout.beside(Path("labels"))
    table = tables.read_table(layout.table("soft", "part-00001"))
    values = tables.column(table, "prob_0").copy()
    values[0] = 0
    columns = {**tables.columns(table), "prob_0": values}
    rewrite_table(layout, "soft", "part-00001", tables.make_table(table.schema, columns))
    entries.write_manifest(layout, "soft")
    assert run("verify") == 0
    assert "all as recorded" in capsys.readouterr().out
    assert run("verify", "--deep") == 3
    shown = capsys.readouterr().out
    assert "labels/soft/part-00001.parquet: it has probabilities that rise" in shown


def test_gc_lists_and_only_deletes_when_forced(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = Layout.beside(Path("labels"))
    assert run("gc") == 0
    assert capsys.readouterr().out == "Nothing to delete.\n"
    assert shelf.set_aside(layout, "predictions", "part-00000", "infer")
    aside = next((layout.work / "work" / "infer").iterdir())
    for words in (("gc",), ("gc", "--dry-run")):
        assert run(*words) == 0
        shown = capsys.readouterr().out
        assert "Can be deleted" in shown and f"{str(aside)[:-52]}.." in shown
        assert "the teacher runs again if parameters or images go back" in shown
        assert "1 thing, " in shown and "--force deletes" in shown
    assert run("gc", "--force", "--dry-run") == 2
    assert run_json(capsys, "gc", "--kind", "view", "--force")["deleted"] == []
    assert aside.exists()
    assert run("gc", "--force") == 0
    assert "Deleted 1 thing, " in capsys.readouterr().out
    assert not aside.exists()
    assert run_json(capsys, "gc")["items"] == []
