"""One live writer a shard: real processes, and leases of machines that are not there."""

import json
import os
import re
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from store import atomic, lock
from store.errors import RetryError
from tests.store.processes import running, wait_for_line

HOLD = """
import sys, time
from pathlib import Path
from store import atomic, lock
from store.errors import RetryError

try:
    with lock.hold(Path(sys.argv[1])):
        print("mine", flush=True)
        sys.stdin.readline()
except RetryError as error:
    print(error, flush=True)
"""


def write_lease(path: Path, age: float, host: str = "another-host") -> None:
    lease = {"host": host, "pid": 7, "beat": time.time() - age}
    path.with_suffix(".lease").write_text(json.dumps(lease))


def test_of_two_processes_one_wins_and_the_other_names_it(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "soft-part-00003.lock"
    with running(HOLD, path) as winner:
        assert wait_for_line(winner) == "mine"
        with running(HOLD, path) as loser:
            told = wait_for_line(loser)
        assert told == (
            f"soft-part-00003 is being written by process {winner.pid} on {socket.gethostname()}; "
            "wait for it to end, then run again"
        )
        assert winner.communicate("\n") == ("", "")
    with lock.hold(path):
        assert path.exists()


def test_kill_releases_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with running(HOLD, path) as holder:
        assert wait_for_line(holder) == "mine"
        with pytest.raises(RetryError, match=str(holder.pid)), lock.hold(path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert path.with_suffix(".lease").exists()
    with lock.hold(path):
        assert json.loads(path.with_suffix(".lease").read_bytes())["pid"] == os.getpid()
    assert not path.with_suffix(".lease").exists()


@pytest.mark.parametrize(("age", "is_blocked"), [(0, True), (290, True), (310, False)])
def test_lease_of_another_host_counts_for_five_minutes(
    tmp_path: Path, age: float, is_blocked: bool
) -> None:
    path = tmp_path / "x.lock"
    write_lease(path, age)
    if is_blocked:
        with pytest.raises(RetryError, match="process 7 on another-host"), lock.hold(path):
            pass
        assert path.with_suffix(".lease").exists()
    else:
        with lock.hold(path):
            pass
        assert not path.with_suffix(".lease").exists()


def test_lease_of_a_dead_process_of_this_host_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    write_lease(path, 0, socket.gethostname())
    with lock.hold(path):
        pass


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"host": 1, "pid": "x", "beat": null}', "\xff"])
def test_damaged_lease_does_not_count(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.lease").write_text(text)
    with lock.hold(tmp_path / "x.lock"):
        pass


def test_a_process_does_not_take_its_own_lock_twice(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with lock.hold(path):
        with (
            pytest.raises(RetryError, match=re.escape(f"process {os.getpid()} on")),
            lock.hold(path),
        ):
            pass
        with lock.hold(tmp_path / "y.lock"):
            pass
    with lock.hold(path):
        pass


def test_an_error_inside_releases_lock_and_lease(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with pytest.raises(ValueError, match="inside"), lock.hold(path):
        raise ValueError("inside")
    assert not path.with_suffix(".lease").exists()
    with lock.hold(path):
        pass


def test_heart_beats_and_survives_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.01)
    plain, beats, enough = atomic.write_bytes, [0], threading.Event()

    def write(path: Path, data: bytes) -> None:
        beats[0] += 1
        if beats[0] == 2:
            raise OSError(28, "No space left on device")
        plain(path, data)
        if beats[0] > 4:
            enough.set()

    monkeypatch.setattr(lock, "write_bytes", write)
    with lock.hold(tmp_path / "x.lock"):
        assert enough.wait(10)
        raw = json.loads((tmp_path / "x.lease").read_bytes())
    assert set(raw) == {"host", "pid", "beat"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.lock"]
