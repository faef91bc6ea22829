"""How far all shards together are, from what their processes tell: one bar in crops.

A process that does a task tells news of it. Those of an attempt that was lost may still arrive when
another one has begun, and are left out.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from stages.shared.contract import Progress

CROPS = "crops"


@dataclass(frozen=True, slots=True)
class Begun:
    """A task of so many units began, as `Progress.start` says."""

    label: str
    total: int
    unit: str


@dataclass(frozen=True, slots=True)
class Advanced:
    """More of these units are done."""

    amount: int


@dataclass(frozen=True, slots=True)
class Noted:
    """A line for people, and the node that it comes from."""

    text: str
    node: str


@dataclass(frozen=True, slots=True)
class News:
    """What a task tells: which one (by its number), at which attempt, from 0 on."""

    task: int
    attempt: int
    what: Begun | Advanced | Noted


class Teller:
    """The progress that a task in another process is given; sends news, not more than it must."""

    def __init__(
        self,
        send: Callable[[list[News]], None],
        task: int,
        attempt: int,
        node: str,
        *,
        seconds: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Send at most every so many ``seconds``; what begins, and notes, at once."""
        self._send, self._task, self._attempt, self._node = send, task, attempt, node
        self._seconds, self._clock = seconds, clock
        self._lock = threading.Lock()
        self._amount = 0
        self._sent = clock()

    def arrive(self) -> None:
        """Tell that the task has a process."""
        self._send([News(self._task, self._attempt, Advanced(0))])

    def start(self, label: str, total: int, unit: str) -> None:
        """Tell that a task of units begins."""
        self._tell(Begun(label, total, unit))

    def advance(self, amount: int = 1) -> None:
        """Count, and tell when the last time is a while ago."""
        with self._lock:
            self._amount += amount
            is_due = self._clock() - self._sent >= self._seconds
        if is_due:
            self._tell()

    def note(self, message: str) -> None:
        """Tell it."""
        self._tell(Noted(message, self._node))

    def close(self) -> None:
        """Tell what was counted since the last time."""
        self._tell()

    def _tell(self, what: Begun | Noted | None = None) -> None:
        with self._lock:
            told = [Advanced(self._amount)] if self._amount else []
            self._amount, self._sent = 0, self._clock()
            news = [*told, *([] if what is None else [what])]
        if news:
            self._send([News(self._task, self._attempt, each) for each in news])


@runtime_checkable
class _Resizable(Protocol):
    def resize(self, total: int) -> None: ...


@dataclass(slots=True)
class _Shown:
    """What is known of one task."""

    label: str
    stem: str
    """In the label of what counts as its work, `part-00003`: it may look at other things first."""
    num_crops: int
    """What it has to do: less than its shard where an earlier run had begun it."""
    attempt: int = 0
    begun: Begun | None = None
    before: int = 0
    """Crops that earlier attempts have done for good."""
    units: int = 0
    """Done since ``begun``."""
    counted: int = 0
    """Crops in the bar."""

    def crops_done(self) -> int:
        if self.begun is None:
            return self.before
        if self.begun.unit == CROPS:
            return min(self.before + self.units, self.num_crops)
        return self.num_crops * self.units // max(self.begun.total, 1)


@dataclass(slots=True)
class Overview:
    """Shows the progress of tasks, as one, on ``progress``."""

    progress: Progress
    _tasks: dict[int, _Shown] = field(default_factory=dict)
    _total: int = 0
    _told: set[str] = field(default_factory=set)
    """Notes: what is so for all shards is told once."""

    def start(self, label: str, tasks: Sequence[tuple[str, str, int]]) -> None:
        """Begin to show tasks: label, stem of the part, crops of each. They are numbered so."""
        self._tasks = {number: _Shown(*each) for number, each in enumerate(tasks)}
        self._total = sum(task.num_crops for task in self._tasks.values())
        self.progress.start(label, self._total, CROPS)

    def hear(self, news: Sequence[News]) -> None:
        """Show what tasks told. Of a number that is no task's, it is shown as it is told."""
        for each in news:
            task = self._tasks.get(each.task)
            if task is None:
                self._pass_on(each.what)
            elif each.attempt == task.attempt:
                self._take(task, each.what)

    def again(self, number: int, attempt: int) -> None:
        """A task is tried again: what its last attempt had not finished is not done."""
        task = self._tasks[number]
        task.attempt, task.begun, task.units = attempt, None, 0
        task.before = task.counted  # until the new attempt says how much is left

    def done(self, number: int) -> None:
        """A task is complete."""
        task = self._tasks[number]
        self._show(task, task.num_crops)

    def note(self, message: str) -> None:
        """Say one line."""
        self.progress.note(message)

    def _pass_on(self, what: Begun | Advanced | Noted) -> None:
        if isinstance(what, Begun):
            self.progress.start(what.label, what.total, what.unit)
        elif isinstance(what, Advanced):
            if what.amount:
                self.progress.advance(what.amount)
        else:
            self.progress.note(f"{what.text} (on {what.node})")

    def _take(self, task: _Shown, what: Begun | Advanced | Noted) -> None:
        if isinstance(what, Noted):
            if what.text not in self._told:
                self._told.add(what.text)
                self.progress.note(f"{task.label}, on {what.node}: {what.text}")
            return
        if isinstance(what, Begun):
            self._begin(task, what)
        else:
            task.units += what.amount
        self._show(task, task.crops_done())

    def _begin(self, task: _Shown, begun: Begun) -> None:
        if task.stem not in begun.label:
            task.begun = None
            return
        is_first = task.attempt == 0 and task.begun is None
        task.begun, task.units = begun, 0
        if begun.unit != CROPS:
            task.before = 0
        elif is_first and begun.total < task.num_crops:
            self._total -= task.num_crops - begun.total
            task.num_crops = begun.total
            if isinstance(self.progress, _Resizable):
                self.progress.resize(self._total)
        else:
            task.before = max(task.num_crops - begun.total, 0)

    def _show(self, task: _Shown, crops: int) -> None:
        if crops != task.counted:
            self.progress.advance(crops - task.counted)
            task.counted = crops
