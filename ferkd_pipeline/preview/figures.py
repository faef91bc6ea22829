"""The histogram of a preview, its thresholds drawn in, and how often the teacher is right.

Shapes: B bins.
"""

import itertools

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ferkd_pipeline.pages.svg import empty_figure, plain, svg
from stages.calibrate.reliability import Reliability
from stages.calibrate.survey import Preview
from stages.calibrate.thresholds import Thresholds

ACTION_COLOURS = {
    "keep": "#2fa37c",
    "drop": "#e07b39",
    "soften": "#c9a227",
    "revise": "#3b8fdd",
    "truth": "#c678b8",
    "reject": "#8a8f98",
}
NUM_BINS = 40
"""Each 0.025 wide: FerKD's thresholds are edges."""
_LEAST_IN_BIN = 10
"""Crops, below which a bin's accuracy is not drawn."""
_TOO_FLAT = 1 / 40
"""Of the tallest bar: an interval whose bars all are lower is not seen on a linear axis."""

_NAME_WIDTH = 0.09
"""Of an action's name, as a share of the axis."""

F64 = NDArray[np.float64]


def histogram(seen: Preview, on: str) -> str:
    """Draw shares of crops by probability (`max` or `target`), and accuracy below them."""
    crops = seen.training[on]
    limits = next((each.thresholds for each in seen.fit.steps if each.thresholds), Thresholds())
    figure = empty_figure(4.6)
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=[5, 2])
    shares = 100 * _by_bin(crops.values, crops.crops) / max(crops.total, 1)
    found = spans(limits)
    is_log = any(_is_flat(shares, *span[:2]) for span in found)
    _draw_shares(plain(top), shares, found, is_log=is_log)
    _draw_accuracy(plain(below), crops, "these crops", "#3b8fdd", "o")
    if on in seen.validation and seen.validation[on].total:
        _draw_accuracy(below, seen.validation[on], "validation crops", "#c678b8", "s")
        below.legend(frameon=False, loc="best", fontsize=8)
    for axes in (top, below):
        for low, high, action in found:
            axes.axvspan(low, high, color=ACTION_COLOURS[action], alpha=0.16, linewidth=0, zorder=0)
        for _, edge, _ in found[:-1]:
            axes.axvline(edge, color="#000000", linestyle="--", linewidth=1)
    said = {"max": "maximum probability of the teacher", "target": "ground truth's probability"}
    below.set_xlabel(said[on])
    below.set_xlim(0, 1)
    return svg(figure, f"{seen.recipe.name}: crops by the {said[on]}, with thresholds")


def spans(limits: Thresholds) -> list[tuple[float, float, str]]:
    """Return intervals from 0 to 1 with the action of each; neighbours differ."""
    given = [each for each in limits.to_json().values() if isinstance(each, float)]
    edges = sorted({0.0, 1.0, *(edge for edge in given if 0 < edge < 1)})
    found: list[tuple[float, float, str]] = []
    for low, high in itertools.pairwise(edges):
        groups = limits.groups(np.array([(low + high) / 2], np.float32))
        action = next(
            (name for name, is_in in zip(("drop", "soften", "drop"), groups, strict=True) if is_in),
            "keep",
        )
        if found and found[-1][2] == action:
            low = found.pop()[0]
        found.append((low, high, action))
    return found


def _by_bin(values: NDArray[np.float32], counts: NDArray[np.int64]) -> F64:
    """(B,) sums of counts; a value on an edge is in the bin above it, also if stored rounded."""
    places = np.minimum((values.astype(np.float64) * NUM_BINS + 0.01).astype(int), NUM_BINS - 1)
    return np.bincount(places, weights=counts, minlength=NUM_BINS).astype(np.float64)


def _is_flat(shares: F64, low: float, high: float) -> bool:
    first, last = int(low * NUM_BINS), int(np.ceil(high * NUM_BINS - 1e-6))
    tallest = shares[first : max(last, first + 1)].max()
    return bool(0 < tallest < _TOO_FLAT * shares.max())


def _draw_shares(
    axes: Axes, shares: F64, found: list[tuple[float, float, str]], *, is_log: bool
) -> None:
    edges = np.arange(NUM_BINS) / NUM_BINS
    axes.bar(edges, shares, width=1 / NUM_BINS, align="edge", color="#3b8fdd", zorder=2)
    if is_log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("crops, %, log scale" if is_log else "crops, %")
    raised, before = False, -1.0
    for low, high, action in found:
        # The names of narrow neighbours would run into each other: every second stands higher.
        middle = (low + high) / 2
        raised = not raised and middle - before < _NAME_WIDTH
        before, height = middle, 1.07 if raised else 1.0
        axes.text(
            middle, height, action, ha="center", va="bottom", fontsize=8,
            color=ACTION_COLOURS[action], fontweight="bold", transform=axes.get_xaxis_transform(),
        )  # fmt: skip


def _draw_accuracy(axes: Axes, crops: Reliability, label: str, colour: str, marker: str) -> None:
    total, right = _by_bin(crops.values, crops.crops), _by_bin(crops.values, crops.right)
    known = total >= min(_LEAST_IN_BIN, total.max())
    centres = (np.arange(NUM_BINS) + 0.5) / NUM_BINS
    accuracy = 100 * right[known] / total[known]
    axes.plot(
        centres[known], accuracy, color=colour, marker=marker, markersize=3, linewidth=1.5,
        label=label,
    )  # fmt: skip
    axes.set_ylim(0, 103)
    axes.set_ylabel("teacher right, %")
