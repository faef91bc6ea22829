"""The report's figures, as SVG that takes its ink from the page: right on light and on dark."""

import io
import re
from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ferkd_pipeline.report.gather import arm_name
from ferkd_pipeline.report.labels import NUM_BINS
from ferkd_pipeline.report.measured import Curve

COLOURS = ("#8a8f98", "#3b8fdd", "#e07b39", "#2fa37c", "#c678b8", "#c9a227")
"""Of the arms, in order; each stands out on white and on near-black."""

FERKD_THRESHOLDS = (0.05, 0.3, 0.95)
"""Where FerKD's preset changes what it does to a crop."""


def curves(found: Mapping[str, Curve]) -> str:
    """Draw mean accuracy along the way, with one standard deviation either way."""
    figure, axes = _axes()
    for (arm, curve), colour in zip(found.items(), _colours(len(found)), strict=True):
        steps, mean, std = (np.array(values) for values in (curve.steps, curve.mean, curve.std))
        axes.plot(steps, 100 * mean, color=colour, linewidth=2, label=arm_name(arm), marker=".")
        axes.fill_between(
            steps, 100 * (mean - std), 100 * (mean + std), color=colour, alpha=0.2, linewidth=0
        )
    axes.set_xlabel("step")
    axes.set_ylabel("top-1 on val, %")
    axes.legend(frameon=False, loc="lower right")
    return _svg(figure, "Top-1 accuracy of the students along the way, mean and deviation")


def max_prob(counts: NDArray[np.int64]) -> str:
    """Draw the share of crops by the teacher's maximum probability; counts are (NUM_BINS,)."""
    figure, axes = _axes()
    edges = np.arange(NUM_BINS + 1) / NUM_BINS
    shares = 100 * counts / max(counts.sum(), 1)
    axes.bar(edges[:-1], shares, width=1 / NUM_BINS, align="edge", color=COLOURS[1], alpha=0.8)
    for threshold in FERKD_THRESHOLDS:
        axes.axvline(threshold, color=COLOURS[2], linestyle="--", linewidth=1.2)
    top = axes.get_ylim()[1]
    for low, high, text in (
        (0, 0.05, "drop"),
        (0.05, 0.3, "soften"),
        (0.3, 0.95, "keep"),
        (0.95, 1, "drop"),
    ):
        axes.text((low + high) / 2, top, text, ha="center", va="bottom", fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_xlabel("maximum probability of the teacher")
    axes.set_ylabel("crops, %")
    return _svg(figure, "Crops by the teacher's maximum probability, with FerKD's thresholds")


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#000000", alpha=0.2, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _colours(count: int) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(count)]


def _svg(figure: Figure, label: str) -> str:
    """Return an <svg> element with the same bytes for the same data."""
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace("#000000", "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
