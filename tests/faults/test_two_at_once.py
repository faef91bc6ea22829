"""Two processes at once: one writer wins, and a reader sees the old or the new, never both."""

import itertools
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stages.train.run  # noqa: F401  before children are forked: it takes seconds
from ferkd_pipeline import cli
from store import lock, tables
from store.errors import DataError, RetryError
from store.notebook.label_store import LabelStore
from store.view.build import plan_view
from tests.children import end_of, kill_after, start, start_child
from tests.faults.commands import CASES as ALL_CASES
from tests.faults.commands import STUDENT, Case, make_all
from tests.faults.soak import rounds
from tests.world import NUM_IMAGES, Changes, Project, Tree, write_images

WHOLE = [case for case in ALL_CASES if case.name in {"sample", "infer", "calibrate", "evaluate"}]
AGAIN = 75


@pytest.mark.parametrize("case", WHOLE, ids=[case.name for case in WHOLE])
def test_a_stage_that_another_process_runs(own: Project, case: Case) -> None:
    """The other one writes nothing, says who is at work, and comes back later."""
    if case.name == "evaluate":
        make_all(own)
    case.forget()
    before = own.tree("labels", "models", ".")
    with lock.hold(own.layout.stage_lock(case.command[1])):
        assert end_of(start_child(*case.command)) == AGAIN
    after = own.tree("labels", "models", ".")
    assert {name for name in after if not name.startswith(".ferkd/locks/")} == before.keys() - {
        name for name in before if name.startswith(".ferkd/locks/")
    }
    assert end_of(start_child(*case.command)) == 0


def test_two_processes_run_a_stage(own: Project) -> None:
    expected = own.tree()
    for number in range(rounds(1)):
        shutil.rmtree("labels/calibrated")
        children = [start_child("stage", "calibrate") for _ in range(3)]
        codes = {end_of(child) for child in children}
        assert 0 in codes and codes <= {0, AGAIN}, number
        assert own.tree() == expected


def test_two_processes_with_other_parameters(own: Project) -> None:
    """Shards of one of them; what they say of themselves fits."""
    made = dict[int, Tree]()
    for seed in (1, 2):
        own.write_params(sample={"seed": seed})
        assert cli.main(["stage", "sample"]) == 0
        made[seed] = own.tree("labels/crops")
        shutil.copy("params.yaml", f"params-{seed}.yaml")
    moments = random.Random(0)
    for number in range(rounds(2)):
        children = []
        for seed in moments.sample((1, 2), 2):
            children.append(
                start_child("stage", "sample", "--force", "--params", f"params-{seed}.yaml")
            )
            time.sleep(moments.uniform(0, 0.1))
        codes = [end_of(child) for child in children]
        assert 0 in codes and set(codes) <= {0, AGAIN}, number
        assert own.tree("labels/crops") in made.values(), (number, codes)


def test_the_builder_of_a_view_is_killed_while_another_waits(own: Project) -> None:
    expected = view_of(own)
    for number in range(rounds(2)):
        shutil.rmtree(".ferkd/view")
        first, second = start(lambda: opened(own)), start(lambda: opened(own))
        kill_after(first, random.Random(number).uniform(0, 0.05))
        assert end_of(second) == 0
        assert view_of(own) == expected, number
        assert not list(Path(".ferkd/view").glob(".*.tmp"))


def opened(project: Project) -> int:
    view = plan_view(project.layout, 3, Path("images"), "ferkd").open()
    return 0 if view.num_images else 1


def view_of(project: Project) -> list[bytes]:
    """All labels; how a view numbers its values depends on the order of its builder's threads."""
    view = plan_view(project.layout, 3, Path("images"), "ferkd").open()
    rows = np.arange(view.num_images)
    batch = view.gather(rows, np.tile(np.arange(view.num_crops), (len(rows), 1)))
    found = (batch.boxes, batch.flips, batch.class_ids, batch.weights, batch.tail, batch.targets)
    return [np.asarray(each).tobytes() for each in found]


