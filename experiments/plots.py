"""The plots of docs/study.md. White behind them, so that they read on dark pages too."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.read import SPLITS, Results
from stages.compare.core import Summary

matplotlib.use("Agg")

COLOURS = ("#1f6fb4", "#d1630f", "#2a8a4a", "#8a4fb0", "#b02a4a", "#5f6b75", "#1796a5", "#a58a12")
MARKS = {"val": "o", "test": "D"}
_STYLE: Any = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "svg.hashsalt": "ferkd",  # else every run draws other ids
    "figure.facecolor": "white",
}


def plots(results: Results) -> dict[str, bytes]:
    """Return every plot as SVG, by name."""
    with matplotlib.rc_context(_STYLE):
        made = {"groups": _groups(results), "worlds": _worlds(results)}
        made |= {"sweeps": _sweeps(results), "noise": _noise(results)}
        return {name: svg(figure) for name, figure in made.items()}


def svg(figure: Figure) -> bytes:
    """A figure's bytes, the same for the same figure."""
    out = io.BytesIO()
    figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None})
    return out.getvalue()


def _groups(results: Results) -> Figure:
    """Differences to the baseline in the first world, group after group."""
    found, first = results.found, results.found.first_world
    shown = {
        title: [
            arm
            for arm in results.arms(first)
            if group in found.arms[arm].groups and arm != found.baseline
        ]
        for group, title in found.groups.items()
    }
    return _forest(results, {title: (first, arms) for title, arms in shown.items() if arms})


def _worlds(results: Results) -> Figure:
    """The same for every other world."""
    found = results.found
    panels = {
        each.title: (world, [arm for arm in results.arms(world) if arm != found.baseline])
        for world, each in found.worlds.items()
        if world != found.first_world
    }
    return _forest(results, {name: panel for name, panel in panels.items() if panel[1]})


def _forest(results: Results, panels: dict[str, tuple[str, list[str]]]) -> Figure:
    sizes = [len(arms) + 0.8 for _, arms in panels.values()] or [1.0]
    figure = Figure(figsize=(7.2, 0.27 * sum(sizes) + 0.45 * len(sizes) + 0.6))
    grid = figure.subplots(max(1, len(panels)), 1, sharex=True, squeeze=False, height_ratios=sizes)
    for axes, (title, (world, arms)) in zip(grid[:, 0], panels.items(), strict=False):
        _panel(axes, results, world, arms)
        axes.set_title(title, loc="left")
    base = results.found.baseline.upper()
    grid[-1, 0].set_xlabel(f"points of top-1 above {base}; mean and standard error")
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="upper right", ncols=2, frameon=False)
    figure.tight_layout()
    return figure


def _panel(axes: Axes, results: Results, world: str, arms: Sequence[str]) -> None:
    for split, shift in zip(SPLITS, (-0.14, 0.14), strict=True):
        changes = [results.difference(world, arm, split) for arm in arms]
        placed = [(row + shift, each) for row, each in enumerate(changes) if each is not None]
        axes.errorbar(
            [100 * each.mean for _, each in placed],
            [row for row, _ in placed],
            xerr=[100 * (each.standard_error or 0) for _, each in placed],
            fmt=MARKS[split],
            markersize=4.5,
            markerfacecolor=COLOURS[0] if split == "val" else "white",
            color=COLOURS[0] if split == "val" else COLOURS[5],
            capsize=2,
            linewidth=1.2,
            label=split,
        )
    axes.axvline(0, color="#444444", linewidth=0.8)
    axes.set_yticks(range(len(arms)), [results.found.arms[arm].title for arm in arms])
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _sweeps(results: Results) -> Figure:
    """Accuracy on test by the value that is varied, and the baseline's as a band."""
    found, first = results.found, results.found.first_world
    figure = Figure(figsize=(10.5, 3.4))
    grid = figure.subplots(1, max(1, len(found.sweeps)), squeeze=False)[0]
    for axes, sweep in zip(grid, found.sweeps.values(), strict=False):
        if (first, found.baseline) in results.top1:
            _band(axes, results.summary(first, found.baseline, "test"), found.baseline)
        for place, (name, line) in enumerate(sweep.lines.items()):
            points = [
                (x, results.summary(first, arm, "test"))
                for x, arm in sorted(line.items())
                if (first, arm) in results.top1
            ]
            _line(axes, points, name, place)
        axes.set(title=sweep.title, xlabel=sweep.x, ylabel="top-1 on test, %")
        _legend(axes)
    figure.tight_layout()
    return figure


def _noise(results: Results) -> Figure:
    """Accuracy on test by the share of wrong labels, under the first world's teacher."""
    found = results.found
    teacher = found.worlds[found.first_world].teacher
    shares = {
        name: float(world.digits.get("wrong_labels", 0))
        for name, world in found.worlds.items()
        if world.teacher == teacher
    }
    figure = Figure(figsize=(7.2, 4.2))
    axes = figure.subplots()
    arms = dict.fromkeys(arm for world in shares for arm in results.arms(world))
    place = 0
    for arm in arms:
        points = [
            (100 * share, results.summary(world, arm, "test"))
            for world, share in shares.items()
            if (world, arm) in results.top1
        ]
        if len(points) > 1:
            _line(axes, points, found.arms[arm].title, place)
            place += 1
    axes.set(xlabel="wrong training labels, %", ylabel="top-1 on test, %")
    axes.set_xticks([100 * share for share in shares.values()])
    _legend(axes, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    return figure


def _line(axes: Axes, points: Sequence[tuple[float, Summary]], name: str, place: int) -> None:
    axes.errorbar(
        [x for x, _ in points],
        [100 * each.mean for _, each in points],
        yerr=[100 * (each.standard_error or 0) for _, each in points],
        marker="osD^vP*X"[place % 8],
        markersize=5,
        capsize=2,
        linewidth=1.3,
        color=COLOURS[place % len(COLOURS)],
        label=name,
    )


def _legend(axes: Axes, **placed: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8, **placed)


def _band(axes: Axes, summary: Summary, name: str) -> None:
    error = summary.standard_error or 0.0
    low, high = 100 * (summary.mean - error), 100 * (summary.mean + error)
    axes.axhspan(low, high, color="#bbbbbb", alpha=0.4, linewidth=0)
    axes.axhline(100 * summary.mean, color="#777777", linewidth=1, linestyle="--")
    axes.annotate(name.upper(), (1, 100 * summary.mean), xycoords=("axes fraction", "data"))
