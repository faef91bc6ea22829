"""Images that change, are replaced or vanish while a training runs: told, never learned from.

A training view that is cut short, too."""

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import stages.train.run  # noqa: F401  before children are forked: it takes seconds
from ferkd_pipeline import exit_codes
from stages.shared import images
from stages.shared.training import image_reader
from tests.faults.disks import Ended, command
from tests.faults.soak import rounds
from tests.faults.test_image_folders import empty, swap, truncate, vanish
from tests.faults.test_training_kill import RESULTS, TRAIN, UNFINISHED
from tests.world import Project, Tree, merged, write_images

VICTIM = Path("images/bee/0.jpg")
CHANGED = Path("changed")
STEPS = 16
"""Of 4 images: all 25 are read two times and a half."""


def flip(path: Path) -> None:
    """One bit of as many bytes, with the times of the old file; a decoder may not notice."""
    status, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def unmount(path: Path) -> None:
    """The folder that all images lie in."""
    path.parents[1].rename("elsewhere")


def restore(data: bytes) -> None:
    if Path("elsewhere").exists():
        Path("elsewhere").rename("images")
    shutil.rmtree(VICTIM) if VICTIM.is_dir() else VICTIM.unlink(missing_ok=True)
    VICTIM.write_bytes(data)


def after_reads(number: int, change: Callable[[Path], None]) -> Callable[[], None]:
    """Change the image when a process has read so many."""

    def prepare() -> None:
        count = 0

        def counted(path: Path) -> bytes:
            nonlocal count
            count += 1
            if count == number:
                with contextlib.suppress(FileExistsError):  # another process was first
                    CHANGED.touch(exist_ok=False)
                    change(VICTIM)
            return images.read_bytes(path)

        setattr(image_reader, "read_bytes", counted)  # noqa: B010

    return prepare


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Tree]:
    """What trainings end with, by how they read: filled by the first that needs it."""
    return {}


def train(project: Project, **changes: Any) -> Callable[..., Ended]:
    """Writes params.yaml; the result trains, in a process of its own."""
    write_images(Path("val"), num=1, seed=2)
    few = {"steps": STEPS, "eval_every": STEPS, "ema_decay": None, "erase_probability": 0.0}
    project.write_params(train=merged(TRAIN, {**few, **changes}))
    return lambda before=lambda: None: command("stage", "train", before=before)


SAID: dict[Callable[[Path], None], str] = {
    flip: "is not the file that was indexed and labelled",
    swap: "is not the file that was indexed and labelled",
    truncate: "is not the file that was indexed and labelled",
    empty: "is not the file that was indexed and labelled",
    vanish: "missing",
    unmount: "this folder vanished; check its mount",
}


FAST = [(flip, 0), (flip, 2), (vanish, 2), (unmount, 0)]
ALL = [(change, num_workers) for change in SAID for num_workers in (0, 2)]


@pytest.mark.parametrize(("change", "num_workers"), ALL if rounds(1) > 1 else FAST)
def test_while_it_trains(
    own: Project,
    change: Callable[[Path], None],
    num_workers: int,
    undisturbed: dict[str, Tree],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It stops with a line and a checkpoint; with the file as it was, the weights are the same."""
    monkeypatch.setattr(image_reader, "KEPT_BYTES", 0)  # else each image is read once
    run = train(own, num_workers=num_workers)
    if "weights" not in undisturbed:
        assert run().code == 0
        undisturbed["weights"] = own.tree(*RESULTS)
        for folder in (*RESULTS, ".ferkd/results", ".ferkd/done"):
            shutil.rmtree(folder)
    data = VICTIM.read_bytes()
    ended = run(after_reads(30 // max(1, num_workers), change))
    assert ended.code == (75 if change is unmount else 3), ended.told
    assert SAID[change] in ended.line
    assert str(VICTIM if change is not unmount else "images/") in ended.line
    assert not Path("models/student").exists()
    assert list(UNFINISHED.glob("*/save-*")), "it had made some steps"
    restore(data)
    assert run().code == 0
    assert own.tree(*RESULTS) == undisturbed["weights"]


def test_fresh_crops(own: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Crops of one's own have no labels that would not fit; the image is another all the same."""
    monkeypatch.setattr(image_reader, "KEPT_BYTES", 0)
    run = train(own, labels="truth", crops={}, calibration=None)
    ended = run(after_reads(30, flip))
    assert ended.code == 3, ended.told
    assert f"{VICTIM} is not the file that was indexed" in ended.line


def test_kept_images_are_those_that_were_read(own: Project) -> None:
    """Small sets are decoded once: what changes after that is not looked at, and not learned."""
    run = train(own, num_workers=0)
    assert run().code == 0
    expected = own.tree(*RESULTS)
    for folder in (*RESULTS, ".ferkd/results", ".ferkd/done"):
        shutil.rmtree(folder)
    assert run(after_reads(25, flip)).code == 0
    assert CHANGED.exists()
    assert own.tree(*RESULTS) == expected


def cut_view(_: Path) -> None:
    for path in Path(".ferkd/view").glob("*/*.npy"):
        os.truncate(path, 0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_view_that_is_cut_short_while_it_is_mapped(own: Project, num_workers: int) -> None:
    """Reading it ends the process (SIGBUS): not without a word, and the next run names the view."""
    run = train(own, num_workers=num_workers)
    ended = run(after_reads(9, cut_view))
    assert CHANGED.exists()
    assert ended.code == 75, ended
    said = "mapped into memory was cut short" if not num_workers else "mapped file was cut short"
    (line,) = [line for line in ended.told.splitlines() if line.startswith("Error: ")]
    assert said in line and "Traceback" not in ended.told  # torch has words of its own, besides
    assert not Path("models/student").exists()
    ended = run()
    assert ended.code == 3 and "is not a whole training view" in ended.line, ended.told
    shutil.rmtree(".ferkd/view")
    assert run().code == 0


@pytest.mark.parametrize(
    "said",
    [
        "DataLoader worker (pid 7) is killed by signal: Killed. ",
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's"
        " workers are out of shared memory. Please try to raise your shared memory limit.",
        "DataLoader worker (pid(s) 7, 8) exited unexpectedly",
    ],
)
def test_a_death_that_torch_tells_of_anywhere(said: str) -> None:
    """It raises in the main thread, whatever that is at: also between two steps."""
    error = RuntimeError(said)
    assert exit_codes.exit_code(error) == 75
    assert exit_codes.message(error).startswith("a process that loads images ")
    assert "run the same command again" in exit_codes.message(error)
    assert exit_codes.is_expected(error)
