"""A matplotlib figure that a notebook shows. matplotlib is imported only where one is drawn."""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def notebook_figure(size: tuple[float, float]) -> "Figure":
    """An empty figure of ``size`` inches, without pyplot's state.

    Jupyter learns to show plain figures when pyplot is imported, which nothing here does.
    """
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        def _repr_png_(self) -> bytes:
            out = io.BytesIO()
            self.savefig(out, format="png")
            return out.getvalue()

    return NotebookFigure(figsize=size, layout="constrained")
