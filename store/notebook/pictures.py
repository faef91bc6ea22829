"""Pictures of an image, of chosen crops as a model sees them, and of their labels.

Shapes: m chosen crops, C classes. Nothing here reads a store: see `store.notebook.picture_inputs`.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from store.notebook.figure import notebook_figure
from store.notebook.picture_inputs import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The hues of the report's figures (ferkd_pipeline.report.figures), which the store may not import.
COLOURS = ("#3b8fdd", "#e07b39", "#2fa37c", "#c678b8", "#c9a227", "#8a8f98")
"""Of the crops, in order; told apart by the colour-blind, and numbered as well."""
FAINT = "#667085"
INK = "#1d2330"

_ROWS = 6
"""Crops below each other; more go into the next column."""
_NUM_BARS = 4
_NAME_LENGTH = 20
_ROW_INCHES, _IMAGE_INCHES, _CROP_INCHES, _BARS_INCHES = 1.3, 4.6, 1.2, 2.6


def draw(picture: Picture) -> "Figure":
    """Draw the image with its crops' boxes, and each crop beside its label."""
    num = len(picture.crops)
    columns = math.ceil(num / _ROWS)
    rows = math.ceil(num / columns)
    widths = [_IMAGE_INCHES, *[_CROP_INCHES, _BARS_INCHES] * columns]
    size = (sum(widths), max(3.4, rows * _ROW_INCHES) + 0.7)
    figure = notebook_figure(size)
    figure.patch.set_facecolor("white")  # a notebook may be dark, the text is not
    grid = figure.add_gridspec(rows, len(widths), width_ratios=widths)
    _draw_image(figure.add_subplot(grid[:, 0]), picture)
    for place in range(num):
        row, column = place % rows, 1 + 2 * (place // rows)
        _draw_crop(figure.add_subplot(grid[row, column]), picture, place)
        _draw_label(figure.add_subplot(grid[row, column + 1]), picture, place)
    figure.suptitle(
        f"{picture.path}\nground truth: {_short(picture.class_names[picture.target], 40)}",
        fontsize=11, color=INK, parse_math=False,
    )  # fmt: skip
    figure.supxlabel(_key(picture), fontsize=8.5, color=FAINT)
    return figure


def _key(picture: Picture) -> str:
    height, width = picture.seen.shape[1:3]
    key = f"crops as a model sees them, {height} x {width} px"
    if picture.teacher is None:
        return f"{key}; the label is a vector of logits, which has no class probabilities"
    key += "; bold: ground truth; max: the teacher's maximum probability"
    if picture.calibration is None:
        return f"{key}; bars: the teacher's label"
    key += (
        f"\nbars: the label after calibration {picture.calibration}; line: the teacher's, if other"
    )
    return f"{key}; grey: dropped, not trained on" if "drop" in (picture.actions or []) else key


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _line_style(place: int) -> str:
    """Crops that share a colour differ in this."""
    return ("-", "--", ":", "-.")[place // len(COLOURS) % 4]


def _draw_image(axes: "Axes", picture: Picture) -> None:
    from matplotlib.patches import Rectangle

    height, width = picture.pixels.shape[:2]
    axes.imshow(picture.pixels, interpolation="nearest" if max(height, width) < 200 else None)
    for place, (top, left, box_height, box_width) in enumerate(picture.boxes.tolist()):
        corner, size = (left - 0.5, top - 0.5), (box_width, box_height)
        # A dark line below: the coloured one is seen on light and on dark pixels.
        for line, colour in ((4.0, INK), (2.2, _colour(place))):
            style = "-" if colour == INK else _line_style(place)
            box = Rectangle(corner, *size, fill=False, ec=colour, linewidth=line, linestyle=style)
            axes.add_patch(box).set_clip_on(False)
    for place, (x, y, across, down) in enumerate(_tag_places(picture)):
        axes.text(
            x, y, f" {picture.crops[place]} ", ha=across, va=down, fontsize=9, color="white",
            fontweight="bold", bbox={"facecolor": INK, "edgecolor": _colour(place), "pad": 1.5},
        )  # fmt: skip
    lows = np.minimum(picture.boxes[:, :2].min(axis=0), 0)
    highs = (picture.boxes[:, :2] + picture.boxes[:, 2:]).max(axis=0)
    highs = np.maximum(highs, (height, width))
    if lows.any() or (highs > (height, width)).any():  # what a crop shows there is black
        around = Rectangle((lows[1] - 0.5, lows[0] - 0.5), *(highs - lows)[::-1], color="black")
        axes.add_patch(around).set_zorder(-1)
    axes.set_xlim(lows[1] - 0.5, highs[1] - 0.5)
    axes.set_ylim(highs[0] - 0.5, lows[0] - 0.5)
    axes.set_anchor("N")
    axes.set_axis_off()
    axes.set_title(f"{width} x {height} px", fontsize=9, color=FAINT, loc="left")


def _tag_places(picture: Picture) -> list[tuple[float, float, str, str]]:
    """Where each crop's number stands: the corner of its box that is farthest from the others."""
    placed: list[tuple[float, float]] = []
    found = []
    for top, left, height, width in picture.boxes.tolist():
        corners = [
            (x, y, across, down)
            for y, down in ((top, "top"), (top + height - 1, "bottom"))
            for x, across in ((left, "left"), (left + width - 1, "right"))
        ]
        best = max(corners, key=lambda corner: _room(corner[:2], placed))
        placed.append(best[:2])
        found.append(best)
    return found


def _room(point: tuple[float, float], placed: list[tuple[float, float]]) -> float:
    return min((math.dist(point, other) for other in placed), default=0.0)


def _draw_crop(axes: "Axes", picture: Picture, place: int) -> None:
    axes.imshow(picture.seen[place])
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=_colour(place), linewidth=2.5, linestyle=_line_style(place))


def _draw_label(axes: "Axes", picture: Picture, place: int) -> None:
    axes.set_title(_heading(picture, place), fontsize=9, color=INK, loc="left")
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(FAINT)
    axes.set_xlim(0, 1.25)  # room for the number behind a bar of 1
    axes.set_xticks([])
    axes.set_yticks([])
    if picture.teacher is None or picture.label is None or np.isnan(picture.teacher[place]).all():
        axes.axis("off")
        return
    teacher, label = picture.teacher[place], picture.label[place]
    is_dropped = bool(np.isnan(label).all())
    shown = teacher if is_dropped else label
    bars = _bars(shown, teacher, picture.target)
    values = [float(shown[list(ids)].sum()) for ids in bars]
    ticks = axes.set_yticks(range(len(bars)), [_name(picture, ids) for ids in bars], fontsize=8.5)
    for number, (ids, value, tick) in enumerate(zip(bars, values, ticks, strict=True)):
        is_target = ids == (picture.target,)
        colour = FAINT if is_dropped else _colour(place)
        axes.barh(number, value, height=0.62, color=colour, alpha=1.0 if is_target else 0.5,
                  hatch="////" if is_dropped else None, edgecolor="white", linewidth=0)  # fmt: skip
        said = float(teacher[list(ids)].sum())
        if abs(said - value) > 0.005:
            axes.plot([said, said], [number - 0.42, number + 0.42], color=INK, linewidth=1.6)
        end = said if value < said < value + 0.22 else value  # else the line runs through the text
        axes.text(end + 0.03, number, _number(value), va="center", fontsize=8, color=INK)
        tick.label1.set_fontweight("bold" if is_target else "normal")
    axes.set_ylim(max(len(bars), 3) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def _bars(
    shown: NDArray[np.float64], teacher: NDArray[np.float64], target: int
) -> list[tuple[int, ...]]:
    """Classes of every bar: the most probable, the ground truth, and all others as one."""
    order = np.lexsort((-teacher, -shown.round(9))).tolist()
    wanted = {target, int(teacher.argmax())}
    wanted |= set([c for c in order if c not in wanted][: _NUM_BARS - len(wanted)])
    single = [c for c in order if c in wanted]
    others = tuple(c for c in order if c not in wanted)
    return [*[(c,) for c in single], *([others] if others else [])]


def _name(picture: Picture, class_ids: tuple[int, ...]) -> str:
    if len(class_ids) > 1:
        return f"{len(class_ids)} others"
    return _short(picture.class_names[class_ids[0]], _NAME_LENGTH).replace("$", r"\$")


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _number(value: float) -> str:
    return "< 0.01" if 0 < value < 0.005 else f"{value:.2f}"


def _heading(picture: Picture, place: int) -> str:
    parts = [f"crop {picture.crops[place]}"]
    if picture.max_prob is not None:
        value = float(picture.max_prob[place])
        if math.isnan(value):
            return f"{parts[0]} · rejected: no label"
        parts.append(f"max {value:.2f}")
    if picture.actions is not None:
        parts.append(picture.actions[place])
    return " · ".join(parts)
