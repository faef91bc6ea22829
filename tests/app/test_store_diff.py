"""`store diff`: two stores on disk, and a store against what DVC recorded."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from store import entries
from store.layout import Layout
from tests.app.store_commands import run, run_json
from tests.store.small_store import NAME, build


def test_diff_of_two_stores(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("diff", "labels", "labels", "--exit-code") == 0
    assert capsys.readouterr().out == "A: labels\nB: labels\nThe same.\n"
    other = str(build(tmp_path / "other" / "labels", seed=1).root)
    assert run("diff", "labels", other, "--rows") == 0
    shown = capsys.readouterr().out
    assert "soft               differs" in shown
    assert "input predictions: " in shown and "(part by part, 2 of 2)" in shown
    assert "Crops: 32; " in shown and "Labels: 32; 28 differ" in shown
    assert f"Actions of calibration {NAME}" in shown and "drop -> drop" in shown
    assert run("diff", "labels", other, "--exit-code") == 1
    found = run_json(capsys, "diff", "labels", other, "--rows")
    assert found["is_same"] is False
    assert found["rows"]["labels"]["num_crops"] == 32
    assert {each["artifact"]: each["state"] for each in found["artifacts"]}["images"] == "same"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "name two stores, A and B, or a revision"),
        (("labels",), 2, "name two stores"),
        (("labels", "nowhere"), 3, "nowhere: there is no label store"),
        (("labels", "labels", "--rev", "HEAD"), 2, "leave B out"),
        (("--rev", "a", "--rev", "b", "--rev", "c"), 2, "--rev: given 3 times"),
        (("--rev", "HEAD", "--rows"), 2, "--rows: reads rows, so both stores must be on disk"),
        (("--rev", "HEAD"), 2, "--rev: labels lies in no DVC repository"),
    ],
)
def test_diff_refuses(
    words: tuple[str, ...], code: int, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("diff", *words) == code
    assert message in capsys.readouterr().err


def test_diff_without_dvc(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "dvc.api", None)
    assert run("diff", "--rev", "HEAD") == 2
    assert "--rev: needs DVC, which is not installed" in capsys.readouterr().err


def test_diff_against_a_revision(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(here, "one")
    layout = Layout.beside(Path("labels"))
    entries.withdraw(layout, "soft", "part-00001")
    entries.write_manifest(layout, "soft")
    shutil.rmtree(layout.folder(f"calibrated/{NAME}"))
    found = run_json(capsys, "diff", "--rev", "HEAD")
    assert (found["a"], found["b"]) == ("labels at HEAD", "labels")
    states = {each["artifact"]: each["state"] for each in found["artifacts"]}
    assert states["crops"] == "same" and states["soft"] == "differs"
    assert states[f"calibrated/{NAME}"] == "only in A"
    record(here, "two")
    assert run_json(capsys, "diff", "--rev", "HEAD", "--rev", "HEAD")["is_same"] is True
    assert run("diff", "--rev", "HEAD~1", "--rev", "HEAD", "--exit-code") == 1
    assert run("diff", "--rev", "no-such-revision") == 2
    assert "--rev no-such-revision: unknown Git revision" in capsys.readouterr().err
    shutil.rmtree(".dvc/cache")
    assert run("diff", "--rev", "HEAD~1") == 3
    assert "is not in DVC's cache" in capsys.readouterr().err


def record(folder: Path, message: str) -> None:
    """Commit the store with DVC and git, in a repository of its own."""
    settings = {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_CONFIG_GLOBAL": os.devnull}
    settings |= {"GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t", "DVC_NO_ANALYTICS": "1"}
    settings |= {"DVC_SITE_CACHE_DIR": str(folder.parent / "site")}
    dvc = [sys.executable, "-m", "dvc"]
    begin = [["git", "init", "-q"], [*dvc, "init", "-q"]] if not (folder / ".dvc").exists() else []
    for command in (
        *begin,
        [*dvc, "add", "-q", "labels"],
        ["git", "add", "-A"],
        ["git", "commit", "-q", "-m", message],
    ):
        subprocess.run(command, cwd=folder, env={**os.environ, **settings}, check=True)
