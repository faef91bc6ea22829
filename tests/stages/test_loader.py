"""Loading: pixels are the same wherever they are resized, and what goes wrong is told."""

import contextlib
import errno
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from stages.shared.model_config import PixelSpec
from stages.shared.recorded import replay
from stages.shared.training import image_reader, loader_memory
from stages.shared.training.augment import augmented
from stages.shared.training.batches import StoredCrops
from stages.shared.training.config import TrainingConfig
from stages.shared.training.loader import StepBatches, iterate_steps, resize_place
from stages.shared.training.loader_memory import batches_ahead, new_bytes
from stages.shared.training.loading import Loading
from store.batch import LabelBatch, RecordedOps
from store.errors import DataError, ParamsError, RetryError
from store.operations import Operation
from tests.stages.training_world import FakeView, image_table, plan_of, write_images

CPU = torch.device("cpu")
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
SPEC = PixelSpec(size=(16, 12), interpolation="bilinear", mean=MEAN, std=STD, crop_ratio=1.0)
LARGER = replace(SPEC, size=(20, 20), interpolation="bicubic")


@dataclass(frozen=True)
class View(FakeView):
    """With the files' hashes, and operations where they are asked for."""

    recorded: bool = False

    @property
    def content_hashes(self) -> NDArray[np.uint64]:
        digests = [_digest(self.folder / str(path)) for path in self.images.paths]
        return np.array([divmod(digest, 2**64) for digest in digests], np.uint64)

    def gather(self, rows: NDArray[np.int64], crops: NDArray[np.int64]) -> LabelBatch:
        batch = super().gather(rows, crops)
        if not self.recorded:
            return batch
        codes = np.where(crops % 2 == 0, Operation.INVERT, Operation.NONE)[..., None]
        ops = RecordedOps(codes.astype(np.uint8), np.zeros(codes.shape, np.float32))
        return replace(batch, ops=ops)


def _digest(path: Path) -> int:
    return xxhash.xxh3_128_intdigest(path.read_bytes())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images")
    write_images(path, num_per_class=4)
    return path


@pytest.fixture(scope="module")
def view(folder: Path) -> View:
    return View(folder, image_table(folder))


def steps_of(view: FakeView, teacher: PixelSpec | None = None, **options: Any) -> StepBatches:
    """Steps of 6 images with 2 crops each."""
    return StepBatches(StoredCrops(view, seed=0), plan_of(12, 6, 0, m=2), SPEC, teacher, **options)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("recorded", [True, False])
