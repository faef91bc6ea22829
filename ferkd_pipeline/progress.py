"""How far a stage is: a bar with rate and time left on a terminal, plain lines elsewhere.

All of it goes to stderr. `stages.shared.contract.Progress` is what stages see of it.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

from ferkd_pipeline.plain import one_line
from stages.shared.contract import Progress

_SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def watched(stream: TextIO | None = None) -> Iterator[Progress]:
    """Yield a progress that people can watch on `stream`, by default stderr.

    rich honours NO_COLOR.
    """
    stream = sys.stderr if stream is None else stream
    if stream.isatty():
        console = Console(file=stream)
        with TerminalProgress(console) as terminal:
            yield terminal
    else:
        lines = LineProgress(stream)
        try:
            yield lines
        finally:
            lines.close()


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        unit = task.fields["unit"]
        return Text(f"{_count(task.speed)} {unit}/s" if task.speed else "", style="progress.data")


class TerminalProgress:
    """A bar that is redrawn in place; rich guards it against calls from several threads."""

    def __init__(self, console: Console) -> None:
        """Draw on `console`."""
        self._console = console
        self._bars = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            _Rate(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=console,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "TerminalProgress":
        """Begin to draw."""
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last state on the screen."""
        self._bars.stop()

    def start(self, label: str, total: int, unit: str) -> None:
        """Begin a bar of `total` units; the one before stays as it is."""
        if self._task is not None:
            self._bars.stop_task(self._task)
        self._task = self._bars.add_task(one_line(label), total=total, unit=unit)

    def advance(self, amount: int = 1) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bars.advance(self._task, amount)

    def resize(self, total: int) -> None:
        """The current task has other than the units that it began with."""
        if self._task is not None:
            self._bars.update(self._task, total=total)

    def note(self, message: str) -> None:
        """Print a line above the bars."""
        self._console.print(one_line(message), markup=False, highlight=False)


class LineProgress:
    """A line at the start of a task, every few seconds, and at its end."""

    def __init__(
        self,
        stream: TextIO,
        *,
        seconds: float = _SECONDS_BETWEEN_LINES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Write to `stream` at most every so many `seconds`, as `clock` tells them."""
        self._stream = stream
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._label = ""
        self._unit = ""
        self._total = 0
        self._done = 0
        self._begun = 0.0
        self._told = 0.0

    def start(self, label: str, total: int, unit: str) -> None:
        """End the task before, and begin one of `total` units."""
        with self._lock:
            self._end()
            self._label, self._total, self._unit, self._done = label, total, unit, 0
            self._begun = self._told = self._clock()

    def advance(self, amount: int = 1) -> None:
        """Count, and write a line when the last one is a while ago."""
        with self._lock:
            self._done += amount
            now = self._clock()
            if now - self._told >= self._seconds:
                self._told = now
                self._write(self._state(now - self._begun))

    def resize(self, total: int) -> None:
        """The current task has other than the units that it began with."""
        with self._lock:
            self._total = total

    def note(self, message: str) -> None:
        """Write the message as a line of its own."""
        with self._lock:
            self._write(message)

    def close(self) -> None:
        """End the current task."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._label:
            elapsed = self._clock() - self._begun
            done = f"{self._done:,}"
            if self._done != self._total:
                done += f" of {self._total:,}"
            self._write(f"{self._label}: {done} {self._unit} in {_duration(elapsed)}")
        self._label = ""

    def _state(self, elapsed: float) -> str:
        rate = self._done / elapsed if elapsed > 0 else 0.0
        text = f"{self._label}: {self._done:,} of {self._total:,} {self._unit}"
        if self._total:
            text += f" ({self._done / self._total:.0%})"
        if rate:
            left = max(self._total - self._done, 0) / rate
            text += f", {_count(rate)} {self._unit}/s, {_duration(left)} left"
        return text

    def _write(self, line: str) -> None:
        # In one piece: several processes may write to one stream, as those of torchrun do.
        print(f"{one_line(line)}\n", end="", file=self._stream, flush=True)


def _count(number: float) -> str:
    """Three digits are enough to watch: 0.52, 7.4, 83, 1,200."""
    if number >= 10:
        return f"{number:,.0f}"
    return f"{number:.2f}" if number < 1 else f"{number:.1f}"


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
