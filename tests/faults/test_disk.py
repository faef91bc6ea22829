"""A disk that is full, read-only, gone, slow or failing: one clear line, and nothing is lost.

Every stage meets faults one after another; when they are over, the same command ends with the very
bytes of a run that met none.
"""

import builtins
import contextlib
import errno
import io
import os
import random
import resource
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
from torchvision.models import WeightsEnum

import stages.compare.run
import stages.evaluate.run
import stages.score.run
import stages.train.run  # noqa: F401  before children are forked: it takes seconds
from stages.shared import find_images
from stages.shared.model_config import ModelConfig
from stages.shared.models import build
from stages.shared.pretrained import with_pretrained
from stages.shared.training import tracking
from store.atomic import LEFTOVER
from store.errors import FerkdError, RetryError
from tests.faults.disks import Disk, bind, command, make_read_only, unmount, with_own_mounts
from tests.faults.soak import rounds
from tests.faults.test_training_kill import TRAIN
from tests.world import NETWORK, Project, Tree, copy_project, write_images

SECTIONS: dict[str, Any] = {
    "train": {**TRAIN, "track": ["dvclive", "tensorboard"], "steps": 2, "eval_every": 2},
    "evaluate": {"sets": {"val": "val"}},
    "score": {
        "hard": {
            "estimator": "loss",
            "proxy": {
                "model": {**NETWORK, "input_size": 16},
                "batch_size": 8,
                "crops_per_image": 1,
                "steps": 1,
                "lr": 0.01,
                "device": "cpu",
            },
        }
    },
    "compare": {
        "arms": ["truth", "store"],
        "seeds": [0],
        "val": "val",
        "test": "val",
        "timing_rounds": 1,
    },
}
OUTS = {
    "index": ("labels/images", "labels/rejects"),
    "sample": ("labels/crops",),
    "infer": ("labels/predictions",),
    "compress": ("labels/soft",),
    "calibrate": ("labels/calibrated",),
    "score": ("labels/scores",),
    "train": ("models/student", "metrics/train"),
    "evaluate": ("metrics/evaluate",),
    "compare": ("metrics/compare",),
}
PAGES = {"infer": 90, "calibrate": 18, "train": 50, "compare": 60}
"""About how many pages of disk a stage needs; others 9."""

MEASURED = ("metrics/compare/timing.json",)
TRANSIENT = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)
Fault = Callable[[str, random.Random, Disk | None], str]


def at_opening(number: int, action: Callable[[str], None], part: str = "") -> Callable[[], None]:
    """Do something before a process opens file number so-and-so of the project, and each later."""

    def prepare() -> None:
        count = 0

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(path: Any, *arguments: Any, **options: Any) -> Any:
                nonlocal count
                name = path if isinstance(path, int) else os.fsdecode(path)
                if isinstance(name, str) and not name.startswith("/") and part in name:
                    count += 1
                    if count >= number:
                        action(name)
                return function(path, *arguments, **options)

            return call

        io.open = builtins.open = counted(io.open)
        os.open = counted(os.open)

    return prepare


def fails_with(code: int) -> Callable[[str], None]:
    def fail(name: str) -> None:
        raise OSError(code, os.strerror(code), name)

    return fail


