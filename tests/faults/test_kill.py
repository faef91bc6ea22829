"""Killed at any moment and run again, every command makes byte for byte what it makes unharmed."""

import contextlib
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import stages.train.run  # noqa: F401  before children are forked: it takes seconds
from ferkd_pipeline import scaffold
from stages.shared.contract import NoProgress
from store.check.verify import verify
from tests.children import end_of, kill_after, start_child
from tests.faults.commands import CASES, PARAMS, Case, load_code, make_all
from tests.faults.soak import rounds
from tests.world import SHARDED, Project, Tree, copy_project, merged

IS_LONG = rounds(1) > 1
CHOSEN = [case for case in CASES if IS_LONG or not case.is_variant]
_NEAR_THE_END = 20
"""Changes of files at the end of a run: there it publishes."""


@pytest.fixture(scope="module")
def whole(made: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The tiny project with all that the cases need. Nobody changes it."""
    load_code()
    project = copy_project(made, tmp_path_factory.mktemp("whole"))
    with contextlib.chdir(project.folder):
        make_all(project)
    yield project


@pytest.fixture
def mine(whole: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of it, as the current folder; DVC, which takes seconds, is not set up by init."""
    monkeypatch.setattr(scaffold, "set_up_dvc", lambda _: [])
    copied = copy_project(whole, tmp_path / "mine")
    monkeypatch.chdir(copied.folder)
    return copied


@pytest.mark.parametrize("case", CHOSEN, ids=[case.name for case in CHOSEN])
def test_killed_and_run_again(mine: Project, case: Case) -> None:
    """Twice a round: before a change of files, and the run after that at any time.

    Where time is short, only one of the two.
    """
    mine.write_params(**merged(PARAMS, case.changes))
    case.forget()
    begun = time.monotonic()
    assert end_of(start_child(*case.command, die_at=0)) == 0
    seconds = time.monotonic() - begun
    num_changes = int(Path("steps").read_text())
    expected = case.made(mine)
    num_killed = 0
    for number in range(rounds(1)):
        case.forget()
        moments = random.Random(f"{case.name} {number}")
        first = max(1, num_changes - _NEAR_THE_END) if moments.random() < 0.5 else 1
        change, after = moments.randint(first, num_changes), moments.uniform(0, 0.8) * seconds
        told = f"round {number}: killed before change {change} of {num_changes}, then at {after} s"
        codes = list[int]()
        if IS_LONG or CASES.index(case) % 2:
            codes.append(end_of(start_child(*case.command, die_at=change)))
            _check_whole(case.made(mine), expected, case, told)
        if IS_LONG or not CASES.index(case) % 2:
            codes.append(kill_after(start_child(*case.command), after))
            _check_whole(case.made(mine), expected, case, told)
        assert set(codes) <= {0, -signal.SIGKILL}, told
        num_killed += codes.count(-signal.SIGKILL)
        if codes[-1] or not number % 2:  # what is complete is found so
            assert end_of(start_child(*case.command)) == 0, told
        assert case.made(mine) == expected, told
        tops = map(Path, ("labels", "models", "metrics"))
        assert not [path for top in tops for path in top.rglob("*.tmp")], told
    assert num_killed or not IS_LONG
    print(f"{case.name}: killed {num_killed} times, {num_changes} changes of files")
    damages = verify(Path("labels"), NoProgress()).damages
    assert not [found for found in damages if found.file.startswith(case.makes)]


def _check_whole(found: Tree, expected: Tree, case: Case, told: str) -> None:
    """What has its final name is whole: files, and folders that are made at once."""
    named = {name: data for name, data in found.items() if ".tmp" not in name}
    if case.name != "gc":
        assert named.items() <= expected.items(), told
    for folder in case.makes:
        if folder.startswith(("data", "models", "metrics")) and case.name != "report":
            own = [name for name in expected if name.startswith(folder)]
            assert len({name in named for name in own}) == 1, (folder, told)


def test_killed_while_it_publishes(own: Project) -> None:
    """A shard that is complete is made anew, of the cheapest stage: before any change of files."""
    expected = own.tree()
    command = ("stage", "sample", "--shard", "1", "--force")
    assert end_of(start_child(*command, die_at=0)) == 0
    num_changes = int(Path("steps").read_text())
    moments = random.Random("publishes")
    for number in moments.sample(range(1, num_changes + 1), min(rounds(5), num_changes)):
        assert end_of(start_child(*command, die_at=number)) == -signal.SIGKILL
        own.run("sample")
        assert own.tree() == expected, f"killed before change {number} of {num_changes}"


@pytest.mark.parametrize(
    ("stage", "change"), [("infer", {"batch_size": 5}), ("compress", {"kind": "full"})]
)
def test_killed_between_two_sets_of_parameters(
    own: Project, stage: str, change: dict[str, Any]
) -> None:
    """Nothing of the parameters that a killed run had is left beside those of the next."""
    expected = own.tree()
    moments = random.Random(stage)
    for _ in range(rounds(1)):
        own.write_params(**{stage: change})
        kill_after(start_child("stage", stage), moments.uniform(0.05, 0.5))
        own.write_params()
        kill_after(start_child("stage", stage), moments.uniform(0.05, 0.5))
    assert end_of(start_child("stage", stage)) == 0
    assert own.tree() == expected


def test_killed_while_shards_are_set_aside(own: Project) -> None:
    """In taking back what other parameters had replaced; nothing is forwarded."""
    expected = own.tree()
    command = ("stage", "infer", "--shard", "1")
    other: dict[str, Any] = {"infer": {"precision": "bf16"}}
    own.run("infer", **other)
    shutil.copytree(".", "../replaced")
    assert end_of(start_child(*command, die_at=0)) == 0
    num_changes = int(Path("steps").read_text())
    moments = random.Random("aside")
    for number in moments.sample(range(1, num_changes + 1), min(rounds(1), num_changes)):
        for top in (".ferkd", "labels"):
            shutil.rmtree(top)
            shutil.copytree(Path("../replaced", top), top)
        assert end_of(start_child(*command, die_at=number)) == -signal.SIGKILL
        assert end_of(start_child("stage", "infer")) == 0
        assert own.tree() == expected, f"killed before change {number} of {num_changes}"


def test_every_stage_is_among_the_cases() -> None:
    from ferkd_pipeline.stage_table import STAGE_NAMES

    assert set(STAGE_NAMES) >= set(SHARDED)
    assert {case.command[1] for case in CASES if case.command[0] == "stage"} == set(STAGE_NAMES)
