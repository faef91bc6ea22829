"""Gather what the students reached, and facts about their labels, in small files.

python -m experiments.results
python -m experiments.results --partial     leave out what is not finished
"""

import argparse
import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from experiments import command, facts, student, timing
from experiments.facts import Row
from experiments.study import Study
from experiments.world import SECONDS
from store.atomic import write_bytes
from store.errors import DataError, FerkdError


def main(argv: Sequence[str] | None = None) -> int:
    """Run as the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.results", description=__doc__)
    parser.add_argument("--partial", action="store_true", help="leave out what is not finished")
    return command.run(parser, argv, lambda given, found: gather(found, given.partial))


def gather(found: Study, partial: bool = False) -> None:
    """Write students, curves, seconds, stages, labels, noise, mixing and teachers as CSV.

    ``seconds.csv`` and ``stages.csv`` differ from run to run; the others do not.

    Raises:
        DataError: a student is not finished, and ``partial`` is not set.
    """
    kept = _students(found, partial)
    write(found, "students", _finals(kept))
    write(found, "curves", _curves(kept))
    in_world = [(world, arm) for world in found.worlds for arm in found.arms_of(world)]
    write(found, "stages", _stages(found))
    # The crops of an image, the loss and mixing leave the stored labels as they are.
    plain = [pair for pair in in_world if not found.arms[pair[1]].train]
    write(found, "labels", _all(facts.labels, found, plain, partial, ("online",)))
    stepped = [pair for pair in in_world if _has_step(found, pair[1], "noise")]
    write(found, "noise", _all(facts.noise, found, stepped, partial))
    mixed = [pair for pair in in_world if "mixing" in found.arms[pair[1]].groups]
    write(found, "mixing", _all(facts.mixing, found, mixed, partial))
    write(found, "teachers", [facts.teacher(found, world) for world in _made(found, partial)])
    if found.first_world in _made(found, partial):
        write(found, "seconds", timing.rows(found))


def write(found: Study, name: str, rows: Iterable[Row]) -> None:
    """Write one file of results; the head has every key, in the order of their first row."""
    rows = list(rows)
    head = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, head, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    found.results.mkdir(parents=True, exist_ok=True)
    write_bytes(found.results / f"{name}.csv", out.getvalue().encode())


Kept = list[tuple[str, str, int, dict[str, Any]]]


def _students(found: Study, partial: bool) -> Kept:
    kept: Kept = []
    missing = []
    for world, arm, seed in found.cells():
        path = found.student_file(world, arm, seed)
        try:
            done = student.is_done(path, student.prepare(found, world, arm, seed).key)
        except FerkdError:
            if not partial:
                raise
            done = False
        if done:
            kept.append((world, arm, seed, student.read(path)))
        else:
            missing.append(f"{world}/{arm} seed {seed}")
    if missing and not partial:
        raise DataError(
            f"{len(missing)} students are not finished, such as {missing[0]}; run "
            "`python -m experiments.students`"
        )
    order = list(found.worlds)
    return sorted(kept, key=lambda each: (order.index(each[0]), list(found.arms).index(each[1])))


def _finals(kept: Kept) -> Iterable[Row]:
    for world, arm, seed, figures in kept:
        row: Row = {"world": world, "arm": arm, "seed": seed}
        yield row | {split: round(figures[split], 6) for split in ("val", "test")}


def _curves(kept: Kept) -> Iterable[Row]:
    for world, arm, seed, figures in kept:
        for step, top1 in figures["curve"]:
            yield {"world": world, "arm": arm, "seed": seed, "step": step, "val": round(top1, 6)}


def _stages(found: Study) -> Iterable[Row]:
    """How long the commands took that made teachers and worlds."""
    folders = [found.teacher_folder(name) for name in found.teachers]
    folders += [found.world_folder(name) for name in found.worlds]
    for folder in folders:
        path = folder / SECONDS
        kept: dict[str, float] = json.loads(path.read_bytes()) if path.exists() else {}
        for name, seconds in kept.items():
            project = f"{folder.parent.name}/{folder.name}"
            yield {"project": project, "stage": name, "seconds": seconds}


def _all(
    fact: Callable[[Study, str, str], Row],
    found: Study,
    pairs: Sequence[tuple[str, str]],
    partial: bool,
    but: Sequence[str] = (),
) -> Iterable[Row]:
    for world, arm in pairs:
        if arm in but:
            continue
        try:
            yield fact(found, world, arm)
        except FerkdError:
            if not partial:
                raise


def _made(found: Study, partial: bool) -> list[str]:
    return [name for name in found.worlds if not partial or found.world_folder(name).is_dir()]


def _has_step(found: Study, arm: str, kind: str) -> bool:
    return any(step.get("step") == kind for step in found.arms[arm].steps)


if __name__ == "__main__":
    sys.exit(main())
