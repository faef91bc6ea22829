import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from importlinter import cli as import_linter

from ferkd_pipeline import stage_table

REPOSITORY = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def test_imports_keep_to_the_layers() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as m; m()"],
        cwd=REPOSITORY,
        env={"PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == import_linter.EXIT_STATUS_SUCCESS, done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["independence", "forbidden"])
def test_the_contracts_name_every_stage(kind: str) -> None:
    modules = {info.module for info in stage_table.STAGES}
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    named = [
        set(contract.get("modules", contract.get("forbidden_modules")))
        for contract in contracts
        if contract["type"] == kind
    ]
    assert modules in named


def test_every_stage_package_is_in_the_table() -> None:
    packages = {path.parent.name for path in (REPOSITORY / "stages").glob("*/run.py")}
    assert packages == set(stage_table.STAGE_NAMES)


def test_the_three_rooms_are_packaged() -> None:
    rooms = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert rooms == ["ferkd_pipeline", "stages", "store"]
    for room in rooms:
        assert (REPOSITORY / room / "py.typed").exists()
        assert (REPOSITORY / room / "__init__.py").exists()


def test_the_constraints_name_versions_and_nothing_else() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    for line in lines:
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            assert name and version and "+" not in version and "/" not in line
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    project = PROJECT["project"]
    for requirement in [
        *project["dependencies"],
        *project["optional-dependencies"]["dvc"],
        *project["optional-dependencies"]["dev"],
    ]:
        name = requirement.split(">=")[0].lower().replace("_", "-")
        assert name in pinned, name
