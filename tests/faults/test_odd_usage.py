"""Command lines and surroundings that nobody meant: one line and the right exit code."""

import contextlib
import json
import os
import pty
import random
import resource
import shutil
import stat
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ferkd_pipeline import cli
from ferkd_pipeline.commands.root import root
from tests.faults.soak import rounds
from tests.world import Project

Said = tuple[int, str, str]


def run(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> Said:
    code = cli.main(arguments)
    said = capfd.readouterr()
    assert "Traceback" not in said.err + said.out
    assert "Unexpected" not in said.err, said.err
    return code, said.out, said.err


HUGE = "9" * 5000

WRONG: tuple[tuple[str, ...], ...] = (
    ("stage",),
    ("stage", ""),
    ("stage", "nothing"),
    ("stage", "Infer"),
    ("stage", "infer", "sample"),
    ("stage", "infer", "--shard"),
    ("stage", "infer", "--shard", ""),
    ("stage", "infer", "--shard", "-1"),
    ("stage", "infer", "--shard", "3"),
    ("stage", "infer", "--shard", "1.0"),
    ("stage", "infer", "--shard", "0x1"),
    ("stage", "infer", "--shard", "٣"),
    ("stage", "infer", "--shard", " 1"),
    ("stage", "infer", "--shard", "nan"),
    ("stage", "infer", "--shard", HUGE),
    ("stage", "infer", "--shard", "1e0"),
    ("stage", "infer", "--shard", "0", "--shard", "auto"),
    ("stage", "infer", "--shard", "auto"),
    ("stage", "train", "--shard", "0"),
    ("stage", "infer", "--params"),
    ("stage", "infer", "--params", "."),
    ("stage", "infer", "--params", "absent.yaml"),
    ("stage", "infer", "--params", "params.yaml/below"),
    ("stage", "infer", "--params", "x" * 300),
    ("stage", "infer", "--params", "x/" * 3000),
    ("stage", "infer", "--params", "a\nb"),
    ("stage", "infer", "--params", "\udcff\udcfe"),
    ("stage", "infer", "--params", "/dev/zero"),
    ("stage", "infer", "--params", "images/ant/0.jpg"),
    ("stage", "\udcff"),
    ("stage", "a\x1b[31m"),
    ("stage", "infer", "--dry-run=yes"),
    ("stage", "infer", "--no-such-option"),
    ("record", "nothing"),
    ("record", "--params", "absent.yaml"),
    ("store", "nothing"),
    ("store", "gc", "--kind", "nothing"),
    ("store", "gc", "--force", "--dry-run"),
    ("init",),
    ("init", "new"),
    ("init", "new", "--recipe", "nothing"),
    ("init", "params.yaml", "--recipe", "quick"),
    ("report", "--metrics", "params.yaml"),
    ("report", "--out", "images"),
    ("calibrate", "nothing"),
    ("nothing",),
    ("",),
    ("--nothing",),
)


@pytest.mark.parametrize("arguments", WRONG, ids=lambda each: ascii(" ".join(each))[:50])
def test_wrong_command_lines(
    shared: Project, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    before = snapshot()
    code, out, err = run([*arguments], capfd)
    assert code == 2, err
    assert out == ""
    told = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert len(told) == 1
    assert told[0].isprintable() and len(told[0]) < 700, told
    assert snapshot() == before


def snapshot() -> list[tuple[str, int, int]]:
    """Everything in the folder, `.ferkd` included: names, sizes and times."""
    found = [(str(path), path.lstat()) for path in sorted(Path(".").rglob("*"))]
    return [(path, stats.st_size, stats.st_mtime_ns) for path, stats in found]


def test_options_given_twice(shared: Project, capfd: pytest.CaptureFixture[str]) -> None:
    """The last one counts, as everywhere; a shard named twice is one shard."""
    arguments = ["stage", "infer", "--shard", "1", "--shard", "1", "--params", "absent.yaml"]
    code, out, _ = run([*arguments, "--params", "params.yaml", "--json", "--json"], capfd)
    assert code == 0
    assert [each["shard"] for each in json.loads(out)["shards"]] == [1]


WORDS = (
    *("--shard", "--params", "--json", "--force", "--dry-run", "--deep", "--kind", "--root", "-h"),
    *("auto", "0", "1", "-1", HUGE, "infer", "stage", "store", "info", "verify", "trace", "record"),
    *("", "--", "-", "=", "--=", "a\0b", "\udcff", "params.yaml", "absent", ".", "..", "é"),
)


def test_any_words(own: Project, capfd: pytest.CaptureFixture[str]) -> None:
    """Known and unknown words in any order: a documented exit code, no traceback."""
    seed = int(os.environ.get("FERKD_SOAK", "1"))
    chance = random.Random(seed)
    own.write_params()
    names = [name for name in root.commands if name not in ("init", "export")]
    for _ in range(rounds(40)):
        words = [chance.choice(names), *chance.choices(WORDS, k=chance.randint(0, 5))]
        code, _, err = run(words, capfd)
        assert code in (0, 1, 2, 3, 42, 75), (seed, words, code, err)
        assert (code == 0) or err, (seed, words)


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_ARRAY_TASK_ID": "x", "SLURM_ARRAY_TASK_COUNT": "2"},
        {"SLURM_ARRAY_TASK_ID": HUGE, "SLURM_ARRAY_TASK_COUNT": "2"},
        {"SLURM_ARRAY_TASK_ID": "1"},
        {"JOB_COMPLETION_INDEX": "-1", "FERKD_NUM_TASKS": "2"},
        {"JOB_COMPLETION_INDEX": "0", "FERKD_NUM_TASKS": "0"},
        {"RANK": "5", "WORLD_SIZE": "2"},
        {"RANK": "", "WORLD_SIZE": "2"},
    ],
    ids=lambda each: ascii(each)[:40],
)
def test_a_task_that_cannot_be(
    shared: Project,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    environment: dict[str, str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code, _, err = run(["stage", "infer", "--shard", "auto"], capfd)
    assert code == 2
    assert err.startswith("Error: --shard auto: ")
    assert err.count("\n") == 1 and len(err) < 500


def child(arguments: list[str], prepare: Callable[[], Any]) -> int:
    """The exit code of a command in a forked process whose surroundings are changed first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads, Python 3.12
        pid = os.fork()
    if not pid:
        code = 99
        try:
            prepare()
            code = cli.main(arguments)
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def close_streams() -> None:
    """As after `<&- >&- 2>&-`: Python has no streams then."""
    for number in range(3):
        os.close(number)
    sys.stdin = sys.stdout = sys.stderr = None


def test_closed_streams(own: Project) -> None:
    """The work is done, the exit code is right, and no file of the store gets number 1 or 2."""
    expected = own.tree()
    shutil.rmtree("labels/soft")
    assert child(["stage", "compress"], close_streams) == 0
    assert own.tree() == expected
    assert child(["stage", "compress", "--shard", "99"], close_streams) == 2
    assert child(["store", "verify"], close_streams) == 0
    Path("labels/soft/part-00001.parquet").write_bytes(b"")
    assert child(["store", "verify"], close_streams) == 3


def test_complaints_of_libraries_reach_no_file(own: Project) -> None:
    """What a library writes to file number 2 goes nowhere, not into the next file opened."""

    def prepare() -> None:
        close_streams()
        complaint = os.open  # every file that is opened afterwards is preceded by a complaint

        def opened(*arguments: Any, **options: Any) -> int:
            number = complaint(*arguments, **options)
            for stream in (1, 2):
                os.write(stream, b"warning: of a library")
            return number

        from ferkd_pipeline import funnel

        funnel._open_closed_streams()
        os.open = opened

    expected = own.tree()
    shutil.rmtree("labels/soft")
    assert child(["stage", "compress"], prepare) == 0
    assert own.tree() == expected


def to(path: str, *numbers: int) -> Callable[[], None]:
    def prepare() -> None:
        for number in numbers:
            os.dup2(os.open(path, os.O_WRONLY), number)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115

    return prepare


def unread(*numbers: int) -> Callable[[], None]:
    """Pipes whose reader has gone."""

    def prepare() -> None:
        reading, writing = os.pipe()
        for number in numbers:
            os.dup2(writing, number)
        os.close(reading)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115

    return prepare


def test_nobody_reads(own: Project) -> None:
    """What was published is whole; that nobody reads is no success, as with SIGPIPE."""
    expected = own.tree()
    shutil.rmtree("labels/soft")
    assert child(["stage", "compress"], unread(1)) == 141
    assert own.tree() == expected
    assert child(["stage", "compress", "--shard", "99"], unread(1, 2)) == 2
    assert child(["stage", "compress", "--shard", "99"], to("/dev/full", 1, 2)) == 2
    assert child(["--help"], to("/dev/full", 1)) == 1


def test_a_broken_pipe_is_not_success(own: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's broken pipe in the middle of the work once ended with exit code 0."""
    import ferkd_pipeline.engine

    def broken(*_: object, **__: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(ferkd_pipeline.engine, "run_stage", broken)
    own.write_params()
    assert child(["stage", "compress"], to(os.devnull, 1, 2)) == 1
    assert child(["stage", "compress"], unread(1, 2)) == 141


@pytest.mark.parametrize("columns", ["0", "1", "7", "-5", "x", "100000"][: rounds(2)])
def test_a_terminal_of_any_width(own: Project, columns: str) -> None:
    """On a terminal of its own, with and without colour."""
    own.write_params()
    reports = [["store", "info"], ["report", "--no-page"], ["stage", "sample", "--force"], ["-h"]]
    for number, words in enumerate(reports):
        leader, follower = pty.openpty()

        def prepare(follower: int = follower, number: int = number) -> None:
            for stream in (1, 2):
                os.dup2(follower, stream)
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
            os.environ["COLUMNS"] = columns
            os.environ["TERM"] = "xterm"
            if number % 2:
                os.environ["NO_COLOR"] = "1"

        said: list[bytes] = []
        reader = threading.Thread(target=read_all, args=(leader, said))
        reader.start()  # a terminal that nobody reads stops who writes
        code = child(words, prepare)
        os.close(follower)
        reader.join()
        os.close(leader)
        assert code == 0, (words, columns, said[-5:])
        assert b"Traceback" not in b"".join(said)


def read_all(terminal: int, said: list[bytes]) -> None:
    with contextlib.suppress(OSError):  # the other end was closed
        while found := os.read(terminal, 65536):
            said.append(found)


def test_an_unreadable_file(own: Project) -> None:
    """As another user than root, whom nothing is forbidden."""
    own.write_params()
    Path("params.yaml").chmod(0)

    def prepare() -> None:
        to(os.devnull, 1, 2)()
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)

    for path in [own.folder, *own.folder.parents]:
        if os.getuid() == 0 and str(path).startswith("/tmp/") and path != Path("/tmp"):
            path.chmod(path.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
    assert child(["stage", "sample"], prepare) == 2


def test_few_file_handles(own: Project) -> None:
    """Reading parameters needs hardly any."""
    own.write_params()

    def prepare() -> None:
        to(os.devnull, 1, 2)()
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    assert child(["stage", "sample", "--shard", "99"], prepare) == 2


@pytest.mark.skipif(rounds(1) == 1, reason="starts Python six times; in a soak")
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16"])
def test_streams_of_other_encodings(own: Project, encoding: str) -> None:
    own.write_params()
    for words in (["store", "info"], ["init", "--list"], ["stage", "é"]):
        done = subprocess.run(
            [sys.executable, "-m", "ferkd_pipeline", *words],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "PYTHONIOENCODING": encoding,
                "LC_ALL": "C",
            },
            capture_output=True,
            check=False,
        )
        assert done.returncode in (0, 2), done.stderr
        assert b"Traceback" not in done.stderr
