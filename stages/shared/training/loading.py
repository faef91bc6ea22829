"""Items made by worker processes, in order: deaths of workers are told, and waiting is timed."""

import errno
import multiprocessing
import multiprocessing.connection
import multiprocessing.queues
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from stages.shared.training.loader_memory import (
    LARGER,
    batches_ahead,
    num_memory_kills,
    want_of_memory,
)
from store.errors import FerkdError, RetryError

T = TypeVar("T")

_NO_SHARED_MEMORY, _NO_HANDLES = 71, 72
"""Exit codes of workers that cannot hand an item over."""

_AGAIN = "and run the same command again"


class Loading(Iterator[T], Generic[T]):
    """The items of a data set by number; nothing starts before the first is asked for.

    Items that are errors are raised: an error that is raised in a worker, the DataLoader rewrites.
    """

    def __init__(
        self,
        dataset: Dataset[T | FerkdError],
        numbers: range,
        num_workers: int,
        *,
        pin_memory: bool = False,
        item_bytes: int = 0,
    ) -> None:
        """``item_bytes``: about how large an item is, so that not too many wait."""
        self.waited_seconds = 0.0
        """Wall time spent in `__next__`: with workers the network waited, else it is decoding."""
        self._loader: DataLoader[Any] | None = DataLoader(
            dataset,
            batch_size=None,
            sampler=numbers,
            num_workers=num_workers,
            collate_fn=_as_it_is,
            pin_memory=pin_memory,
            prefetch_factor=batches_ahead(item_bytes, num_workers) if num_workers else None,
            worker_init_fn=_end_where_nothing_is_sent,
            generator=torch.Generator(),  # else it draws from the one that dropout uses
        )
        self._items: Iterator[Any] | None = None
        self._workers: list[BaseProcess] = []
        self._memory_kills = 0

    def __next__(self) -> T:
        """Return the next item.

        Raises:
            FerkdError: it is one.
            RetryError: a worker died.
        """
        began = time.perf_counter()
        try:
            item = self._next()
        finally:
            self.waited_seconds += time.perf_counter() - began
        if isinstance(item, FerkdError):
            self.close()
            raise item
        return item

    @property
    def worker_pids(self) -> list[int]:
        """Processes at work, once the first item was asked for."""
        return [each.pid for each in self._workers if each.pid is not None]

    def close(self) -> None:
        """Let the workers go; there are no more items.

        Now and not with a traceback that holds frames of this: workers that are left to the garbage
        collector take five seconds to stop.
        """
        items, self._items, self._loader = self._items, None, None
        stop = getattr(items, "_shutdown_workers", None)
        if stop is not None:
            with suppress(RuntimeError):  # another one died: raised in __del__ it would be printed
                stop()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Tell deaths of workers in the block as `RetryError`.

        torch raises them wherever the main thread happens to be, a network's forward included.
        """
        try:
            yield
        except RuntimeError as error:
            if not _is_death(error):
                raise
            raise self._death(error) from None

    def _next(self) -> T | FerkdError:
        try:
            if self._items is None:
                self._items = self._start()
            item: T | FerkdError = next(self._items)
            return item
        except StopIteration:
            self.close()
            raise
        # Not `watching`: its frame would keep the error's traceback, and with it the workers.
        except (RuntimeError, OSError, EOFError) as error:
            # A batch whose maker died before it was taken over fails in many ways.
            if not (_is_death(error) or self._found_dead(wait=1.0)):
                raise
            raise self._death(error) from None

    def _start(self) -> Iterator[Any]:
        if self._loader is None:
            return iter(())
        self._memory_kills = num_memory_kills()
        before = set(multiprocessing.active_children())
        try:
            items = iter(self._loader)
        except OSError as error:
            if error.errno != errno.ENOSPC or error.filename is not None:
                raise
            raise RetryError(
                f"there is no shared memory for processes that load images; {LARGER} {_AGAIN}"
            ) from None
        self._workers = [each for each in multiprocessing.active_children() if each not in before]
        return items

    def _found_dead(self, wait: float) -> list[int]:
        """Return the exit codes of dead workers; a death is seen a moment after its effects."""
        multiprocessing.connection.wait([each.sentinel for each in self._workers], wait)
        return [each.exitcode for each in self._workers if each.exitcode]

    def _death(self, error: Exception) -> RetryError:
        # Their frames would keep the other workers.
        error.__traceback__ = error.__context__ = error.__cause__ = None
        codes = self._found_dead(wait=1.0)
        is_memory = num_memory_kills() > self._memory_kills
        self.close()
        return RetryError(_describe(codes[0] if codes else None, is_memory))


def _is_death(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)


def _describe(code: int | None, is_memory: bool) -> str:
    """What to say of a worker that ended with an exit code, or below 0 with a signal."""
    who = "a process that loads images"
    if code in (-signal.SIGBUS, _NO_SHARED_MEMORY):
        return f"{who} found no shared memory, or a mapped file was cut short; {LARGER} {_AGAIN}"
    if code == _NO_HANDLES:
        return f"{who} has too many open files; raise `ulimit -n`, or lower num_workers, {_AGAIN}"
    if code == -signal.SIGKILL and is_memory:
        return (
            f"{who} was killed by the system for want of memory; lower num_workers or batch_size "
            f"{_AGAIN}"
        )
    how = "died"
    if code is not None:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    return f"{who} {how}, perhaps for want of memory; lower num_workers or batch_size {_AGAIN}"


def _as_it_is(item: Any) -> Any:
    return item


def _end_where_nothing_is_sent(_: int) -> None:
    """Let this worker die if its thread cannot send an item: else it is waited for for ever.

    Items are made where their errors are caught, but small tensors get their shared memory, and all
    their handles, from the thread that sends them.
    """
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(  # type: ignore[attr-defined]
        _end_worker
    )
    sys.excepthook = _tell_unless_unread


def _tell_unless_unread(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print no traceback where a thread hands an item to a process that was told to stop."""
    if not isinstance(error, ConnectionError):
        sys.__excepthook__(kind, error, trace)


def _end_worker(error: Exception, _: object) -> None:
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        os._exit(_NO_HANDLES)
    os._exit(1 if want_of_memory(error) is None else _NO_SHARED_MEMORY)
