"""Train every student of the study that is not finished; goes on after an interruption.

python -m experiments.students
python -m experiments.students --only 'clean/ferkd_*' --seeds 0 1
python -m experiments.students --dry-run
"""

import argparse
import fnmatch
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from experiments import command, student
from experiments.study import Study
from stages.shared.contract import Json
from store.errors import FerkdError, ParamsError, RetryError

Cell = tuple[str, str, int]

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def main(argv: Sequence[str] | None = None) -> int:
    """Run as the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.students", description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="students at a time (%(default)s)")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="WORLD/ARM", help="patterns")
    parser.add_argument("--seeds", nargs="+", type=int, help="only these of the study's seeds")
    parser.add_argument("--dry-run", action="store_true", help="only say how many are left")
    return command.run(parser, argv, _run)


def _run(given: argparse.Namespace, found: Study) -> None:
    cells = choose(found, given.only, given.seeds)
    left = unfinished(found, cells)
    print(f"{len(cells)} students, {len(left)} to train", file=sys.stderr, flush=True)
    if left and not given.dry_run:
        train_all(found, left, given.jobs)


def choose(found: Study, patterns: Sequence[str], seeds: Sequence[int] | None) -> list[Cell]:
    """Return the students that the patterns and seeds name, in the study's order.

    Raises:
        ParamsError: there are none.
    """
    cells = [
        (world, arm, seed)
        for world, arm, seed in found.cells()
        if any(fnmatch.fnmatchcase(f"{world}/{arm}", pattern) for pattern in patterns)
        and (seeds is None or seed in seeds)
    ]
    if not cells:
        raise ParamsError(f"no student is named by {' '.join(patterns)}, seeds {seeds}")
    return cells


def unfinished(found: Study, cells: Sequence[Cell]) -> list[Cell]:
    """Check every student's inputs, before any is trained; return those that are not finished.

    Raises:
        FerkdError: a parameter or an input is wrong; the message names the student.
    """
    left = []
    for world, arm, seed in cells:
        try:
            ready = student.prepare(found, world, arm, seed)
        except FerkdError as error:
            raise type(error)(f"{world}/{arm}: {error}") from error
        if not student.is_done(found.student_file(world, arm, seed), ready.key):
            left.append((world, arm, seed))
    return left


def train_all(found: Study, cells: Sequence[Cell], jobs: int) -> None:
    """Train students in processes of one thread each.

    Raises:
        FerkdError: a student failed; those that others are at are finished first.
        RetryError: a process died.
    """
    for name in THREADS:
        os.environ[name] = "1"  # before the processes start: torch reads it once
    begun = time.perf_counter()
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_one_thread) as pool:
        futures = {pool.submit(student.train, found, *cell): cell for cell in cells}
        try:
            for number, future in enumerate(as_completed(futures), 1):
                said = _finished(future, futures[future])
                left = (time.perf_counter() - begun) / number * (len(cells) - number)
                line = f"{number} of {len(cells)}: {said}; about {left / 60:.0f} min left"
                print(line, file=sys.stderr, flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _finished(future: Future[dict[str, Json]], cell: Cell) -> str:
    """Say what a student reached, or whose failure it was."""
    world, arm, seed = cell
    try:
        val = future.result()["val"]
    except FerkdError as error:
        raise type(error)(f"{world}/{arm}, seed {seed}: {error}") from error
    except BrokenProcessPool:
        raise RetryError(
            "a process that trains died, perhaps for want of memory; run again: it goes on"
        ) from None
    assert isinstance(val, float)
    return f"{world}/{arm}, seed {seed}: {val:.1%} on val"


def _one_thread() -> None:
    import torch  # only in the processes that train

    torch.set_num_threads(1)


if __name__ == "__main__":
    sys.exit(main())
