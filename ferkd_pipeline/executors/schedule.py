"""When which shard is tried, and tried again, by workers that may be lost.

A worker that is lost (killed, out of memory, its node gone) costs its shard one of a few attempts:
the next one goes on after the last block. What a shard itself answers with exit code 75 is tried
again later: a lock may be held by a writer on a lost node, whose lease lasts some minutes. Any
other error is an answer; the other shards go on.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from ferkd_pipeline.engine import ShardOutcome
from ferkd_pipeline.executors.overview import News, Overview
from ferkd_pipeline.executors.phases import Todo
from ferkd_pipeline.failures import Failure, error_of
from store.errors import RetryError

MAX_LOST = 5
"""So many times the worker of one shard may be lost."""
RETRY_SECONDS = (2.0, 5.0, 15.0, 30.0, 60.0, 120.0, 240.0)
"""After exit code 75; together longer than the lease of a lost node lasts."""
WAIT_SECONDS = 0.5
"""Between two looks at the news."""
QUIET_SECONDS = 30.0
"""So long nothing may begin before people are told that the cluster is busy."""
NOTHING_YET = "nothing has begun yet: the cluster has no room, or is starting"
MOST_AT_ONCE = 1000
"""Tasks that the cluster is given at a time; it starts as many as it has room for."""


@dataclass(frozen=True, slots=True)
class Done:
    """A shard ran."""

    outcome: ShardOutcome


@dataclass(frozen=True, slots=True)
class Lost:
    """The process that ran a shard is no more, and said nothing."""

    why: str


Answer = Done | Failure | Lost
Handle = TypeVar("Handle")


class Pool(Protocol[Handle]):
    """Workers."""

    def submit(self, number: int, attempt: int, todo: Todo) -> Handle:
        """Have a shard run some time; returns at once."""

    def wait(self, handles: Sequence[Handle], seconds: float) -> list[tuple[Handle, Answer]]:
        """Answers of those that ended, waiting so long for the first one."""

    def news(self) -> list[News]:
        """What tasks told since the last call."""


@dataclass(slots=True)
class _Task:
    """A shard, and what became of its attempts."""

    number: int
    todo: Todo
    attempt: int = 0
    num_lost: int = 0
    num_retries: int = 0


@dataclass(slots=True)
class Schedule:
    """Runs shards on a pool until each has an answer."""

    pool: Pool[object]
    overview: Overview
    clock: Callable[[], float] = time.monotonic
    _ready: deque[_Task] = field(default_factory=deque)
    _later: list[tuple[float, _Task]] = field(default_factory=list)
    _running: dict[object, _Task] = field(default_factory=dict)
    _outcomes: list[ShardOutcome] = field(default_factory=list)
    _failures: list[Failure] = field(default_factory=list)

    def run(self, todo: Sequence[Todo]) -> list[ShardOutcome]:
        """Run the shards; the outcomes come in the order in which they ended.

        Raises:
            FerkdError: of the gravest failure, when the others have ended; names the shards.
        """
        self._ready.extend(_Task(number, each) for number, each in enumerate(todo))
        silent_since: float | None = self.clock()
        while self._ready or self._later or self._running:
            self._submit()
            answers = self.pool.wait(list(self._running), WAIT_SECONDS)
            news = self.pool.news()
            self.overview.hear(news)
            for handle, answer in answers:
                self._take(self._running.pop(handle), answer)
            if news or answers:
                silent_since = None
            elif silent_since is not None and self.clock() - silent_since > QUIET_SECONDS:
                silent_since = None
                self.overview.note(NOTHING_YET)
        if self._failures:
            raise error_of(self._failures)
        return self._outcomes

    def _submit(self) -> None:
        now = self.clock()
        self._ready.extend(task for due, task in self._later if due <= now)
        self._later = [(due, task) for due, task in self._later if due > now]
        while self._ready and len(self._running) < MOST_AT_ONCE:
            task = self._ready.popleft()
            handle = self.pool.submit(task.number, task.attempt, task.todo)
            self._running[handle] = task

    def _take(self, task: _Task, answer: Answer) -> None:
        label = task.todo.label
        if isinstance(answer, Done):
            self._outcomes.append(answer.outcome)
            self.overview.done(task.number)
        elif isinstance(answer, Lost):
            task.num_lost += 1
            if task.num_lost > MAX_LOST:
                why = f"its worker was lost {task.num_lost} times, at last: {answer.why}"
                self._fail(Failure(label, RetryError, why))
                return
            self.overview.note(f"{label}: its worker was lost ({answer.why}); it is tried again")
            self._again(task, 0.0)
        elif answer.kind is RetryError and task.num_retries < len(RETRY_SECONDS):
            seconds = RETRY_SECONDS[task.num_retries]
            task.num_retries += 1
            self.overview.note(f"{label}: {answer.message}; tried again in {seconds:g} s")
            self._again(task, seconds)
        else:
            self._fail(answer)

    def _again(self, task: _Task, seconds: float) -> None:
        task.attempt += 1
        self.overview.again(task.number, task.attempt)
        if seconds:
            self._later.append((self.clock() + seconds, task))
        else:
            self._ready.append(task)

    def _fail(self, failure: Failure) -> None:
        self._failures.append(failure)
        self.overview.note(f"{failure.where} failed: {failure.message}")
