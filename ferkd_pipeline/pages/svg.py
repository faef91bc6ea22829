"""Figures as SVG that take their ink from the page: right on light and on dark."""

import html
import io
import re
import warnings

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#8a8f98", "#3b8fdd", "#e07b39", "#2fa37c", "#c678b8", "#c9a227")
"""In order; each stands out on white and on near-black."""


def empty_figure(height: float = 3.6) -> Figure:
    """Return a transparent figure, so many inches high."""
    figure = Figure(figsize=(7.2, height), layout="constrained")
    figure.patch.set_alpha(0)
    return figure


def plain(axes: Axes) -> Axes:
    """Take from axes all that is not needed to read them."""
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#000000", alpha=0.2, linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def colours(count: int) -> list[str]:
    """Return so many colours, from the first on again where they do not suffice."""
    return [COLOURS[number % len(COLOURS)] for number in range(count)]


def svg(figure: Figure, label: str) -> str:
    """Return an <svg> element with the same bytes for the same data; ``label`` says what it shows.

    Figures of one page need different labels: ids within them are made from it.
    """
    out = io.StringIO()
    with (
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}),
        warnings.catch_warnings(),
    ):
        # Text stays text: whatever shows the page has the letters that are missing here.
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    found = out.getvalue()
    found = found[found.index("<svg") :].replace("#000000", "currentColor")
    found = re.sub(r"<metadata>.*?</metadata>", "", found, flags=re.DOTALL)
    said = html.escape(label)
    return found.replace("<svg ", f'<svg role="img" aria-label="{said}" ', 1)
