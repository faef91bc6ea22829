"""Checkpoints that are damaged, of another training, half written: what is trusted and what not."""

import errno
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.shared.training.checkpoint import Checkpoints
from store.digest import canonical_json, sha256_file, sha256_json
from store.entry import NewerFormatError
from store.errors import DataError
from tests.stages.checkpoints import KEY, STATE, is_same, only_save


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_alone_is_kept_and_removed_at_the_end(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "some", KEY)
    assert checkpoints.load() is None
    for step in range(3):
        checkpoints.save({"step": step})
        assert names(tmp_path / "some") == [f"save-{step + 1:09d}"]
    assert checkpoints.load() == {"step": 2}
    checkpoints.remove()
    assert checkpoints.load() is None
    assert not (tmp_path / "some").exists()
    checkpoints.remove()


def two_saves(folder: Path) -> tuple[Path, Path]:
    """An older checkpoint that was not deleted yet, as after a kill, and a newer one."""
    checkpoints = Checkpoints(folder, KEY)
    checkpoints.save({"step": 1, "weights": torch.ones(3)})
    shutil.copytree(only_save(folder), folder.with_name("copy"))
    checkpoints.save({"step": 2, "weights": torch.zeros(3)})
    os.rename(folder.with_name("copy"), folder / "save-000000001")
    return folder / "save-000000001", folder / "save-000000002"


def damage_json(path: Path) -> None:
    (path / "checkpoint.json").write_bytes((path / "checkpoint.json").read_bytes()[:-9])


def cut_tensors(path: Path) -> None:
    (path / "state.safetensors").write_bytes((path / "state.safetensors").read_bytes()[:-4])


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("was-run",)


def hostile_tensors(path: Path) -> None:
    (path / "state.safetensors").write_bytes(pickle.dumps({"0": Hostile()}))


def hostile_torch_file_that_is_described(path: Path) -> None:
    torch.save({"0": Hostile()}, path / "state.safetensors")
    describe_anew(path, tensors_sha256=sha256_file(path / "state.safetensors"))


def wild_state(path: Path) -> None:
    describe_anew(path, state={"tensor": "no such"})


def state_of_two_kinds(path: Path) -> None:
    describe_anew(path, state={"dict": [], "tuple": []})


def unknown_kind(path: Path) -> None:
    describe_anew(path, state={"dict": [["a", {"class": "os.system"}]]})


def state_that_is_a_list(path: Path) -> None:
    describe_anew(path, state=[1, 2])


def other_spelling(path: Path) -> None:
    said = json.loads((path / "checkpoint.json").read_bytes())
    (path / "checkpoint.json").write_text(json.dumps(said, indent=1))


def json_of_no_checkpoint(path: Path) -> None:
    (path / "checkpoint.json").write_text("[[1, 2]]")


def too_deep(path: Path) -> None:
    (path / "checkpoint.json").write_text("[" * 100_000)


def describe_anew(path: Path, **changes: object) -> None:
    said = json.loads((path / "checkpoint.json").read_bytes())
    said.pop("sha256")
    said |= changes
    data = canonical_json({**said, "sha256": sha256_json(said)}) + b"\n"
    (path / "checkpoint.json").write_bytes(data)


DAMAGES: list[Callable[[Path], object]] = [
    damage_json,
    cut_tensors,
    hostile_tensors,
    hostile_torch_file_that_is_described,
    wild_state,
    state_of_two_kinds,
    unknown_kind,
    state_that_is_a_list,
    other_spelling,
    json_of_no_checkpoint,
    too_deep,
    lambda path: (path / "checkpoint.json").unlink(),
    lambda path: (path / "state.safetensors").unlink(),
    shutil.rmtree,
]


