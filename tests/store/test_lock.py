"""One live writer a shard: real processes, and leases of machines that are not there."""

import errno
import fcntl
import functools
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
from tests.children import end_of, start
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
    age_lease(path.with_suffix(".lease"), age)


def age_lease(lease: Path, age: float) -> None:
    """As if it had been written some time ago, by the clock of the file system."""
    os.utime(lease, (time.time() - age,) * 2)


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
        if beats[0] == 1:
            raise OSError(28, "No space left on device")
        plain(path, data)
        if beats[0] > 4:
            enough.set()

    monkeypatch.setattr(lock, "write_bytes", write)
    with lock.hold(tmp_path / "x.lock"):
        assert enough.wait(10)
        raw = json.loads((tmp_path / "x.lease").read_bytes())
    assert set(raw) == {"host", "pid", "beat", "token"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.lock"]


@pytest.mark.parametrize("skew", [-86400.0, -600.0, 600.0, 86400.0])
def test_clocks_of_hosts_may_differ(tmp_path: Path, skew: float) -> None:
    """How old a lease is, the file system's clock says; what the other host's says is not asked."""
    path = tmp_path / "x.lock"
    write_lease(path, skew)
    age_lease(path.with_suffix(".lease"), 10)
    with pytest.raises(RetryError, match="process 7 on another-host"), lock.hold(path):
        pass
    age_lease(path.with_suffix(".lease"), lock.STALE_SECONDS + 10)
    with lock.hold(path):
        pass


def test_a_file_system_s_clock_that_was_put_back(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    write_lease(path, 0)
    age_lease(path.with_suffix(".lease"), -86400)
    with lock.hold(path):
        pass


def test_two_names_of_one_lock(tmp_path: Path) -> None:
    """To open and close its file once more would give the lock back."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with lock.hold(tmp_path / "real" / "x.lock"):
        with pytest.raises(RetryError), lock.hold(tmp_path / "link" / "x.lock"):
            pass
        with running(HOLD, tmp_path / "real" / "x.lock") as other:
            assert "is being written by" in wait_for_line(other)


@pytest.fixture
def beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.01)


def test_a_lease_that_was_taken_over_is_left_alone(tmp_path: Path, beats: None) -> None:
    """As after a sleep of this machine: it publishes nothing, and the other one's lease stays."""
    path = tmp_path / "x.lock"
    lock.require(path)
    with lock.hold(path):
        lock.require(path)
        write_lease(path, 0)
        with pytest.raises(RetryError, match="x was taken over by process 7 on another-host"):
            lock.require(path)
        time.sleep(0.1)
        assert json.loads((tmp_path / "x.lease").read_bytes())["pid"] == 7
        (tmp_path / "x.lease").unlink()
        with pytest.raises(RetryError, match="x was taken over by another process"):
            lock.require(path)
        write_lease(path, 0)
    assert json.loads((tmp_path / "x.lease").read_bytes())["pid"] == 7


def test_a_lease_that_somebody_deleted_is_written_again(tmp_path: Path, beats: None) -> None:
    path = tmp_path / "x.lock"
    with lock.hold(path):
        (tmp_path / "x.lease").unlink()
        lock.require(path)
        end = time.monotonic() + 10
        while not (tmp_path / "x.lease").exists():
            assert time.monotonic() < end
    assert not (tmp_path / "x.lease").exists()


def without_locks(monkeypatch: pytest.MonkeyPatch, code: int | None) -> None:
    """A file system that does not lock, or (None) only says so."""

    def lockf(*_: object) -> None:
        if code is not None:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "lockf", lockf)
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.3)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP])
def test_without_locks_leases_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    without_locks(monkeypatch, code)
    path = tmp_path / "x.lock"
    with running(HOLD, path) as holder:  # it has one, and a lease
        assert wait_for_line(holder) == "mine"
        with pytest.raises(RetryError, match=str(holder.pid)), lock.hold(path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with lock.hold(path):  # a dead process of this host
        pass
    write_lease(path, lock.STALE_SECONDS + 1, socket.gethostname())
    raw = json.loads((tmp_path / "x.lease").read_bytes())
    (tmp_path / "x.lease").write_text(json.dumps({**raw, "pid": os.getppid()}))
    with pytest.raises(RetryError), lock.hold(path):  # just written, by a live one
        pass
    age_lease(tmp_path / "x.lease", lock.STALE_SECONDS + 1)
    with lock.hold(path):  # its number was given to another process since
        pass


def test_errors_of_locking_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_locks(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output"), lock.hold(tmp_path / "x.lock"):
        pass


@pytest.mark.parametrize("left", ["nothing", "a dead host's", "no links"])
def test_hosts_that_take_a_lock_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    """On a file system that only pretends to lock, one at most has it."""
    without_locks(monkeypatch, errno.ENOLCK if left == "no links" else None)
    path = tmp_path / "x.lock"
    if left == "a dead host's":
        write_lease(path, lock.STALE_SECONDS + 1)
    if left == "no links":
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "")))
    start_at = time.time() + 0.2

    def take(number: int) -> int:
        monkeypatch.setattr(socket, "gethostname", lambda: f"host-{number}")
        time.sleep(max(0.0, start_at - time.time()))
        try:
            with lock.hold(path):
                (tmp_path / f"had-{number}").touch()
                time.sleep(1)
        except RetryError:
            return 75
        return 0

    children = [start(functools.partial(take, number)) for number in range(6)]
    codes = sorted(end_of(child) for child in children)
    assert codes == [0, *[75] * 5]
    assert len(list(tmp_path.glob("had-*"))) == 1
