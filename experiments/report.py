"""Write the tables and plots of docs/study.md from the small files of results.

    python -m experiments.report
    python -m experiments.report --check     say whether they are those of the results

A table stands between `<!-- table:NAME -->` and `<!-- end -->`; what is between is replaced.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments import command, plots, read, tables
from experiments.study import Study
from store.atomic import write_bytes
from store.errors import DataError

PAGE = Path("docs/study.md")
PLOTS = Path("docs/study")

_PLACE = re.compile(r"(<!-- table:(?P<name>[\w-]+) -->\n)(?P<text>.*?)(<!-- end -->)", re.DOTALL)


def main(argv: Sequence[str] | None = None) -> int:
    """Run as the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.report", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where it differs")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page (%(default)s)")
    parser.add_argument("--plots", type=Path, default=PLOTS, help="their folder (%(default)s)")

    def act(given: argparse.Namespace, found: Study) -> None:
        write(found, given.page, given.plots, check=given.check)

    return command.run(parser, argv, act)


def write(found: Study, page: Path, folder: Path, *, check: bool = False) -> None:
    """Fill the page's tables and draw its plots; with ``check`` only compare the tables.

    Raises:
        DataError: results or places of tables are missing; with ``check``, the page is not theirs.
    """
    results = read.results(found)
    text = page.read_text(encoding="utf-8")
    filled = fill(text, tables.tables(found, results))
    if check:
        if filled != text:
            raise DataError(f"{page} has other tables; run `python -m experiments.report`")
        return
    write_bytes(page, filled.encode())
    folder.mkdir(parents=True, exist_ok=True)
    for name, drawn in plots.plots(results).items():
        write_bytes(folder / f"{name}.svg", drawn)


def fill(text: str, made: Mapping[str, str]) -> str:
    """Return a page with its tables replaced.

    Raises:
        DataError: a table has no place, or a place no table.
    """
    places = [match["name"] for match in _PLACE.finditer(text)]
    if missing := [name for name in made if name not in places]:
        raise DataError(f"the page has no `<!-- table:{missing[0]} -->` .. `<!-- end -->`")
    if unknown := [name for name in places if name not in made]:
        raise DataError(
            f"the page has a place for the table {unknown[0]}, allowed: {', '.join(made)}"
        )
    return _PLACE.sub(lambda match: f"{match[1]}\n{made[match['name']]}\n\n{match[4]}", text)


if __name__ == "__main__":
    sys.exit(main())
