"""Peak memory stays flat as the data grows tenfold; what runs out of memory says so."""

import contextlib
import gc
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from torch.utils.data import Dataset, get_worker_info

from ferkd_pipeline import cli, stage_table
from stages.infer import decoded
from stages.shared import images
from stages.shared.training import image_reader, loading
from stages.shared.training.loader_memory import new_bytes, num_memory_kills
from store.errors import RetryError
from store.layout import Layout
from store.view.build import plan_view
from tests.faults.cgroups import limited_group
from tests.faults.disks import command
from tests.faults.peak_memory import grown_by
from tests.faults.soak import rounds
from tests.world import CLASSES, NETWORK, PARAMS, SHARDED, Project, merged, write_teacher

IS_SOAK = rounds(1) > 1
FEW, MANY = (40, 400) if IS_SOAK else (5, 50)
SIDE = 512
DECODED = 3 * SIDE * SIDE
"""Bytes of one image: all of MANY at once would be 39 MB, 315 MB in a soak."""
BOUND = 13 * 2**20
"""More than the noise of an allocator, a third of what holding all images would take."""

MODEL: dict[str, Any] = {**NETWORK, "input_size": 32}
TRAINING: dict[str, Any] = {
    "model": MODEL,
    "lr": 0.01,
    "steps": MANY * 2 // 8,  # with few images more passes: memory warms up over the steps
    "batch_size": 8,
    "crops_per_image": 2,
    "device": "cpu",
    "checkpoint_minutes": None,
}
VALUES: dict[str, Any] = merged(
    PARAMS,
    {
        "store": {"num_shards": 1},
        "sample": {"num_crops": 2},
        "infer": {"block_images": 8},
        "calibrate": {"ferkd": PARAMS["calibrate"]["ferkd"], "shares": None},
        "train": TRAINING,
        "evaluate": {"sets": {"val": "images"}, "batch_size": 8, "device": "cpu"},
        "score": {"loss": {"estimator": "loss", "proxy": TRAINING}},
    },
)
STAGES = ("index", "sample", "infer", "compress", "score", "calibrate", "train", "evaluate")


def write_large_images(folder: Path, count: int) -> None:
    """Two classes of images of one size; ten of them are different."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / CLASSES[number % 2] / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < 10:
            small = rng.integers(0, 255, (16, 16, 3)).astype(np.uint8)
            Image.fromarray(small).resize((SIDE, SIDE)).save(path, quality=60)
        else:
            first = folder / CLASSES[number % 2] / f"{number % 10:05d}.jpg"
            path.write_bytes(first.read_bytes())


for _info in stage_table.STAGES:  # before children are forked: each would take seconds for it
    importlib.import_module(f"{_info.module}.run")


def stage(name: str) -> None:
    assert cli.main(["stage", name]) == 0, name


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, int]]:
    """What each stage grew by, with few images and with ten times as many."""
    found: dict[str, list[int]] = {}
    patch = pytest.MonkeyPatch()
    patch.setattr(image_reader, "KEPT_BYTES", 0)  # else so much of small sets is kept, on purpose
    gc.collect()
    gc.freeze()  # `grown_by` collects, too: it need not go through all that was there each time
    for count in (FEW, MANY):
        folder = tmp_path_factory.mktemp(f"images{count}")
        with contextlib.chdir(folder):
            write_large_images(Path("images"), count)
            write_teacher(Path("models/teacher"), num_classes=2)
            for name in STAGES:
                Path("params.yaml").write_text(json.dumps(VALUES))
                found.setdefault(name, []).append(grown_by(partial(stage, name)))
            workers = merged(VALUES, {"train": {"num_workers": 2, "seed": 1}})
            Path("params.yaml").write_text(json.dumps(workers))
            found.setdefault("train with workers", []).append(grown_by(partial(stage, "train")))
            shutil.rmtree(".ferkd/view")
            Path("params.yaml").write_text(json.dumps(merged(VALUES, {"train": {"seed": 2}})))
            found.setdefault("view", []).append(grown_by(open_view))
    gc.unfreeze()
    patch.undo()
    return {name: (few, many) for name, (few, many) in found.items()}


def open_view() -> None:
    plan_view(Layout.beside(Path("labels")), 1, Path("images"), "ferkd").open()


@pytest.mark.parametrize("name", [*STAGES, "train with workers", "view"])
def test_ten_times_the_images(grown: dict[str, tuple[int, int]], name: str) -> None:
    few, many = grown[name]
    assert many - few < BOUND, f"{name}: {few / 2**20:.0f} MB, then {many / 2**20:.0f} MB"


def test_holding_all_images_would_be_seen() -> None:
    """The bound is one that a stage which keeps what it decoded goes over."""
    assert grown_by(lambda: [np.ones(DECODED, np.uint8) for _ in range(MANY)]) > 2.9 * BOUND


@pytest.mark.skipif(not IS_SOAK, reason="small tables show nothing; in a soak")
def test_ten_times_the_crops(own: Project) -> None:
    """Of 25 images 40 crops, then 400, all in one shard."""

    found: dict[str, list[int]] = {}
    base: dict[str, Any] = {"store": {"num_shards": 1}, "infer": {"batch_size": 64}}
    for count in (40, 400):
        changes = merged(base, {"sample": {"num_crops": count}})
        for name in SHARDED:

            def work(name: str = name, changes: dict[str, Any] = changes) -> None:
                own.run(name, **changes)

            found.setdefault(name, []).append(grown_by(work))
    for name, (few, many) in found.items():
        assert many - few < 25 * 2**20, f"{name}: {few / 2**20:.1f}, then {many / 2**20:.1f} MB"


def child_with_limit(arguments: list[str], spare: int) -> tuple[int, str]:
    """Run a command that may map ``spare`` bytes more; its exit code and what it said."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        code = 99
        try:
            said = open("said.txt", "w")  # noqa: SIM115
            sys.stdout = sys.stderr = said
            mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (mapped + spare,) * 2)
            code = cli.main(arguments)
            said.flush()
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), Path("said.txt").read_text()


