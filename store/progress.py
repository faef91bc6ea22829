"""What long work in the store asks of whoever shows how far it is."""

from typing import Protocol


class Progress(Protocol):
    """The two calls that are made on a progress, one at a time."""

    def start(self, label: str, total: int, unit: str) -> None:
        """Begin a task."""

    def advance(self, amount: int = 1) -> None:
        """Go on."""
