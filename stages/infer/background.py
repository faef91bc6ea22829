"""Writing beside the labelling: one thread, one task at a time."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self


class Background:
    """Runs calls one after the other in a thread; the block ends when they are over."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._last: Future[None] | None = None

    def run(self, call: Callable[..., None], *arguments: Any) -> None:
        """Begin a call when the one before is over; raises what that one raised."""
        self._wait()
        self._last = self._pool.submit(call, *arguments)

    def _wait(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self) -> Self:
        """Nothing is to be waited for yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for the last call, and raise what it raised where nothing else is wrong."""
        try:
            if error is None:
                self._wait()
        finally:
            self._pool.shutdown(wait=True)