def test_crops_are_the_same_wherever_they_are_resized(
    view: View, kept: bool, recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kept:
        monkeypatch.setattr(image_reader, "KEPT_BYTES", -1)
    view = replace(view, recorded=recorded)
    here, there = steps_of(view, LARGER), steps_of(view, LARGER, resize="device")
    for step in range(3):
        expected, sent = here.make(step), there.make(step)
        assert sent.pixels.shape == (0, 3, 16, 12)
        found = sent.to(CPU)
        assert found.uncut is None
        assert torch.equal(found.labels.class_ids, expected.labels.class_ids)
        assert expected.teacher_pixels is not None
        assert found.teacher_pixels is not None
        for ours, theirs in [
            (found.pixels, expected.pixels),
            (found.teacher_pixels, expected.teacher_pixels),
        ]:
            assert ours.shape == theirs.shape
            assert (ours.int() - theirs.int()).abs().max() <= 2
            assert (ours != theirs).float().mean() < 0.05


@pytest.mark.parametrize("num_workers", [0, 2])
def test_whole_images_arrive_from_workers(view: View, num_workers: int) -> None:
    made = steps_of(view, resize="device")
    found = iterate_steps(made, 0, 4, num_workers=num_workers)
    for step, batch in enumerate(found):
        assert torch.equal(batch.to(CPU).pixels, made.make(step).to(CPU).pixels)
    assert step == 3


def test_recorded_operations_are_replayed_on_every_size(view: View) -> None:
    plain = steps_of(view, LARGER).make(0)
    found = steps_of(replace(view, recorded=True), LARGER).make(0)
    source = StoredCrops(replace(view, recorded=True), seed=0)
    ((turn, rows),) = plan_of(12, 6, 0, m=2).rows(0)
    ops = source.select(rows, turn).batch.ops
    assert ops is not None
    assert ops.codes.any()
    assert plain.teacher_pixels is not None
    assert found.teacher_pixels is not None
    assert torch.equal(found.pixels, replay(plain.pixels, ops))
    assert torch.equal(found.teacher_pixels, replay(plain.teacher_pixels, ops))
    assert not torch.equal(found.pixels, plain.pixels)


@pytest.mark.parametrize("resize", ["cpu", "device"])
def test_the_parts_of_a_step_are_the_step(view: View, resize: Any) -> None:
    augment = "rand-m9-mstd0.5" if resize == "cpu" else None
    whole = steps_of(view, resize=resize, augment=augment).make(1).to(CPU)
    parts = [
        steps_of(view, resize=resize, augment=augment, part=(rank, 3)).make(1).to(CPU)
        for rank in range(3)
    ]
    assert [len(part.pixels) for part in parts] == [4, 4, 4]
    assert torch.equal(torch.cat([part.pixels for part in parts]), whole.pixels)
    assert torch.equal(torch.cat([part.labels.targets for part in parts]), whole.labels.targets)


def test_augmentation_is_the_students_own(view: View) -> None:
    plain = steps_of(view, LARGER).make(2)
    found = steps_of(view, LARGER, augment="rand-m9", seed=5).make(2)
    assert torch.equal(found.pixels, augmented(plain.pixels, np.arange(12), "rand-m9", 5, 2))
    assert not torch.equal(found.pixels, plain.pixels)
    assert plain.teacher_pixels is not None
    assert found.teacher_pixels is not None
    assert torch.equal(found.teacher_pixels, plain.teacher_pixels)


def test_augmentation_needs_crops_on_the_cpu(view: View) -> None:
    with pytest.raises(ParamsError, match=r"resize is device and augment is rand-m9.*set resize"):
        steps_of(view, resize="device", augment="rand-m9")
    given = TrainingConfig(lr=1, steps=1, resize="device", augment="rand-m9")
    with pytest.raises(ParamsError, match="set resize to auto or cpu"):
        resize_place(given, CPU)


@pytest.mark.parametrize(
    ("fields", "device", "place"),
    [
        ({}, "cpu", "cpu"),
        ({}, "cuda", "device"),
        ({"augment": "rand-m9"}, "cuda", "cpu"),
        ({"resize": "cpu"}, "cuda", "cpu"),
        ({"resize": "device"}, "cpu", "device"),
    ],
)
def test_where_crops_are_resized(fields: dict[str, Any], device: str, place: str) -> None:
    assert resize_place(TrainingConfig(lr=1, steps=1, **fields), torch.device(device)) == place


def test_huge_images_are_not_sent_whole(view: View) -> None:
    source = StoredCrops(view, seed=0)
    given, gpu = TrainingConfig(lr=1, steps=1), torch.device("cuda")
    assert resize_place(given, gpu, source) == "device"
    source.decoded_bytes = 12 * 40 * 2**20  # 40 MB each, 32 a step
    assert resize_place(given, gpu, source) == "cpu"
    asked = given.model_copy(update={"resize": "device"})
    assert resize_place(asked, gpu, source) == "device"


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("resize", ["cpu", "device"])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_another_image_of_the_same_size_is_refused(
    tmp_path: Path, kept: bool, resize: Any, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kept:
        monkeypatch.setattr(image_reader, "KEPT_BYTES", -1)
    write_images(tmp_path, num_per_class=4)
    view = Remembering(tmp_path, image_table(tmp_path))
    view.content_hashes  # noqa: B018  what was labelled
    changed = tmp_path / "green" / "1.png"
    with Image.open(changed) as image:
        turned = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turned.save(changed)
    with pytest.raises(DataError, match="is not the file that was indexed and labelled") as caught:
        list(iterate_steps(steps_of(view, resize=resize), 0, 2, num_workers=num_workers))
    assert str(caught.value).startswith(str(changed))
    assert "run `ferkd-pipeline stage index` again" in str(caught.value)


_REMEMBERED: dict[Path, NDArray[np.uint64]] = {}


class Remembering(View):
    """Its hashes are those of the files when they were first asked for."""

    @property
    def content_hashes(self) -> NDArray[np.uint64]:
        return _REMEMBERED.setdefault(self.folder, View(self.folder, self.images).content_hashes)


def flaky(times: int, code: int) -> Callable[[Path], bytes]:
    """A reader of whole files that fails so often for every file."""
    failures: dict[Path, int] = {}
    read = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        failures[path] = failures.get(path, 0) + 1
        if failures[path] <= times:
            raise OSError(code, os.strerror(code))
        return read(path)

    return read_bytes


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_reading_is_tried_again(
    view: View, code: int, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = steps_of(view).make(0)
    hashes = view.content_hashes
    pauses: list[float] = []
    monkeypatch.setattr("stages.shared.images.time.sleep", pauses.append)
    monkeypatch.setattr(View, "content_hashes", hashes)
    with monkeypatch.context() as patch:
        patch.setattr("stages.shared.images._read_regular", flaky(3, code))
        (batch,) = iterate_steps(steps_of(view), 0, 1, num_workers=num_workers)
    assert torch.equal(batch.pixels, expected.pixels)
    if not num_workers:
        assert pauses == [pytest.approx(0.1 * 4**attempt) for attempt in range(3)] * 6
    monkeypatch.setattr("stages.shared.images._read_regular", flaky(4, code))
    with pytest.raises(RetryError, match=r"reading failed 4 times.*run the same command again"):
        list(iterate_steps(steps_of(view), 0, 1, num_workers=num_workers))


class Slow(Dataset["int | RetryError"]):
    """Items that take a moment, so that a worker is at work whenever it is killed."""

    def __init__(self, act: Callable[[], None] = lambda: None) -> None:
        self._act = act

    def __getitem__(self, number: int) -> int | RetryError:
        time.sleep(0.05)
        if number == 3:
            self._act()
        return number


@contextlib.contextmanager
def ends_soon() -> Iterator[None]:
    """Fail instead of waiting for ever."""

    def stop(*_: object) -> None:
        raise AssertionError("nothing was told for 30 seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(30)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_a_killed_worker_is_told_while_it_is_waited_for() -> None:
    loading: Loading[int] = Loading(Slow(), range(1000), 2)
    assert next(loading) == 0
    os.kill(loading.worker_pids[0], signal.SIGKILL)
    with ends_soon(), pytest.raises(RetryError) as caught:
        list(loading)
    told = str(caught.value)
    assert told.startswith("a process that loads images was killed by SIGKILL")
    assert "lower num_workers or batch_size and run the same command again" in told
    assert list(loading) == []


def test_a_killed_worker_is_told_wherever_the_network_is() -> None:
    loading: Loading[int] = Loading(Slow(), range(1000), 1)
    next(loading)
    os.kill(loading.worker_pids[0], signal.SIGKILL)
    with (
        ends_soon(),
        pytest.raises(RetryError, match="was killed by SIGKILL"),
        loading.watching(),
    ):
        while True:
            time.sleep(0.01)  # a forward


def test_other_errors_of_the_network_stay_what_they_are() -> None:
    loading: Loading[int] = Loading(Slow(), range(3), 0)
    with pytest.raises(RuntimeError, match="CUDA error"), loading.watching():
        raise RuntimeError("CUDA error")
    assert list(loading) == [0, 1, 2]


def test_a_worker_that_the_system_killed_for_memory_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = tmp_path / "vmstat"
    counters.write_text("pgfault 7\noom_kill 4\n")
    monkeypatch.setattr(loader_memory, "_KERNEL_COUNTERS", counters)

    def die() -> None:
        counters.write_text("pgfault 9\noom_kill 5\n")
        os.kill(os.getpid(), signal.SIGKILL)

    with ends_soon(), pytest.raises(RetryError, match="by the system for want of memory; lower"):
        list(Loading(Slow(die), range(10), 1))


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGBUS), "make /dev/shm larger"),
        (lambda: os._exit(9), "ended with 9"),
    ],
)
def test_other_deaths_are_told(act: Callable[[], None], told: str) -> None:
    with ends_soon(), pytest.raises(RetryError, match=told):
        list(Loading(Slow(act), range(10), 1))


