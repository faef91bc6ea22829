"""One HTML page: style inside, no script, nothing from elsewhere."""

import html
import re

from ferkd_pipeline.pages.table import Table

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


_NO_LETTERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""What HTML does not allow: names of files and classes may hold it."""


def document(title: str, heading: str, body: str, style: str = "") -> str:
    """Return a whole page; ``style`` is added to the common one."""
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(heading)}</h1>\n{body}\n</body>\n</html>\n"
    )
    return _NO_LETTERS.sub("\N{REPLACEMENT CHARACTER}", page)


def table_section(table: Table, figure: str = "") -> str:
    """Return a table below its title, a figure between them where there is one."""
    drawn = f"<figure>{figure}</figure>\n" if figure else ""
    return f"<h2>{html.escape(table.title)}</h2>\n{drawn}{table_element(table)}"


def table_element(table: Table) -> str:
    """Return a table without its title, and the sentences below it."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.header)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in table.rows
    )
    shown = f'<div class="wide"><table>\n<tr>{head}</tr>\n{rows}\n</table></div>\n'
    return shown + notes(*table.notes)


def notes(*sentences: str) -> str:
    """Return sentences, each as a faint paragraph."""
    return "".join(f'<p class="note">{html.escape(each)}</p>\n' for each in sentences)