class Writer:
    """A process that publishes a shard's labels again and again, of two kinds in turns."""

    def __init__(
        self, project: Project, kinds: tuple[Changes, ...], shard: str = "1", **others: Any
    ) -> None:
        for number, changes in enumerate(kinds):
            project.write_params(compress=changes, **others)
            shutil.copy("params.yaml", f"params-{number}.yaml")
        self.pid = start(lambda: self._run(shard))

    @staticmethod
    def _run(shard: str) -> int:
        for number in itertools.cycle((0, 1)):
            cli.main(["stage", "compress", "--shard", shard, "--params", f"params-{number}.yaml"])
            time.sleep(0.02)
        return 1

    def end(self) -> None:
        assert kill_after(self.pid, 0) == -signal.SIGKILL


KINDS = ({"k": 1}, {"k": 2})


def digest(frame: Any) -> bytes:
    return str(frame.to_csv()).encode()


READERS: dict[str, Callable[[], bytes]] = {
    "LabelStore.soft": lambda: digest(LabelStore("labels").soft(1)),
    "LabelStore.labels": lambda: digest(LabelStore("labels").labels(1)),
    "LabelStore.image": lambda: digest(LabelStore("labels").image(NUM_IMAGES // 2)),
    "read_table": lambda: digest(
        tables.read_table(Path("labels/soft/part-00001.parquet")).to_pandas()
    ),
}


def test_readers_while_a_writer_replaces(own: Project) -> None:
    allowed = {name: set[bytes]() for name in READERS}
    for changes in KINDS:
        own.run("compress", shards=(1,), compress=changes)
        for name, read in READERS.items():
            allowed[name].add(read())
    writer = Writer(own, KINDS)
    seen, refused = dict.fromkeys(READERS, 0), list[str]()
    try:
        end = time.monotonic() + rounds(1)
        while time.monotonic() < end:
            for name, read in READERS.items():
                try:
                    found = read()
                except (DataError, RetryError) as error:
                    refused.append(str(error))
                else:
                    assert found in allowed[name], name
                    seen[name] += 1
    finally:
        writer.end()
    print(f"read {seen}, refused {len(refused)} times")
    assert all(seen.values())
    allowed_words = ("is missing", "is being written")
    assert not [told for told in refused if not any(words in told for words in allowed_words)]


def test_a_training_while_a_writer_replaces(own: Project) -> None:
    """It learns from the one or the other kind of labels, or says that they change."""
    write_images(Path("val"), num=1, seed=2)
    others: dict[str, Any] = {
        "store": {"num_shards": 1},  # so that each of the two is a whole store
        "train": {**STUDENT, "steps": 1, "evaluation": None},
    }
    own.run("sample", "infer", **others)
    students = set[bytes]()
    for changes in KINDS:
        own.write_params(compress=changes, **others)
        assert cli.main(["stage", "compress"]) == 0
        assert end_of(start_child("stage", "train")) == 0
        students.add(Path("models/student/model.safetensors").read_bytes())
    assert len(students) == 2
    shutil.copy("params.yaml", "params-train.yaml")
    writer, codes = Writer(own, KINDS, "0", **others), list[int]()
    try:
        while len(codes) < rounds(2) or (0 not in codes and len(codes) < 50):
            for folder in ("models/student", ".ferkd/results", ".ferkd/done", ".ferkd/view"):
                shutil.rmtree(folder, ignore_errors=True)
            codes.append(end_of(start_child("stage", "train", "--params", "params-train.yaml")))
            if codes[-1] == 0:
                assert Path("models/student/model.safetensors").read_bytes() in students
    finally:
        writer.end()
    print(f"trained with codes {codes}")
    assert 0 in codes and set(codes) <= {0, 3, AGAIN}


def test_the_store_is_whole_after_all_that(own: Project) -> None:
    expected = own.tree()
    for number in range(rounds(1)):
        writer = Writer(own, KINDS)
        time.sleep(random.Random(number).uniform(0.05, 0.4))
        writer.end()
        own.write_params()
        assert cli.main(["stage", "compress"]) == 0
        assert own.tree() == expected, number