class Cramped(StoredCrops):
    """Leaves its process too little address space for a batch."""

    def select(self, *arguments: Any) -> Any:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, resource.RLIM_INFINITY))
        return super().select(*arguments)


def test_a_worker_without_memory_says_so(view: View) -> None:
    huge = replace(SPEC, size=(9000, 9000))
    made = StepBatches(Cramped(view, seed=0), plan_of(12, 6, 0), huge)
    before = set(Path("/dev/shm").glob("torch_*"))
    with ends_soon(), pytest.raises(RetryError, match="no memory for a batch of images"):
        list(iterate_steps(made, 0, 1, num_workers=1))
    left = set(Path("/dev/shm").glob("torch_*")) - before
    assert not any(file.stat().st_size > 2**30 for file in left), "others' files are small"


class InWorker(Dataset["bool | RetryError"]):
    """Whether memory for a batch is shared."""

    def __getitem__(self, number: int) -> bool:
        return bool(new_bytes((3, 5)).is_shared())  # type: ignore[no-untyped-call]


def test_workers_write_to_memory_that_is_shared() -> None:
    assert list(Loading(InWorker(), range(2), 1)) == [True, True]
    assert list(Loading(InWorker(), range(2), 0)) == [False, False]


@pytest.mark.parametrize(
    ("batch_bytes", "num_workers", "free", "ahead"),
    [
        (40 * 2**20, 4, 2**40, 4),
        (200 * 2**20, 8, 2**40, 2),
        (2**30, 16, 2**40, 1),
        (40 * 2**20, 4, 2**30, 3),
        (0, 4, 2**40, 4),
    ],
)
def test_large_batches_are_not_made_far_ahead(
    batch_bytes: int, num_workers: int, free: int, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": free})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert batches_ahead(batch_bytes, num_workers) == ahead


def test_the_size_of_a_batch_is_known_before_it_is_made(view: View) -> None:
    cpu, device = steps_of(view, LARGER), steps_of(view, LARGER, resize="device", part=(1, 2))
    batch = cpu.make(0)
    assert batch.teacher_pixels is not None
    assert cpu.mean_bytes == batch.pixels.numel() + batch.teacher_pixels.numel()
    uncut = device.make(0).uncut
    assert uncut is not None
    assert device.mean_bytes == pytest.approx(uncut.pixels.numel(), rel=0.1)


def test_waiting_is_counted() -> None:
    loading: Loading[int] = Loading(Slow(), range(4), 0)
    assert loading.waited_seconds == 0
    assert list(loading) == [0, 1, 2, 3]
    assert loading.waited_seconds >= 4 * 0.05


def test_workers_end_with_the_items() -> None:
    loading: Loading[int] = Loading(Slow(), range(3), 2)
    assert loading.worker_pids == []
    next(loading)
    pids = loading.worker_pids
    assert len(pids) == 2
    assert list(loading) == [1, 2]
    assert next(loading, None) is None
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
