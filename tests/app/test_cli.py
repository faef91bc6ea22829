import os
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from ferkd_pipeline import cli, siblings
from ferkd_pipeline.commands.root import root
from store.errors import DataError

REPOSITORY = Path(__file__).resolve().parents[2]


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def callback() -> None:
        raise error

    monkeypatch.setitem(root.commands, "fail", click.Command("fail", callback=callback))


def test_the_command_line_is_frozen() -> None:
    def options(command: click.Command) -> list[str]:
        return sorted(name for parameter in command.params for name in parameter.opts)

    assert {name: options(command) for name, command in root.commands.items()} == {
        "bench": [],
        "calibrate": [],
        "export": ["--backbone", "--force", "--json", "--model", "--params", "--to", "file"],
        "init": ["--force", "--images", "--list", "--recipe", "--update", "--val", "folder"],
        "params": ["--json", "section"],
        "plan": ["--gpus", "--json", "--no-train", "--params", "--seconds"],
        "record": ["--json", "--params", "name"],
        "report": ["--metrics", "--no-page", "--out", "--params", "--quiet"],
        "stage": [
            *("--dry-run", "--executor", "--force", "--json", "--params"),
            *("--ray-address", "--ray-cpus", "--shard", "name"),
        ],
        "store": [],
        "teacher": [],
        "trace": ["--json", "--params", "--root", "path"],
    }
    store = root.commands["store"]
    assert isinstance(store, click.Group)  # its commands: tests/app/test_store_commands.py
    assert list(store.commands) == ["info", "verify", "stats", "diff", "export", "gc"]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["stage"],
        ["record"],
        ["init"],
        ["report"],
        ["store"],
        ["teacher"],
        ["bench"],
        ["plan"],
        ["calibrate"],
        ["export"],
        ["trace"],
    ],
)
def test_help_teaches(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*words, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Example" in shown or "Begin with" in shown
    assert "ferkd-pipeline" in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == "ferkd-pipeline, version 0.1.0\n"


def test_an_error_is_one_line_and_its_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(DataError("labels/soft: damaged"), monkeypatch)
    assert cli.main(["fail"]) == 3
    captured = capsys.readouterr()
    assert captured.err == "Error: labels/soft: damaged\n"
    assert captured.out == ""


@pytest.mark.parametrize("arguments", [["--debug", "fail"], ["fail", "--debug"]])
def test_debug_shows_the_traceback(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(DataError("labels/soft: damaged"), monkeypatch)
    assert cli.main(arguments) == 3
    assert "Traceback" in capsys.readouterr().err


def test_the_unexpected_says_how_to_see_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(ValueError("odd"), monkeypatch)
    assert cli.main(["fail"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "Error: ValueError: odd",
        "Unexpected; run the same command with --debug to see where.",
    ]


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(KeyboardInterrupt(), monkeypatch)
    assert cli.main(["fail"]) == 130
    assert "Error: interrupted;" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["stag"], "No such command 'stag'"),
        (["stage", "inferr"], "'inferr' is not one of"),
        (["stage", "infer", "--shards", "3"], "No such option"),
        (["init", "x"], "Missing option '--recipe'"),
        (["stage", "infer", "--params", "absent.yaml"], "absent.yaml: no such file"),
    ],
)
def test_wrong_usage_is_2(
    arguments: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    assert complaint in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from ferkd_pipeline.cli import main; main(['stage', '--help']);"
        "heavy = {'torch', 'pyarrow', 'pydantic', 'numpy', 'rich', 'yaml', 'zarr', 'pandas'};"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    elapsed = time.perf_counter() - begun
    assert done.stderr == "[]\n"
    assert elapsed < 1.5  # 0.1 s where nothing else runs; the import list is the sharp test


def test_importing_the_command_line_and_the_store_loads_neither_torch_nor_pyarrow() -> None:
    code = (
        "import sys, store, stages, ferkd_pipeline.cli, ferkd_pipeline.funnel;"
        "print(sorted({'torch', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_python_m_is_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ferkd_pipeline", "--version"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ferkd-pipeline, version" in done.stdout


def test_shell_completion_knows_the_stages() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ferkd_pipeline"],
        cwd=REPOSITORY,
        env={
            "_FERKD_PIPELINE_COMPLETE": "bash_complete",
            "COMP_WORDS": "ferkd-pipeline stage in",
            "COMP_CWORD": "2",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["plain,index", "plain,infer"]


def test_our_siblings_are_ours() -> None:
    assert siblings.complaint() is None


def test_another_package_of_the_same_name_is_told(tmp_path: Path) -> None:
    other = tmp_path / "store"
    other.mkdir()
    (other / "__init__.py").write_text("raise RuntimeError('someone else')\n")
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}];"
        "from ferkd_pipeline.cli import main; sys.exit(main(['--help']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: Python finds another package called `store`")
    assert "an environment of its own" in done.stderr
    assert done.stderr.count("\n") == 1


def test_waiting_threads_spin_briefly_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert cli.main(["--version"]) == 0
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    assert cli.main(["--version"]) == 0
    assert os.environ["GOMP_SPINCOUNT"] == "10000"


@pytest.mark.parametrize(
    "words", [["calibrate", "preview"], ["teacher", "check"], ["plan"], ["bench", "infer"]]
)
def test_help_is_quick_and_narrow(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*words, "--help"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
    code = (
        f"import sys; from ferkd_pipeline.cli import main; main({[*words, '--help']!r});"
        "heavy = {'torch', 'pyarrow', 'pydantic', 'numpy', 'rich', 'yaml', 'timm', 'matplotlib'};"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "[]\n"