def limited(kind: int, value: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(kind, (value, value))


def refused(
    stage: str, words: str, before: Callable[[], None] = lambda: None, code: int = 1
) -> bool:
    """Run a stage that must end well, or with this code and one line: a path, and these words."""
    ended = command("stage", stage, "--force", before=before)
    if ended.code == 0:
        return False
    assert ended.code == code, (ended.code, ended.told)
    assert words in ended.line, ended.line
    if "too many" not in words:  # pipes and polls have no names
        place = ended.line.removeprefix("the training view needs ").split(" in ")[-1]
        assert place.split(":")[0].split("/")[0] in TOPS, ended.line
    assert ".tmp" not in ended.line
    return True


TOPS = ("labels", "models", "metrics", "images", "val", ".ferkd", "params.yaml")


PARTS = ("crops/part-", "predictions/part-", "soft/part-", "ferkd/part-", "shares/part-")


def full(stage: str, chance: random.Random, disk: Disk | None) -> str:
    assert disk
    pages = chance.randrange(PAGES.get(stage, 9))
    disk.leave_free(pages * 4096)
    refused(stage, "free some space")
    disk.grow()
    return f"full after {pages} pages"


def read_only(stage: str, chance: random.Random, disk: Disk | None) -> str:
    tops = sorted({name.split("/")[0] for name in OUTS[stage]})
    chosen = chance.choice([tops, [".ferkd"]])
    for top in chosen:
        Path(top).mkdir(exist_ok=True)
        make_read_only(Path(top).absolute())
    assert refused(stage, "the file system is read-only: make it writable"), chosen
    for top in chosen:
        unmount(Path(top).absolute())
    return f"read-only {chosen}"


def gone(stage: str, chance: random.Random, disk: Disk | None) -> str:
    """The store is on a disk of its own, which vanishes and comes back."""
    number = chance.randrange(1, 60)
    Path("labels").rename("elsewhere")
    Path("labels").mkdir()
    place = Path("labels").absolute()
    bind(Path("elsewhere"), place)

    def vanish(name: str) -> None:
        with contextlib.suppress(OSError):  # gone already
            unmount(place)

    ended = command("stage", stage, "--force", before=at_opening(number, vanish))
    assert ended.code in (0, 1, 3, 75), ended.told
    if ended.code:
        assert any(top in ended.line for top in (*TOPS, *PARTS)), ended.line
    with contextlib.suppress(OSError):
        unmount(place)
    shutil.rmtree("labels")
    Path("elsewhere").rename("labels")
    return f"gone at file {number}, ended {ended.code}"


def no_handles(stage: str, chance: random.Random, disk: Disk | None) -> str:
    more = chance.randrange(4, 14)
    limit = len(os.listdir("/proc/self/fd")) + more
    refused(stage, "too many open files: raise", limited(resource.RLIMIT_NOFILE, limit))
    return f"{more} handles"


def small_files(stage: str, chance: random.Random, disk: Disk | None) -> str:
    size = chance.choice([0, 100, 2000])
    refused(stage, "larger than a file may be here", limited(resource.RLIMIT_FSIZE, size))
    return f"files of {size} bytes"


def failing(stage: str, chance: random.Random, disk: Disk | None) -> str:
    number, code = chance.randrange(1, 60), chance.choice(TRANSIENT)
    refused(stage, "run", at_opening(number, fails_with(code)), code=75)
    return f"{errno.errorcode[code]} at file {number}"


MOUNTED: tuple[Fault, ...] = (full, read_only, gone)
EVERYWHERE: tuple[Fault, ...] = (no_handles, small_files, failing)


@pytest.fixture(scope="module")
def finished(made: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in which every stage was run."""
    project = copy_project(made, tmp_path_factory.mktemp("finished"))
    before = Path.cwd()
    os.chdir(project.folder)
    try:
        write_images(Path("val"), num=1, seed=2)
        project.write_params(**SECTIONS)
        for stage in ("score", "train", "evaluate", "compare"):
            ended = command("stage", stage)
            assert ended.code == 0, ended.told
    finally:
        os.chdir(before)
    return project


def whole(project: Project, stage: str) -> Tree:
    tree = project.tree(*OUTS[stage])
    return {name: data for name, data in tree.items() if name not in MEASURED}


def meet(stage: str, faults: tuple[Fault, ...], num: int, seed: str, disk: Disk | None) -> None:
    """Meet some faults; whatever has its final name is right after each, all is at the end."""
    project = Project(Path.cwd())
    good = whole(project, stage)
    chance = random.Random(seed)
    met = []
    for number in range(num):
        fault = faults[(number + list(OUTS).index(stage)) % len(faults)]
        if chance.random() < 0.5:  # else what is there is made anew, and must not be lost
            for name in (*OUTS[stage], ".ferkd/work", ".ferkd/results", "metrics/live"):
                shutil.rmtree(name, ignore_errors=True)
        met.append(fault(stage, chance, disk))
        now = whole(project, stage)
        wrong = [name for name, data in now.items() if good.get(name) != data]
        if gone in faults:  # a disk that has gone keeps its hidden files; the next writer deletes
            wrong = [name for name in wrong if not LEFTOVER.search(name)]
        assert not wrong, (seed, met, wrong)
    ended = command("stage", stage)
    assert ended.code == 0, (seed, met, ended.told)
    assert whole(project, stage) == good, (seed, met)


@pytest.mark.parametrize("stage", OUTS)
def test_full_read_only_or_gone(finished: Project, stage: str, tmp_path: Path) -> None:
    def body() -> None:
        disk = Disk(tmp_path / "disk")
        os.chdir(copy_project(finished, tmp_path / "disk/project").folder)
        meet(stage, MOUNTED, rounds(1), f"{stage} mounted", disk)

    with_own_mounts(body)


@pytest.mark.parametrize("stage", OUTS)
def test_without_handles_with_small_files_or_failing_reads(
    finished: Project, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy_project(finished, tmp_path / "project").folder)
    num = rounds(1)
    if stage in ("compare", "score") and num == 1:
        num = 0  # train meets the same faults in half the time
    meet(stage, EVERYWHERE, num, f"{stage} everywhere", None)


@pytest.mark.parametrize("stage", ["index", "infer"])
def test_images_that_cannot_be_read_now_are_no_rejects(own: Project, stage: str) -> None:
    """No handles left, or the folder's mount gone: an image must not be given up for that."""
    before = own.tree()

    def vanish(name: str) -> None:
        if Path("images").exists():
            Path("images").rename("images.gone")

    for action, code, words in (
        (fails_with(errno.EMFILE), 1, "raise `ulimit -n`"),
        (vanish, 75, "this folder vanished; check its mount"),
    ):
        if stage == "infer":
            shutil.rmtree("labels/predictions")
        ended = command("stage", stage, before=at_opening(9, action, "images/"))
        assert ended.code == code and words in ended.line, ended
        if Path("images.gone").exists():
            Path("images.gone").rename("images")
        assert command("stage", stage).code == 0
        assert own.tree() == before


def test_a_class_folder_that_does_not_answer_is_not_left_out() -> None:
    class Entry:
        name = b"ant"

        def is_dir(self) -> bool:
            raise OSError(errno.EIO, "Input/output error", "images/ant")

    with pytest.raises(OSError, match="images/ant"):
        find_images._kind(Entry())  # type: ignore[arg-type]


def test_work_on_another_disk_than_the_store(own: Project) -> None:
    """Finished shards are copied over; a store that is too full for one keeps what it had."""

    def body() -> None:
        folder = own.folder.parent / "disk"
        disk = Disk(folder)
        project = copy_project(own, folder / "project")
        os.chdir(project.folder)
        good = project.tree()
        shutil.rmtree(".ferkd")
        Disk(project.folder / ".ferkd")
        disk.leave_free(8 * 4096)
        ended = command("stage", "infer", "--force", "--shard", "1")
        assert ended.code == 1, ended.told
        assert ended.line.startswith("labels/predictions/part-00001.zarr: the disk is full")
        left = {name: data for name, data in project.tree().items() if name in good}
        assert all(good[name] == data for name, data in left.items())
        assert any("part-00001.zarr/" in name for name in left)
        disk.grow()
        assert command("stage", "infer").code == 0
        assert project.tree() == good

    with_own_mounts(body)


def test_shared_memory_view_and_temporary_folder_without_room(
    finished: Project, tmp_path: Path
) -> None:
    def body() -> None:
        Disk(tmp_path / "disk")
        project = copy_project(finished, tmp_path / "disk/project")
        os.chdir(project.folder)
        good = whole(project, "train")
        train = {**SECTIONS["train"], "num_workers": 2}
        project.write_params(**{**SECTIONS, "train": train})
        for size in ("4k", "64k"):
            Disk(Path("/dev/shm"), f"size={size}")
            ended = command("stage", "train", "--force")
            assert ended.code == 75, ended.told
            assert "make /dev/shm larger (docker run --shm-size)" in ended.line
            unmount(Path("/dev/shm"))
        temporary = Disk(tmp_path / "temporary")
        temporary.leave_free(0)
        os.environ["TMPDIR"] = str(temporary.folder)
        views = Disk(tmp_path / "views", "size=1m")
        os.environ["FERKD_CACHE"] = str(views.folder)
        ended = command("stage", "train", "--force")
        assert ended.code == 1, ended.told
        assert f"kB in {views.folder}, and as many as 67.1 MB are to stay free" in ended.line
        assert "set FERKD_CACHE to a folder on a larger disk" in ended.line
        views.grow()
        ended = command("stage", "train", "--force")
        assert ended.code == 0, ended.told
        assert whole(project, "train") == good

    with_own_mounts(body)


def test_full_while_a_checkpoint_is_saved(finished: Project, tmp_path: Path) -> None:
    """The library that writes tensors has an error of its own for that."""

    def body() -> None:
        disk = Disk(tmp_path / "disk")
        os.chdir(copy_project(finished, tmp_path / "disk/project").folder)
        assert command("stage", "train", "--force").code == 0  # the training view is there now
        disk.leave_free(20 * 4096)
        ended = command("stage", "train", "--force")
        assert ended.code == 1, ended.told
        assert ended.line.startswith(".ferkd/work/train/"), ended.line
        assert "save-" in ended.line and "the disk is full: free some space" in ended.line

    with_own_mounts(body)


COMMANDS = (
    (("record", "sample"), "labels"),
    (("store", "export", "out/labels.parquet"), "out"),
    (("store", "export", "out/labels.csv"), "out"),
    (("store", "gc", "--force"), ".ferkd"),
    (("init", "out/new", "--recipe", "quick", "--images", "images", "--val", "val"), "out"),
    (("report", "--out", "out/report.html"), "out"),
    (("export", "out/student.safetensors"), "out"),
)
"""Commands besides stages that write, and the folder that they write to."""


def test_tensorboards_thread_prints_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """It meets the full disk first, now and then; the next call of ours is told of it."""
    told: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda given: told.append(given.thread.name))
    tracking._library("tensorboard")

    class Theirs(threading.Thread):
        __module__ = "tensorboard.summary"

        def run(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    class Other(Theirs):
        __module__ = "stages"

    for thread in (Theirs(name="theirs"), Other(name="other")):
        thread.start()
        thread.join()
    assert told == ["other"]


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_commands_that_write(finished: Project, tmp_path: Path) -> None:
    def body() -> None:
        Disk(tmp_path / "disk")
        os.chdir(copy_project(finished, tmp_path / "disk/project").folder)
        for arguments, top in COMMANDS:
            for is_full in (False, True)[: 2 if top == "out" else 1]:
                place = Path(top).absolute()
                place.mkdir(exist_ok=True)
                Path("labels/crops/_manifest.json").unlink(missing_ok=True)
                if is_full:
                    disk = Disk(place)
                    (place / "other").write_bytes(bytes(4096))  # no disk is smaller than a page
                    disk.leave_free(0)
                else:
                    make_read_only(place)
                before = files_in(place)
                ended = command(*arguments)
                assert ended.code == 1, (arguments, ended)
                words = "the disk is full" if is_full else "the file system is read-only"
                assert words in ended.line and ended.line.startswith(top), (arguments, ended)
                left = files_in(place)
                assert left == before, (arguments, left)
                unmount(place)
            ended = command(*arguments)
            assert ended.code == 0, (arguments, ended)

    with_own_mounts(body)


def test_a_slow_disk(own: Project) -> None:
    """Each opening waits: only time is lost."""
    good = own.tree()
    shutil.rmtree("labels/soft")
    slow = at_opening(1, lambda _: time.sleep(0.003))
    assert command("stage", "compress", before=slow).code == 0
    assert own.tree() == good


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_cache_of_weights_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    """A home that is read-only is no network that fails: trying again would not help."""

    def fail(*_: Any, **__: Any) -> None:
        try:
            raise OSError(errno.EROFS, "Read-only file system", "/home/cache")
        except OSError as error:
            raise RuntimeError("the hub's client failed") from error

    name = "torchvision:resnet18" if library == "torchvision" else "resnet18.a1_in1k"
    config = ModelConfig(name=name, pretrained=True)
    module = build(config.model_copy(update={"pretrained": False}), 1000).module
    monkeypatch.setattr(WeightsEnum, "get_state_dict", fail)
    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(FerkdError, match=r"/home/cache.*TORCH_HOME") as caught:
        with_pretrained(config, module, 1000, {})
    assert not isinstance(caught.value, RetryError)
