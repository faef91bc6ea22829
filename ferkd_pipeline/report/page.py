"""The report as one HTML page: figures and style inside, no script, nothing from elsewhere."""

import csv
import html
import io
import json
from pathlib import Path

from ferkd_pipeline.pages.document import document, notes, table_section
from ferkd_pipeline.report import figures
from ferkd_pipeline.report.gather import Results
from ferkd_pipeline.report.labels import NUM_BINS
from ferkd_pipeline.report.tables import tables
from store.atomic import write_bytes


def write_page(results: Results, path: Path) -> None:
    """Write the page to `path`; beside it what DVC shows: `summary.json` and `max_prob.csv`."""
    write_bytes(path, page(results).encode())
    summary = json.dumps(results.summary(), indent=2) + "\n"
    write_bytes(path.with_name("summary.json"), summary.encode())
    write_bytes(path.with_name("max_prob.csv"), histogram_csv(results).encode())


def page(results: Results) -> str:
    """Return the page's HTML."""
    drawn = {}
    if results.curves:
        drawn["Students"] = figures.curves(results.curves)
    sections = [table_section(table, drawn.pop(table.title, "")) for table in tables(results)]
    if results.max_prob.any():
        sections.insert(2, _figure("How sure the teacher is", figures.max_prob(results.max_prob)))
    body = "\n".join(sections) or "<p>No stage has run yet.</p>"
    return document("ferkd-pipeline: results", "Results", body)


def histogram_csv(results: Results) -> str:
    """Return the histogram of maximum probabilities: range, share of the crops, crops."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["max_prob", "share", "crops"])
    total = max(int(results.max_prob.sum()), 1)
    for number, count in enumerate(results.max_prob.tolist()):
        low, high = number / NUM_BINS, (number + 1) / NUM_BINS
        writer.writerow([f"{low:.2f} to {high:.2f}", f"{count / total:.6f}", count])
    return out.getvalue()


def _figure(title: str, figure: str) -> str:
    note = "Dashed: the thresholds of FerKD's preset, between its actions."
    shown = f"<h2>{html.escape(title)}</h2>\n<figure>{figure}</figure>\n"
    return shown + notes(note)
