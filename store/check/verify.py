"""Checking every byte of a store, and that its parts fit together.

Nothing in the usual stack finds a flipped bit: DVC, pandas and Zarr returned wrong data silently
when tried. Every file is hashed and compared with its entry, the entries with the manifest, what
each file says of itself with its entry, and the recorded lineage of each part with what its inputs
are now. Nothing is parsed before its hash was found right.
"""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from store import images
from store.check import completeness, consistency, contents, self_description
from store.check.damage import UNREADABLE, Damage, of_entry, part_of, remake_command
from store.check.entry_check import Found, read_artifact, unreadable
from store.check.expected import Expected
from store.check.strays import strays
from store.entries import Entry, FileRecord
from store.errors import DataError, ParamsError
from store.images import ImageTable
from store.layout import Layout, list_artifacts
from store.progress import Progress
from store.recorded import MISSING, hashed_before, problem_of

__all__ = ["Damage", "Progress", "VerifyResult", "list_artifacts", "verify"]

T = TypeVar("T")
R = TypeVar("R")

_MOST_THREADS = 8


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What was looked at and what was found."""

    num_files: int
    num_bytes: int
    damages: list[Damage]
    notes: list[str] = field(default_factory=list)
    """What is not as it might be, and is no damage."""


@dataclass(frozen=True, slots=True)
class _Job:
    """One file that an entry lists."""

    entry: Entry
    path: Path
    record: FileRecord


def verify(root: Path, progress: Progress, *, deep: bool = False) -> VerifyResult:
    """Check every file of the store at ``root``.

    With ``deep`` every value is read too: rows in order, probabilities that fall, the digest of the
    rows. The bytes are those that were written in any case; it finds what was written wrong.

    Raises:
        DataError: there is no store.
    """
    layout = Layout.beside(root)
    names = list_artifacts(layout)
    if not names:
        raise DataError(f"{root} holds no label store; run `ferkd-pipeline stage index` first")
    found = Found()
    for name in names:
        read_artifact(layout, name, found)
    jobs = [
        _Job(entry, layout.folder(entry.artifact) / name, record)
        for entry in (*found.entries, *found.lost)
        for name, record in sorted(entry.files.items())
    ]
    wrong = _check_files(jobs, progress)
    found.damages += wrong.values()
    found.damages += _listed_twice(layout, jobs)
    found.damages += strays(layout, names, {job.path for job in jobs})
    whole = _without(found.entries, [job.entry for job in jobs if job.path in wrong])
    with hashed_before():
        _check_fit(layout, names, found, whole, progress if deep else None)
    num_bytes = sum(job.record.num_bytes for job in jobs)
    notes = completeness.notes(layout, found.entries, names)
    return VerifyResult(len(jobs), num_bytes, found.damages, notes)


def _check_files(jobs: Sequence[_Job], progress: Progress) -> dict[Path, Damage]:
    """Compare sizes and SHA-256 of all files, the largest first so that no thread ends alone."""
    progress.start("verify", sum(job.record.num_bytes for job in jobs), "bytes")
    lock = threading.Lock()

    def check(job: _Job) -> tuple[Path, Damage] | None:
        told = 0

        def tell(amount: int) -> None:
            nonlocal told
            told += amount
            with lock:
                progress.advance(amount)

        damage = _check_file(job, tell)
        if told != job.record.num_bytes:  # the bar ends where it should, whatever was not read
            tell(job.record.num_bytes - told)
        return (job.path, damage) if damage else None

    ordered = sorted(jobs, key=lambda job: -job.record.num_bytes)
    wrong = dict(result for result in _in_threads(check, ordered) if result)
    return {job.path: wrong[job.path] for job in jobs if job.path in wrong}


def _in_threads(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    threads = min(_MOST_THREADS, max(2, os.cpu_count() or 2))

    def run(item: T) -> R:
        with hashed_before():  # a thread of its own knows nothing of the caller's
            return work(item)

    with ThreadPoolExecutor(threads, thread_name_prefix="verify") as pool:
        return list(pool.map(run, items))


def _check_file(job: _Job, tell: Callable[[int], object]) -> Damage | None:
    make = remake_command(job.entry.artifact, job.entry.stem)
    try:
        kind = problem_of(job.path, job.record, tell)
    except OSError as error:
        return unreadable(job.path, error, part_of(job.entry))
    if kind is None:
        return None
    remedy = f"run `{make}`" if kind == MISSING else f"delete it and run `{make}`"
    return Damage(str(job.path), kind, remedy, part_of(job.entry))


def _listed_twice(layout: Layout, jobs: Sequence[_Job]) -> Iterator[Damage]:
    counts = Counter(job.path for job in jobs)
    for job in jobs:
        if counts[job.path] > 1:
            yield of_entry(layout, job.entry, f"{job.path.name} is listed by another entry too")


def _without(listed: list[Entry], damaged: list[Entry]) -> list[Entry]:
    parts = {part_of(entry) for entry in damaged}
    return [entry for entry in listed if part_of(entry) not in parts]


def _check_fit(
    layout: Layout, names: list[str], found: Found, whole: list[Entry], deep: Progress | None
) -> None:
    """Everything beyond bytes, of the parts whose bytes are right; call it in `hashed_before`."""
    for damages in _in_threads(partial(self_description.check, layout), whole):
        found.damages += damages
    blamed = {damage.part for damage in found.damages}
    whole = [entry for entry in whole if part_of(entry) not in blamed]
    table = _images_of(layout, whole, found)
    missing = completeness.missing_artifacts
    found.damages += missing(layout, found.entries, names, needs_images=deep is not None)
    total = completeness.num_shards(found.entries, None if table is None else len(table))
    found.damages += completeness.check(layout, found.entries, names, total, blamed)
    found.damages += consistency.check_entries(layout, whole, table, total)
    # Until a shard's bytes are mended, what its rows say of each other would mislead.
    hurt = {part.split("/")[-1] for part in blamed}
    shards: dict[str, list[Entry]] = {}
    for entry in whole:
        if entry.stem not in hurt:
            shards.setdefault(entry.stem, []).append(entry)

    def check_rejects(own: list[Entry]) -> list[Damage]:
        return list(consistency.check_rejects(layout, own))

    for damages in _in_threads(check_rejects, list(shards.values())):
        found.damages += damages
    if deep is not None and table is not None:
        found.damages += _check_rows(layout, whole, table, total, deep)


def _images_of(layout: Layout, whole: list[Entry], found: Found) -> ImageTable | None:
    own = [entry for entry in whole if entry.artifact == "images" and entry.stem == images.STEM]
    try:
        return images.load(layout) if own else None
    except UNREADABLE as error:
        found.damages.append(of_entry(layout, own[0], f"cannot be read ({error})"))
        return None


def _check_rows(
    layout: Layout, whole: list[Entry], table: ImageTable, total: int, progress: Progress
) -> list[Damage]:
    """Read every value of every part, several parts at once."""
    progress.start("verify rows", sum(entry.rows for entry in whole), "rows")
    num_crops, lock = completeness.crops_an_image(whole) or 1, threading.Lock()

    def check(entry: Entry) -> list[Damage]:
        shard = completeness.shard_of(entry.stem)
        try:
            bounds = (
                (0, len(table))
                if shard is None
                else (images.shard_bounds(len(table), total, shard))
            )
        except ParamsError:  # told already: of another number of shards
            bounds = None
        wrong: list[Damage] = []
        if bounds is not None:
            wrong = contents.check(layout, entry, Expected(*bounds, num_crops, table))
        with lock:
            progress.advance(entry.rows)
        return wrong

    return [damage for wrong in _in_threads(check, whole) for damage in wrong]
