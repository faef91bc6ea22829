"""Refusing inputs that do not fit together, with both files and the remedy named."""

from store import entries
from store.entries import Entry
from store.errors import DataError
from store.layout import Layout


def require(layout: Layout, artifact: str, stem: str, stage: str) -> Entry:
    """The entry of a part that another stage must have made.

    Raises:
        DataError: that part is not complete; names the command that makes it.
    """
    entry = entries.find_entry(layout, artifact, stem)
    if entry is None:
        raise DataError(
            f"{layout.entry(artifact, stem)} is missing; "
            f"run `{entries.stage_command(stage, stem)}` first"
        )
    return entry


def require_fit(layout: Layout, entry: Entry, name: str, wanted: str, other: str) -> None:
    """Check that ``entry`` was made from the input ``name`` of digest ``wanted``.

    Args:
        layout: the store.
        entry: the part that is to be read.
        name: name of one of its recorded inputs.
        wanted: digest that this input has now.
        other: the file that has that digest now, for the message.

    Raises:
        DataError: they do not fit together.
    """
    if entry.lineage.get("inputs", {}).get(name) != wanted:
        path = layout.entry(entry.artifact, entry.stem)
        raise DataError(
            f"{path} was made from other {name} than {other} holds now; run `{entry.remake}` again"
        )
