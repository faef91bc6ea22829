"""A stage on a Ray cluster: each shard is a task, and this process only keeps the lock and counts.

Nothing of a stage is done here, since this may be a machine without a GPU; where it has one, the
teacher of a task needs it. What nodes share is the project's folder, and nothing else.
"""

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from ferkd_pipeline import fingerprints, stage_table
from ferkd_pipeline.engine import ShardOutcome, StageOutcome
from ferkd_pipeline.executors import phases, ray_cluster, ray_tasks
from ferkd_pipeline.executors.overview import News, Overview
from ferkd_pipeline.executors.phases import Prepared, Shards, Todo
from ferkd_pipeline.executors.ray_tasks import Call, Home, Returned
from ferkd_pipeline.executors.schedule import (
    NOTHING_YET,
    QUIET_SECONDS,
    WAIT_SECONDS,
    Answer,
    Done,
    Lost,
    Schedule,
)
from ferkd_pipeline.failures import Failure, error_of
from ferkd_pipeline.params import Params
from ferkd_pipeline.whole.common import layout_of
from stages.shared.contract import Progress
from store import lock
from store.errors import FerkdError, ParamsError, RetryError

GENTLE_SECONDS = 1.5
"""After Ctrl-C, tasks may take so long to leave what they hold; then their processes are ended."""
_MAX_PHASE_LOST = 3
_NO_SHARD = -1


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says about the cluster."""

    address: str | None = None
    """Of a running one."""
    cpus: int | None = None
    """CPUs that each task takes."""


def run_stage(
    params: Params,
    name: str,
    shards: Shards,
    *,
    progress: Progress,
    force: bool = False,
    options: Options,
) -> StageOutcome:
    """Run a stage as `engine.run_stage` does, its shards on a Ray cluster.

    Raises:
        ParamsError: the stage has no shards, Ray is missing, or no node has what a task asks for.
        RetryError: another process runs the same stage, or shards whose answer was that.
        FerkdError: see the stage; the shards that did not fail are complete.
    """
    if not stage_table.find(name).sharded:
        raise ParamsError(f"--executor ray: stage {name} has no shards; run it without --executor")
    params.section(name)
    with contextlib.ExitStack() as stack:
        if shards is None:
            stack.enter_context(lock.hold(layout_of(params).stage_lock(name)))
        home = stack.enter_context(_home(params))
        ray = stack.enter_context(ray_cluster.connected(options.address))
        needs = ray_cluster.task_options(params, name, ray.nodes(), options.cpus)
        pool = stack.enter_context(_pool(ray, params, name, force, home, needs))
        return _run(pool, params, name, shards, progress, force)


def _run(
    pool: "RayPool", params: Params, name: str, shards: Shards, progress: Progress, force: bool
) -> StageOutcome:
    overview = Overview(progress)
    prepared: Prepared = pool.call(
        partial(phases.prepare, params, name, shards, force=force), name, overview
    )
    done: Sequence[ShardOutcome] = ()
    if prepared.todo:
        count, what = len(prepared.todo), f"{name} on {pool.told}"
        label = f"{what}: {count} {'shard' if count == 1 else 'shards'}"
        tasks = [(todo.label, todo.stem, todo.num_crops) for todo in prepared.todo]
        overview.start(label, tasks)
        done = Schedule(pool, overview).run(prepared.todo)
    finish = partial(phases.finish, params, name, shards, tuple(done))
    outcome: StageOutcome = pool.call(finish, name, overview)
    return phases.with_lines(outcome, prepared.lines)


@contextlib.contextmanager
def _home(params: Params) -> Iterator[Home]:
    """A file in the project's folder by which tasks know that theirs is the same one."""
    mark = layout_of(params).work / "locks" / f"ray-{secrets.token_hex(8)}"
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    try:
        yield Home(os.getcwd(), str(mark), fingerprints.of_code())
    finally:
        mark.unlink(missing_ok=True)


@contextlib.contextmanager
def _pool(
    ray: ModuleType, params: Params, name: str, force: bool, home: Home, needs: dict[str, float]
) -> Iterator["RayPool"]:
    pool = RayPool(ray, params, name, force, home, needs)
    try:
        yield pool
    except BaseException:
        pool.cancel()
        raise


