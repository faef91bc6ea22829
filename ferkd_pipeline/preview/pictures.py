"""Images, crops and labels as HTML: FerKD's Figure 1, and suspected images for review.

Shapes: H, W height and width of an image.
"""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ferkd_pipeline.preview.figures import ACTION_COLOURS
from ferkd_pipeline.preview.samples import Found, Sample, top_classes
from stages.calibrate.survey import Preview

STYLE = """
.sample { border-top: 1px solid var(--line); padding-top: .8rem; margin: 1.2rem 0 }
.sample figcaption { overflow-wrap: anywhere; margin-bottom: .5rem }
.sides { display: flex; flex-wrap: wrap; gap: .6rem 1.2rem; align-items: flex-start }
.whole { flex: 1 1 12rem } .whole svg { width: 100%; max-height: 24rem }
.pixelated { image-rendering: pixelated }
.crops { flex: 2 1 18rem; display: flex; flex-wrap: wrap; gap: .8rem 1.2rem }
.crop { flex: 1 1 14rem; min-width: 0; max-width: 22rem; font-size: .85rem }
.crop > div { display: flex; gap: .6rem }
.crop img { width: 5rem; height: auto; box-sizing: border-box; border: 3px solid var(--at) }
.bars { flex: 1; min-width: 0; display: grid; grid-template-columns: minmax(0, 5fr) 3fr auto;
  gap: 0 .4rem; font-size: .75rem; line-height: 1.4; align-content: start;
  font-variant-numeric: tabular-nums }
.bars span { white-space: nowrap; overflow: hidden; text-overflow: ellipsis }
.bars .truth { font-weight: 700 } .bars i { display: block; height: .35rem; background: var(--at) }
.bars i.was { background: var(--faint); opacity: .6; margin-top: .2rem }
.at { color: var(--at) }
.suspects { display: flex; flex-wrap: wrap; gap: 1rem; font-size: .8rem; line-height: 1.35;
  overflow-wrap: anywhere }
.suspects > div { width: 9.4rem }
.suspects img { width: 100%; height: 7rem; object-fit: contain; background: #8882; display: block }
"""

_SAID = {"max": "max", "target": "ground truth"}
_NUM_CLASSES = 4
_LARGEST, _SMALL = 480, 200
"""Pixels of the longer side: images are made no larger; below, pixels stay squares."""


def sample_figure(seen: Preview, sample: Sample) -> str:
    """Return an image with its crops' boxes, and each crop beside its label."""
    names, picture = seen.inputs.images.class_names, sample.picture
    counts = ", ".join(f"{count} {name}" for name, count in sample.counts.items())
    truth = html.escape(names[picture.target])
    head = f"<b>{html.escape(picture.path)}</b> · ground truth: {truth} · crops: {counts}"
    if seen.suspects is not None and sample.image_id in seen.suspects.image_ids:
        head += " · suspected of a wrong label, so the teacher's labels stay"
    crops = "\n".join(_crop(sample, place, names) for place in range(len(sample.crops)))
    return (
        f'<figure class="sample">\n<figcaption>{head}</figcaption>\n<div class="sides">'
        f'<div class="whole">{_boxes(sample)}</div>\n'
        f'<div class="crops">\n{crops}\n</div></div>\n</figure>\n'
    )


def suspect_figures(seen: Preview, found: Found) -> str:
    """Return suspected images with what is said of them, for people to judge."""
    suspects, images = seen.suspects, seen.inputs.images
    assert suspects is not None, "the recipe has no step noise"
    cards = []
    for place, pixels in found.suspects.items():
        path = html.escape(str(images.paths[suspects.image_ids[place]]))
        truth = html.escape(images.class_names[suspects.targets[place]])
        said = html.escape(images.class_names[suspects.teacher_classes[place]])
        cards.append(
            f'<div><img alt="{path}" src="{_data(pixels, 320)}"{_sharp(pixels)}><b>{truth}</b>?<br>'
            f"teacher: {said}, {suspects.agreement[place]:.0%} of the crops<br>"
            f'<span class="path">{path}</span></div>'
        )
    return '<div class="suspects">\n' + "\n".join(cards) + "\n</div>\n"


