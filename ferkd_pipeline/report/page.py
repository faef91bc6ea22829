"""The report as one HTML page: figures and style inside, no script, nothing from elsewhere."""

import csv
import html
import io
import json
from pathlib import Path

from ferkd_pipeline.report import figures
from ferkd_pipeline.report.gather import Results
from ferkd_pipeline.report.labels import NUM_BINS
from ferkd_pipeline.report.tables import Table, tables
from store.atomic import write_bytes

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --paper: #fff; --faint: #667085; --line: #d8dce3 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --paper: #14171c; --faint: #98a1b0; --line: #323842 }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 54rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100% }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line) }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
th { font-weight: 600; color: var(--faint) }
p.note { color: var(--faint); font-size: .9rem; margin: .4rem 0; overflow-wrap: anywhere }
figure { margin: 1rem 0 } svg { width: 100%; height: auto }
svg text { fill: currentColor; font-family: inherit !important }
div.wide { overflow-x: auto }
"""


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
    sections = [_section(table, drawn.pop(table.title, "")) for table in tables(results)]
    if results.max_prob.any():
        sections.insert(2, _figure("How sure the teacher is", figures.max_prob(results.max_prob)))
    body = "\n".join(sections) or "<p>No stage has run yet.</p>"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>ferkd-pipeline: results</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>Results</h1>\n{body}\n</body>\n</html>\n"
    )


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


def _section(table: Table, figure: str) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.header)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in table.rows
    )
    notes = "".join(f'<p class="note">{html.escape(note)}</p>\n' for note in table.notes)
    drawn = f"<figure>{figure}</figure>\n" if figure else ""
    return (
        f"<h2>{html.escape(table.title)}</h2>\n{drawn}"
        f'<div class="wide"><table>\n<tr>{head}</tr>\n{rows}\n</table></div>\n{notes}'
    )


def _figure(title: str, figure: str) -> str:
    note = "Dashed: the thresholds of FerKD's preset, between its actions."
    return f'<h2>{html.escape(title)}</h2>\n<figure>{figure}</figure>\n<p class="note">{note}</p>'
