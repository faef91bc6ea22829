"""Where files lie, and which names folders may have."""

from pathlib import Path

import pytest

from store.errors import ParamsError
from store.layout import Layout, calibrated


def test_layout_names() -> None:
    layout = Layout.beside(Path("labels"))
    assert layout.work == Path(".ferkd")
    assert layout.table("soft", "part-00003") == Path("labels/soft/part-00003.parquet")
    assert layout.lock(calibrated("a.b"), "part-00003").name == "calibrated-a.b-part-00003.lock"
    for name in ("", ".", "..", "a/b", "_fit", "a b", "ä", "a\n"):
        with pytest.raises(ParamsError, match="is not a plain folder name"):
            calibrated(name)
