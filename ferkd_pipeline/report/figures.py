"""The report's figures, as SVG."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ferkd_pipeline.pages.svg import COLOURS, colours, empty_figure, plain, svg
from ferkd_pipeline.report.gather import arm_name
from ferkd_pipeline.report.labels import NUM_BINS
from ferkd_pipeline.report.measured import Curve

FERKD_THRESHOLDS = (0.05, 0.3, 0.95)
"""Where FerKD's preset changes what it does to a crop."""


def curves(found: Mapping[str, Curve]) -> str:
    """Draw mean accuracy along the way, with one standard deviation either way."""
    figure = empty_figure()
    axes = plain(figure.add_subplot())
    for (arm, curve), colour in zip(found.items(), colours(len(found)), strict=True):
        steps, mean, std = (np.array(values) for values in (curve.steps, curve.mean, curve.std))
        label = _plain_text(arm_name(arm))
        axes.plot(steps, 100 * mean, color=colour, linewidth=2, label=label, marker=".")
        axes.fill_between(
            steps, 100 * (mean - std), 100 * (mean + std), color=colour, alpha=0.2, linewidth=0
        )
    axes.set_xlabel("step")
    axes.set_ylabel("top-1 on val, %")
    axes.legend(frameon=False, loc="lower right")
    return svg(figure, "Top-1 accuracy of the students along the way, mean and deviation")


def _plain_text(text: str) -> str:
    """Between two dollars matplotlib would read a formula."""
    return text.replace("$", r"\$")


def max_prob(counts: NDArray[np.int64]) -> str:
    """Draw the share of crops by the teacher's maximum probability; counts are (NUM_BINS,)."""
    figure = empty_figure()
    axes = plain(figure.add_subplot())
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
    return svg(figure, "Crops by the teacher's maximum probability, with FerKD's thresholds")