@dataclass(slots=True)
class RayPool:
    """Tasks of a stage on a cluster; see `schedule.Pool`."""

    ray: ModuleType
    params: Params
    name: str
    force: bool
    home: Home
    needs: dict[str, float]
    told: str = ""
    """Where the tasks run, to people."""
    _work: Any = None
    _board: Any = None
    _taken: Any = None
    _running: dict[Any, tuple[int, int]] = field(default_factory=dict)
    """Number and attempt of each task without an answer."""
    _begun: set[tuple[int, int]] = field(default_factory=set)
    """Those that told anything."""

    def __post_init__(self) -> None:
        # A task is tried again by `Schedule`, which says so: never by Ray itself.
        self._work = self.ray.remote(max_retries=0, **self.needs)(ray_tasks.work)
        board = self.ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(ray_tasks.Board)
        strategy = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        here = self.ray.get_runtime_context().get_node_id()  # it lasts as long as this process
        self._board = board.options(scheduling_strategy=strategy(here, soft=True)).remote()
        count = sum(1 for node in self.ray.nodes() if node["Alive"])
        self.told = f"{count} Ray {'node' if count == 1 else 'nodes'}"

    def submit(self, number: int, attempt: int, todo: Todo) -> object:
        """Have a shard run."""
        run = partial(phases.run_shard, self.params, self.name, todo.place, force=self.force)
        return self._start(run, todo.label, number, attempt)

    def wait(self, handles: Sequence[object], seconds: float) -> list[tuple[object, Answer]]:
        """Answers of those that ended."""
        return [
            (handle, Done(answer.value) if isinstance(answer, Returned) else answer)
            for handle, answer in self._ended(handles, seconds)
        ]

    def news(self) -> list[News]:
        """What tasks told; nothing while the board cannot be reached."""
        if self._taken is None:
            self._taken = self._board.take.remote()
        ready, _ = self.ray.wait([self._taken], timeout=0.2)
        if not ready:
            return []
        taken, self._taken = self._taken, None
        with contextlib.suppress(self.ray.exceptions.RayError):
            news: list[News] = self.ray.get(taken)
            self._begun.update((each.task, each.attempt) for each in news)
            return news
        return []

    def call(self, phase: Callable[..., Any], label: str, overview: Overview) -> Any:
        """Do a phase on a node and return what it returns.

        Raises:
            FerkdError: as the phase raised it there, or the node was lost again and again.
        """
        for attempt in range(_MAX_PHASE_LOST):
            handle = self._start(phase, label, _NO_SHARD, attempt)
            ended: list[tuple[object, Returned | Failure | Lost]] = []
            quiet_until: float | None = time.monotonic() + QUIET_SECONDS
            while not ended:
                ended = self._ended([handle], WAIT_SECONDS)
                news = self.news()
                overview.hear(news)
                if news:
                    quiet_until = None
                elif quiet_until is not None and time.monotonic() > quiet_until:
                    quiet_until = None
                    overview.note(NOTHING_YET)
            answer = ended[0][1]
            if isinstance(answer, Returned):
                return answer.value
            if isinstance(answer, Failure):
                raise error_of([answer])
        assert isinstance(answer, Lost)
        raise error_of([Failure(label, RetryError, f"its worker was lost: {answer.why}")])

    def cancel(self) -> None:
        """End all tasks: those that began kindly, so that they give back their locks.

        The others are left to the end of this connection. Ray (2.60) aborts a process that cancels
        a task in the moment in which it is given to a worker.
        """
        (Path(self.home.folder) / self.home.token).unlink(missing_ok=True)  # none begins any more
        with contextlib.suppress(self.ray.exceptions.RayError, RuntimeError, ValueError):
            self.news()
            begun = [ref for ref, task in self._running.items() if task in self._begun]
            for ref in begun:
                self.ray.cancel(ref)
            if begun:
                self.ray.wait(begun, num_returns=len(begun), timeout=GENTLE_SECONDS)

    def _start(self, phase: Callable[..., Any], label: str, number: int, attempt: int) -> object:
        call = Call(phase, label, number, attempt, self.home)
        ref: object = self._work.options(name=label).remote(call, self._board)
        self._running[ref] = number, attempt
        return ref

    def _ended(
        self, refs: Sequence[Any], seconds: float
    ) -> list[tuple[object, Returned | Failure | Lost]]:
        if not refs:
            time.sleep(seconds)
            return []
        ready, _ = self.ray.wait(list(refs), timeout=seconds)
        for ref in ready:
            self._running.pop(ref, None)
        return [(ref, self._answer(ref)) for ref in ready]

    def _answer(self, ref: object) -> Returned | Failure | Lost:
        errors = self.ray.exceptions
        try:
            answer: Returned | Failure = self.ray.get(ref)
            return answer
        except errors.OutOfMemoryError:
            return Lost("out of memory on its node")
        except errors.NodeDiedError:
            return Lost("its node is gone")
        except errors.RayTaskError as error:  # before or after `work`: it returns what goes wrong
            last = (str(error).strip() or "no reason given").splitlines()[-1]
            why = f"a node cannot do it: {last}; is ferkd-pipeline installed there, the same one?"
            return Failure(self.name, FerkdError, why, str(error))
        except errors.RayError as error:
            return Lost(f"{type(error).__name__}: its process ended")