def test_memory_that_runs_out_while_labelling(own: Project) -> None:
    """infer decodes in threads: a batch that does not fit is told as that, and nothing is left."""
    expected = own.tree()
    own.write_params(infer={"batch_size": 65536, "teacher": {"input_size": 512}})
    code, said = child_with_limit(["stage", "infer"], 2**30)
    assert code == 1, said
    assert "out of memory: lower batch_size or num_workers" in said
    assert "Unexpected" not in said
    assert "Traceback" not in said
    own.write_params()
    own.run("infer")
    assert own.tree() == expected


def test_a_thread_without_memory(
    own: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No image is taken for a damaged one because there was no memory to decode it."""
    expected = own.tree()

    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    shutil.rmtree("labels/predictions")
    shutil.rmtree(".ferkd", ignore_errors=True)
    own.write_params()
    for module, name in ((decoded, "decode"), (images, "_to_rgb"), (simplejpeg, "decode_jpeg")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, no_memory)
            assert cli.main(["stage", "infer"]) == 1
        assert "Error: out of memory: lower batch_size or num_workers" in capsys.readouterr().err
        assert not list(Path("labels/predictions").glob("*.json"))
    own.run("infer")
    assert own.tree() == expected


@pytest.mark.parametrize("is_memory", [True, False])
def test_a_worker_that_the_kernel_killed(
    own: Project, monkeypatch: pytest.MonkeyPatch, is_memory: bool
) -> None:
    """SIGKILL, and the kernel's counter went up: told as want of memory, to be tried again."""
    killed = iter([0, int(is_memory)])
    monkeypatch.setattr(loading, "num_memory_kills", lambda: next(killed))
    items: loading.Loading[int] = loading.Loading(_Dying(), range(4), 1)
    with pytest.raises(RetryError) as caught:
        for _ in items:
            pass
    told = str(caught.value)
    assert ("was killed by the system for want of memory" in told) is is_memory
    assert "lower num_workers or batch_size and run the same command again" in told


class _Dying(Dataset[int]):
    """The second item kills its worker, as the kernel does."""

    def __getitem__(self, number: int) -> int:
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return number


@pytest.mark.parametrize("place", ["decoding", "handing over"])
def test_a_worker_beyond_a_real_limit(
    own: Project, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel kills a process that decodes, and the training says so; run again, it is done."""
    own.write_params(train={**TRAINING, "model": {**NETWORK, "input_size": 16}, "num_workers": 1})
    with limited_group(24 * 2**20) as procs:

        def hungry(path: Path) -> bytes:
            if get_worker_info() is not None and not Path("fed").exists():
                Path("fed").touch()
                procs.write_text("0")
                if place == "decoding":
                    np.ones(64 * 2**20, np.uint8)
                else:
                    new_bytes((64 * 2**20,)).fill_(1)
            return images.read_bytes(path)

        monkeypatch.setattr(image_reader, "read_bytes", hungry)
        ended = command("stage", "train")
    assert ended.code == 75, ended.told
    assert "a process that loads images was killed by the system for want of memory" in ended.line
    assert "lower num_workers or batch_size and run the same command again" in ended.line
    assert not Path("models/student").exists()
    assert command("stage", "train").code == 0


def test_the_kernels_counter_is_there() -> None:
    """Where there is none, a kill is told without its cause."""
    counter = Path("/proc/vmstat")
    assert num_memory_kills() >= 0
    assert not counter.exists() or "oom_kill" in counter.read_text()
