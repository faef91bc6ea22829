"""Curves that can be watched while a network trains: dvclive, TensorBoard.

Nothing leaves the machine, and neither Git nor DVC is asked or changed: only files are written.
"""

import csv
import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from store.atomic import named_in_errors, write_bytes
from store.errors import ParamsError

_DVC_YAML = b"""\
# Shows the curves beside it in `dvc plots show`, their latest values in `dvc metrics show`.
metrics:
  - metrics.json
plots:
  - plots/metrics:
      x: step
"""


class _Tracker(Protocol):
    def log(self, step: int, numbers: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Tracking:
    """Where a run's numbers are written as it goes; nowhere, if nothing is tracked."""

    def __init__(self, trackers: Sequence[_Tracker], folder: Path) -> None:
        self._trackers = trackers
        self._folder = folder

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Write numbers of a step, counted in steps done, under names such as train/loss.

        Steps must rise for each name; one that stands there already is left out. So what belongs to
        the very step of a checkpoint may be logged before it or, after a kill, again.
        """
        for tracker in self._trackers:
            with named_in_errors(self._folder):
                tracker.log(step, numbers)

    def close(self) -> None:
        """End all files; call it once, whether the run went well or not."""
        for tracker in self._trackers:
            with named_in_errors(self._folder):
                tracker.close()


def open_tracker(names: Sequence[str], folder: Path, *, resume_at: int) -> Tracking:
    """Begin to track a run, or go on with it.

    Args:
        names: dvclive, tensorboard; none: nothing is written.
        folder: of this run alone, such as metrics/live/train. dvclive writes into it, TensorBoard
            into ``tensorboard`` below it.
        resume_at: steps done at the checkpoint that the run is taken up at; what was written of
            later steps is removed. 0: a new run, which replaces what an older one wrote here.

    Raises:
        ParamsError: no such tracker, or its library is not installed.
    """
    unknown = [name for name in names if name not in _KINDS]
    if unknown:
        raise ParamsError(f"track names {unknown[0]!r}, allowed: {', '.join(_KINDS)}")
    # All libraries first: one that lacks must not cost what the other's files hold.
    libraries = {name: _library(name) for name in dict.fromkeys(names)}
    with named_in_errors(folder):
        trackers = [_KINDS[name](library, folder, resume_at) for name, library in libraries.items()]
    return Tracking(trackers, folder)


def _library(name: str) -> Any:
    try:
        if name == "dvclive":
            import dvclive

            return dvclive
        import torch.utils.tensorboard as tensorboard

        _silence_threads()
        return tensorboard
    except ImportError:
        extra = {"dvclive": "dvc"}.get(name, name)
        raise ParamsError(
            f"track names {name}, which is not installed: pip install 'ferkd-pipeline[{extra}]', "
            "or take it out of track"
        ) from None


def _silence_threads() -> None:
    """Print no traceback where TensorBoard's thread finds a full disk: its next call raises it."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        is_theirs = type(args.thread).__module__.startswith("tensorboard.")
        if not (is_theirs and issubclass(args.exc_type, OSError)):
            before(args)

    threading.excepthook = hook


class _Dvclive:
    """Table of steps a name, ``plots/metrics/NAME.tsv``; latest values, ``metrics.json``."""

    def __init__(self, library: Any, folder: Path, resume_at: int) -> None:
        self._last = _cut(folder, resume_at) if resume_at else {}
        # The file dvc.yaml is ours: Live lists its entries anew whenever it writes it there.
        self._live = _quiet(library)(
            str(folder), resume=resume_at > 0, save_dvc_exp=False, dvcyaml=None
        )
        write_bytes(folder / "dvc.yaml", _DVC_YAML)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._live.step = step
        for name, value in _new(self._last, step, numbers):
            self._live.log_metric(name, value)
        # Not next_step: it reads all tables again, in another thread, to send them somewhere.
        self._live.make_summary()

    def close(self) -> None:
        """Everything is written already."""


def _quiet(library: Any) -> Any:
    class Live(library.Live):  # type: ignore[misc]
        """Without what reaches out: dvclive makes a DVC project of any Git repository that it runs
        in, and sends numbers to DVC Studio wherever a token for it is set.
        """

        def _init_dvc(self) -> None:
            self._dvc_file = self._init_dvc_file()

        def _init_studio(self) -> None:
            self._studio_events_to_skip |= {"start", "data", "done"}

    return Live


def _new(
    last: dict[str, int], step: int, numbers: Mapping[str, float]
) -> Iterator[tuple[str, float]]:
    """Yield what does not stand there yet, with each name's last step kept in ``last``."""
    for name, value in numbers.items():
        if step > last.get(name, -1):
            last[name] = step
            yield name, float(value)


def _cut(folder: Path, resume_at: int) -> dict[str, int]:
    """Remove rows of later steps, and a last one that a kill left half written.

    Returns the last step of each name.
    """
    latest: dict[str, Any] = {}
    last: dict[str, int] = {}
    for path in sorted((folder / "plots/metrics").rglob("*.tsv")):
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = [*csv.reader(file, delimiter="\t")] or [[]]
        kept = [row for row in rows if _is_before(row, header, resume_at)]
        if kept:
            lines = ("\t".join(row) + "\n" for row in (header, *kept))
            write_bytes(path, "".join(lines).encode())
            name = path.relative_to(folder / "plots/metrics").with_suffix("")
            _put(latest, name.parts, float(kept[-1][-1]))
            last[name.as_posix()] = int(kept[-1][0])
        else:
            path.unlink()
    write_bytes(folder / "metrics.json", json.dumps({**latest, "step": resume_at}).encode())
    return last


def _is_before(row: list[str], header: list[str], resume_at: int) -> bool:
    try:
        float(row[-1])
        return len(row) == len(header) and int(row[0]) <= resume_at
    except (ValueError, IndexError):
        return False


def _put(nested: dict[str, Any], path: Sequence[str], value: float) -> None:
    for step in path[:-1]:
        nested = nested.setdefault(step, {})
    nested[path[-1]] = value if math.isfinite(value) else str(value)  # as dvclive does


class _TensorBoard:
    """Files of events, ``tensorboard/events.out.tfevents.*``: the newest holds all."""

    def __init__(self, library: Any, folder: Path, resume_at: int) -> None:
        events = folder / "tensorboard"
        before = [*events.glob("events.out.tfevents.*")]
        points = _points(events, resume_at) if resume_at and before else []
        write_bytes(events / ".gitignore", b"*\n")  # binary files, a new one each start
        # Purging tells a TensorBoard that is watching to forget what it has read; without that
        # readers go by file names, which say seconds and host: too little after a quick restart.
        self._writer = library.SummaryWriter(str(events), purge_step=0)
        self._last = {name: step for step, name, *_ in points}
        for step, name, value, seconds in points:
            self._writer.add_scalar(name, value, step, walltime=seconds)
        self._writer.flush()
        for path in before:
            _retire(path)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in _new(self._last, step, numbers):
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # a checkpoint of this step must not outlive its numbers

    def close(self) -> None:
        self._writer.close()


def _retire(path: Path) -> None:
    """Empty a file of events. A TensorBoard that watches it stays there for ever if it is gone;
    next time it is elsewhere.
    """
    if path.stat().st_size:
        write_bytes(path, b"")
    else:
        path.unlink()


def _points(events: Path, resume_at: int) -> list[tuple[int, str, float, float]]:
    """What was written up to a step: step, name, value and time, in the order of steps."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(events), size_guidance={"scalars": 0})  # 0: all of them
    read.Reload()
    found = {
        (event.step, name): (event.value, event.wall_time)
        for name in read.Tags()["scalars"]
        for event in read.Scalars(name)
        if event.step <= resume_at
    }
    return sorted((step, name, *point) for (step, name), point in found.items())


_KINDS: dict[str, Callable[[Any, Path, int], _Tracker]] = {
    "dvclive": _Dvclive,
    "tensorboard": _TensorBoard,
}