def _boxes(sample: Sample) -> str:
    pixels, boxes = sample.picture.pixels, sample.picture.boxes
    height, width = pixels.shape[:2]
    lows = np.minimum(boxes[:, :2].min(axis=0), 0)
    highs = np.maximum((boxes[:, :2] + boxes[:, 2:]).max(axis=0), (height, width))
    (y, x), (down, across) = lows.tolist(), (highs - lows).tolist()
    line = max(across, down) / 150
    sharp = _sharp(pixels)
    shapes = [f'<image href="{_data(pixels, _LARGEST)}" width="{width}" height="{height}"{sharp}/>']
    for place, (top, left, tall, wide) in enumerate(boxes.tolist()):
        corner = f'x="{left}" y="{top}" width="{wide}" height="{tall}" fill="none"'
        colour = ACTION_COLOURS[sample.actions[place].name.lower()]
        dash = "" if _is_hard(sample, place) else f' stroke-dasharray="{3 * line:.2f}"'
        # A dark line below: the coloured one is seen on light and on dark pixels.
        shapes.append(f'<rect {corner} stroke="#1d2330" stroke-width="{2 * line:.2f}"/>')
        shapes.append(f'<rect {corner} stroke="{colour}" stroke-width="{line:.2f}"{dash}/>')
    said = html.escape(f"{sample.picture.path} and boxes of its hardest and easiest crops")
    view = f"{x - line:.2f} {y - line:.2f} {across + 2 * line:.2f} {down + 2 * line:.2f}"
    return f'<svg role="img" aria-label="{said}" viewBox="{view}">{"".join(shapes)}</svg>'


def _is_hard(sample: Sample, place: int) -> bool:
    return place < (len(sample.crops) + 1) // 2


def _crop(sample: Sample, place: int, names: Sequence[str]) -> str:
    action = sample.actions[place].name.lower()
    colour = ACTION_COLOURS[action]
    sort = "hard" if _is_hard(sample, place) else "easy"
    head = f"{sort}: {_SAID[sample.on]} {sample.prob[place]:.3f}"
    head = "no prediction" if action == "reject" else head
    number = int(sample.crops[place])
    seen = _data(sample.picture.seen[place], _LARGEST)
    sharp = _sharp(sample.picture.seen[place])
    bars = "" if action == "reject" else _bars(sample, place, names)
    return (
        f'<div class="crop" style="--at: {colour}"><b>{head} · <span class="at">{action}</span></b>'
        f'<div><img alt="crop {number}" src="{seen}"{sharp}><div class="bars">{bars}</div></div>'
        "</div>"
    )


def _bars(sample: Sample, place: int, names: Sequence[str]) -> str:
    """Return for each class its name, a bar before and one after, and both numbers."""
    is_dropped = bool(np.isnan(sample.label[place]).any())
    cells = []
    for c in top_classes(sample, place, _NUM_CLASSES):
        name, before = html.escape(names[c]), float(sample.teacher[place, c])
        kind = ' class="truth"' if c == sample.picture.target else ""
        mark = "✓ " if kind else ""
        drawn, said = f'<i class="was" style="width: {100 * before:.1f}%"></i>', f"{before:.2f}"
        if not is_dropped:
            after = float(sample.label[place, c])
            drawn += f'<i style="width: {100 * after:.1f}%"></i>'
            said += "" if f"{after:.2f}" == said else f" → {after:.2f}"
        cells.append(
            f'<span{kind} title="{name}">{mark}{name}</span><span>{drawn}</span><span>{said}</span>'
        )
    return "".join(cells)


def _sharp(pixels: NDArray[np.uint8]) -> str:
    """Return the attribute of a small image (H, W, 3), whose pixels are to stay squares."""
    return ' class="pixelated"' if max(pixels.shape[:2]) < _SMALL else ""


def _data(pixels: NDArray[np.uint8], largest: int) -> str:
    """Return an image (H, W, 3) as a data: address; small ones without loss."""
    from PIL import Image

    image, out = Image.fromarray(np.ascontiguousarray(pixels)), io.BytesIO()
    is_small = max(image.size) < _SMALL
    image.thumbnail((largest, largest))
    image.save(out, format="PNG" if is_small else "JPEG", quality=85)
    kind = "png" if is_small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"
