"""Previews as one page with pictures, which needs no network."""

import html
from collections.abc import Sequence
from pathlib import Path

from ferkd_pipeline.pages.document import document, notes, table_element, table_section
from ferkd_pipeline.preview import bins, figures, pictures, samples, words
from ferkd_pipeline.preview.samples import Found
from stages.calibrate.survey import Preview
from store.atomic import write_bytes

NUM_SUSPECTS = 24
"""Suspected images that are pictured."""


def write_page(
    previews: Sequence[Preview], path: Path, *, images: Path | None, num: int, seed: int
) -> str | None:
    """Write a page to ``path``, all of it or nothing.

    Args:
        previews: of the calibrations, in order.
        path: of the page.
        images: folder of the images; None: it is not known.
        num: sample images of each calibration.
        seed: draws them.

    Returns:
        which pictures are left out and why, in a sentence; None: none are.

    Raises:
        DataError: labels are damaged.
    """
    body = notes(words.looked_at(previews[0]))
    if len(previews) > 1:
        body += table_section(words.comparison(previews))
    problem = None
    for seen in previews:
        found = samples.gather(seen, images, num, NUM_SUSPECTS, seed)
        body += _calibration(seen, found)
        problem = problem or _left_out(found)
    body += "".join(table_section(table) for table in bins.tables(previews))
    page = document("ferkd-pipeline: calibrate preview", "Preview", body, pictures.STYLE)
    write_bytes(path, page.encode())
    return problem


def _left_out(found: Found) -> str | None:
    which = "some pictures" if found.samples else "pictures of images"
    return None if found.problem is None else f"{which} are left out: {found.problem}"


def _calibration(seen: Preview, found: Found) -> str:
    name, on = html.escape(seen.recipe.name), words.on_of(seen)
    warnings = "".join(f"<p>Warning: {html.escape(each)}</p>\n" for each in words.warnings(seen))
    steps = "".join(f"<li>{html.escape(line)}</li>" for line in words.step_lines(seen))
    table = words.actions(seen, "")
    return (
        f"<h2>Calibration {name}</h2>\n<ol class='steps'>{steps}</ol>\n"
        f"<figure>{figures.histogram(seen, on)}</figure>\n{table_element(table)}"
        f"{warnings}{notes(*words.lines(seen))}{_pictures(seen, found)}"
    )


def _pictures(seen: Preview, found: Found) -> str:
    body = ""
    if found.samples:
        by = {"max": "the teacher's maximum", "target": "the ground truth's probability"}
        key = (
            f"Crops of the smallest and the largest values of {by[words.on_of(seen)]}. "
            "Drawn by chance from the images of each sort. Boxes and frames have the colour of the "
            "crop's action; easiest crops are dashed. Bars: the teacher's label (grey) and the one "
            "to train on; ✓ is the ground truth; a dropped crop has no label to train on."
        )
        drawn = "".join(pictures.sample_figure(seen, sample) for sample in found.samples)
        body += f"<h3>Hardest and easiest crops</h3>\n{notes(key)}{drawn}"
    if seen.suspects is not None and not len(seen.suspects):
        body += notes(*words.suspect_lines(seen))
    elif seen.suspects is not None:
        shown, total = len(found.suspects), len(seen.suspects)
        body += f"<h3>Suspected of a wrong label</h3>\n{notes(f'{shown:,} of {total:,}.')}"
        body += pictures.suspect_figures(seen, found) if shown else ""
    if (problem := _left_out(found)) is not None:
        body += notes(problem[0].upper() + problem[1:])
    return body
