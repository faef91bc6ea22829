"""Previews as one page with pictures, which needs no network."""

import html
from collections.abc import Sequence
from pathlib import Path

from ferkd_pipeline.pages.document import document, notes, table_element, table_section
from ferkd_pipeline.preview import bins, figures, pictures, samples, words
from stages.calibrate.survey import Preview
from store.atomic import write_bytes

NUM_SUSPECTS = 24
"""Suspected images that are pictured."""


def write_page(
    previews: Sequence[Preview], path: Path, *, images: Path, num: int, seed: int
) -> None:
    """Write the page to ``path``, all of it or nothing; see `page`."""
    write_bytes(path, page(previews, images=images, num=num, seed=seed).encode())


def page(previews: Sequence[Preview], *, images: Path, num: int, seed: int) -> str:
    """Return the page's HTML.

    Args:
        previews: of the calibrations, in order.
        images: folder of the images.
        num: sample images of each calibration.
        seed: draws them.

    Raises:
        DataError: labels are damaged.
    """
    body = notes(words.looked_at(previews[0]))
    if len(previews) > 1:
        body += table_section(words.comparison(previews))
    for seen in previews:
        body += _calibration(seen, images, num, seed)
    return document("ferkd-pipeline: calibrate preview", "Preview", body, pictures.STYLE)


def _calibration(seen: Preview, images: Path, num: int, seed: int) -> str:
    name, on = html.escape(seen.recipe.name), words.on_of(seen)
    steps = "".join(f"<li>{html.escape(line)}</li>" for line in words.step_lines(seen))
    table = words.actions(seen, "")
    reliable = bins.table(seen, on)
    return (
        f"<h2>Calibration {name}</h2>\n<ol class='steps'>{steps}</ol>\n"
        f"<figure>{figures.histogram(seen, on)}</figure>\n{table_element(table)}"
        f"{notes(*words.lines(seen))}{_pictures(seen, images, num, seed)}"
        f"<h3>{html.escape(reliable.title)}</h3>\n{table_element(reliable)}"
    )


def _pictures(seen: Preview, images: Path, num: int, seed: int) -> str:
    found = samples.gather(seen, images, num, NUM_SUSPECTS, seed)
    body = ""
    if found.samples:
        key = (
            "Drawn by chance from the images of each sort. Boxes and frames have the colour of the "
            "crop's action; easiest crops are dashed. Bars: the teacher's label (grey) and the one "
            "to train on; ✓ is the ground truth; a dropped crop has no label to train on."
        )
        drawn = "".join(pictures.sample_figure(seen, sample) for sample in found.samples)
        body += f"<h3>Hardest and easiest crops</h3>\n{notes(key)}{drawn}"
    if seen.suspects is not None and len(seen.suspects):
        shown, total = len(found.suspects), len(seen.suspects)
        body += f"<h3>Suspected of a wrong label</h3>\n{notes(f'{shown:,} of {total:,}.')}"
        body += pictures.suspect_figures(seen, found) if shown else ""
    if found.problem is not None:
        which = "Some pictures" if found.samples else "Pictures of images"
        body += notes(f"{which} are left out: {found.problem}")
    return body