@pytest.mark.parametrize("damage", DAMAGES[:-1])
def test_a_damaged_one_is_never_trusted(
    tmp_path: Path, damage: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    older, newer = two_saves(tmp_path / "some")
    damage(newer)
    checkpoints = Checkpoints(tmp_path / "some", KEY)
    found = checkpoints.load()
    assert found is not None and found["step"] == 1 and torch.equal(found["weights"], torch.ones(3))
    damage(older)
    with pytest.raises(DataError) as caught:
        checkpoints.load()
    assert str(newer) in str(caught.value)
    assert str(caught.value).endswith(f"; delete {tmp_path / 'some'} to start from the beginning")
    assert not Path("was-run").exists()
    checkpoints.save({"step": 3})
    assert checkpoints.load() == {"step": 3}
    assert names(tmp_path / "some") == ["save-000000003"]


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "some", KEY)
    checkpoints.save(STATE)
    rng = np.random.default_rng(0)
    for path in sorted(only_save(tmp_path / "some").iterdir()):
        data = path.read_bytes()
        for place in rng.permutation(8 * len(data))[:300]:
            flipped = bytearray(data)
            flipped[place // 8] ^= 1 << (place % 8)
            path.write_bytes(bytes(flipped))
            with pytest.raises(DataError, match="to start from the beginning"):
                checkpoints.load()
        path.write_bytes(data)
    assert is_same(checkpoints.load(), STATE)


def test_tensors_of_another_checkpoint_are_found(tmp_path: Path) -> None:
    older, newer = two_saves(tmp_path / "some")
    shutil.copy(older / "state.safetensors", newer / "state.safetensors")
    assert Checkpoints(tmp_path / "some", KEY).load() is not None
    shutil.rmtree(older)
    with pytest.raises(DataError, match=r"state\.safetensors has other bytes than recorded"):
        Checkpoints(tmp_path / "some", KEY).load()


def test_one_of_another_training_is_refused(tmp_path: Path) -> None:
    two_saves(tmp_path / "some")
    with pytest.raises(DataError) as caught:
        Checkpoints(tmp_path / "some", "b" * 64).load()
    said = str(caught.value)
    assert f"{tmp_path}/some/save-000000002/checkpoint.json is a checkpoint of another" in said
    assert "(key aaaaaaaaaaaa..)" in said and "(key bbbbbbbbbbbb..)" in said
    assert f"delete {tmp_path}/some to start" in said


def test_one_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    _, newer = two_saves(tmp_path / "some")
    describe_anew(newer, format_version=2, more={"new": 1})
    with pytest.raises(NewerFormatError, match=r"format version 2, .* upgrade ferkd-pipeline"):
        Checkpoints(tmp_path / "some", KEY).load()


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """Writing beyond fails, as on a full disk, but with its own number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "state", [{"a": torch.zeros(1 << 20)}, {"a": "a" * (1 << 22)}], ids=["tensors", "json"]
)
def test_a_full_disk_leaves_the_older_one(tmp_path: Path, state: dict[str, Any]) -> None:
    checkpoints = Checkpoints(tmp_path / "some", KEY)
    checkpoints.save(STATE)
    with largest_file(1 << 20), pytest.raises(OSError) as caught:
        checkpoints.save(state)
    assert caught.value.errno == errno.EFBIG
    assert names(tmp_path / "some") == ["save-000000001"]
    assert is_same(checkpoints.load(), STATE)


def dead_pid() -> str:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return str(done.pid)


def test_leftovers_of_dead_writers_alone_are_swept(tmp_path: Path) -> None:
    folder = tmp_path / "some"
    checkpoints = Checkpoints(folder, KEY)
    checkpoints.save(STATE)
    host = os.uname().nodename
    dead, alive = (f".save-000000009.new-{host}-{pid}.tmp" for pid in (dead_pid(), os.getppid()))
    old = f".save-000000001.old-{host}-{dead_pid()}.tmp"
    for name in (dead, alive, old):
        (folder / name).mkdir()
        (folder / name / "state.safetensors").write_bytes(b"half")
    assert is_same(checkpoints.load(), STATE)
    checkpoints.save(STATE)
    assert names(folder) == [alive, "save-000000002"]


@pytest.mark.parametrize("function", ["rename", "replace", "rmdir", "unlink", "fsync"])
def test_stopped_before_any_step_there_is_a_whole_one(
    tmp_path: Path, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path / "some", KEY)
    checkpoints.save({"step": 0, "weights": torch.ones(2)})
    real = getattr(os, function)
    for number in range(12):
        calls = iter(range(number + 1))

        def stopped(*arguments: Any, calls: Any = calls, **options: Any) -> Any:
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        monkeypatch.setattr(os, function, stopped)
        with suppress(KeyboardInterrupt):
            checkpoints.save({"step": number + 1, "weights": torch.ones(2)})
        monkeypatch.setattr(os, function, real)
        found = checkpoints.load()
        assert found is not None and found["step"] in range(number + 2)
    checkpoints.save({"step": 99})
    assert checkpoints.load() == {"step": 99}


@pytest.mark.parametrize("function", ["rename", "unlink", "rmdir"])
def test_stopped_while_it_removes(
    tmp_path: Path, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next training finds a whole one or none, never a part."""
    real = getattr(os, function)
    for number in range(6):
        two_saves(tmp_path / f"some{number}")
        calls = iter(range(number))

        def stopped(*arguments: Any, calls: Any = calls, **options: Any) -> Any:
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        checkpoints = Checkpoints(tmp_path / f"some{number}", KEY)
        monkeypatch.setattr(os, function, stopped)
        with suppress(KeyboardInterrupt):
            checkpoints.remove()
        monkeypatch.setattr(os, function, real)
        found = checkpoints.load()
        assert found is None or found["step"] == 2
        checkpoints.remove()
        assert not (tmp_path / f"some{number}").exists()
