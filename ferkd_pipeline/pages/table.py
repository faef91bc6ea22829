"""A table as plain text cells, shown alike on the terminal and on a page."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """A title, a header, rows of cells, and sentences below."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
