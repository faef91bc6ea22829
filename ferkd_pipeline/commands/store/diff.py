"""`ferkd-pipeline store diff`: what differs between two stores, or since a revision."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ferkd_pipeline.commands.options import json_option, params_option, print_json
from ferkd_pipeline.commands.store.shared import percent, root_of, show_lines, show_table
from store.errors import ParamsError
from store.units import readable_bytes

if TYPE_CHECKING:
    from store.inspection.difference import ArtifactDifference, Change, StoreDifference, StoreState
    from store.inspection.row_difference import RowsDifference

EPILOG = """
\b
Examples:
  ferkd-pipeline store diff labels /data/old/labels --rows
  ferkd-pipeline store diff --rev HEAD~1          since that revision
  ferkd-pipeline store diff --rev v1 --rev v2     between two revisions
  ferkd-pipeline store diff a b --exit-code  1 when rows differ

A revision is read from DVC's cache: `dvc fetch` first where that is empty.
"""
_MOST_CHANGES = 12
_MOST_LETTERS = 40
_folder = click.Path(file_okay=False, path_type=Path)


@click.command(epilog=EPILOG, short_help="Show what differs between two stores or revisions.")
@click.argument("a", metavar="[A]", required=False, type=_folder)
@click.argument("b", metavar="[B]", required=False, type=_folder)
@click.option(
    "--rev",
    "revisions",
    multiple=True,
    metavar="REV",
    help="Compare with A at this git revision, from DVC's cache; given twice, the first with the "
    "second.",
)
@click.option("--rows", "with_rows", is_flag=True, help="Read and compare boxes, labels, actions.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 when rows differ, 0 when none does.")
@params_option
@json_option
@click.pass_context
def diff(
    context: click.Context,
    a: Path | None,
    b: Path | None,
    revisions: tuple[str, ...],
    with_rows: bool,
    exit_code: bool,
    params_path: Path,
    as_json: bool,
) -> None:
    """Compare label store A with B, or A (by default the store of params.yaml) with itself at a
    git revision: parts, parameters, inputs, counts and software of every artifact.

    Exits with 0 whether or not they differ, unless --exit-code is given.
    """
    _check(a, b, revisions, with_rows)
    from store.inspection import difference

    # With a revision, the older store is A: what is shown reads from then to now.
    if revisions:
        states = _with_revisions(a, revisions, params_path)
    else:
        assert a is not None and b is not None
        states = [difference.state_of(root_of(each, params_path)) for each in (a, b)]
    found = difference.compare(*states)
    rows = _rows(a, b) if with_rows and a and b else None
    if as_json:
        print_json(_as_json(found, rows))
    else:
        _show(found)
        if rows is not None:
            _show_rows(rows)
    if exit_code and not found.is_same:
        context.exit(1)


def _check(a: Path | None, b: Path | None, revisions: Sequence[str], with_rows: bool) -> None:
    if len(revisions) > 2:
        raise ParamsError(f"--rev: given {len(revisions)} times, allowed: once or twice")
    if revisions and b is not None:
        raise ParamsError("--rev: compares A with a revision of itself; leave B out")
    if not revisions and (a is None or b is None):
        raise ParamsError("name two stores, A and B, or a revision with --rev")
    if revisions and with_rows:
        raise ParamsError(
            "--rows: reads rows, so both stores must be on disk; check the revision out elsewhere"
        )


def _with_revisions(
    a: Path | None, revisions: Sequence[str], params_path: Path
) -> list[StoreState]:
    from ferkd_pipeline.commands.store.revision import state_at
    from store.inspection import difference

    if a is None:
        from ferkd_pipeline import params

        a = params.load(params_path).store.root
    states = [state_at(a, revision) for revision in revisions]
    return states if len(states) == 2 else [*states, difference.state_of(root_of(a, params_path))]


def _rows(a: Path, b: Path) -> RowsDifference:
    from ferkd_pipeline import progress
    from store.inspection import row_difference

    with progress.watched() as watch:
        return row_difference.compare_rows(a, b, watch)


def _as_json(found: StoreDifference, rows: RowsDifference | None) -> dict[str, Any]:
    value = {"is_same": found.is_same, **dataclasses.asdict(found)}
    return value if rows is None else {**value, "rows": dataclasses.asdict(rows)}


def _show(found: StoreDifference) -> None:
    show_lines([f"A: {found.a}", f"B: {found.b}"])
    show_lines([f"Incomplete: {line}" for line in found.missing])
    if all(each.state == "same" for each in found.artifacts):
        show_lines(["The same."])
        return
    rows = [
        (
            each.artifact,
            each.state,
            _pair(f"{each.parts_a}", f"{each.parts_b}"),
            f"{len(each.differing)}" if each.differing else "-",
            _pair(*(f"{number:,}" for number in each.rows)),
            _pair(*(readable_bytes(number) for number in each.num_bytes)),
        )
        for each in found.artifacts
    ]
    header = ("artifact", "state", "parts", "differing", "rows", "size")
    show_table("Artifacts", header, rows, num_left=2)
    for each in found.artifacts:
        if lines := list(_changes(each)):
            show_lines(["", each.artifact, *lines])


def _pair(a: str, b: str) -> str:
    return a if a == b else f"{a} -> {b}"


def _changes(each: ArtifactDifference) -> Iterable[str]:
    if each.state.startswith("only"):
        return
    kinds = (
        ("", each.stage),
        ("params", each.params),
        ("input", each.inputs),
        ("fit", each.fit),
        ("attribute", each.attributes),
        ("count", each.numbers),
        ("software", each.software),
    )
    for name, stems in (("only in A", each.only_a), ("only in B", each.only_b)):
        if stems:
            yield f"  {name}: {', '.join(stems[:_MOST_CHANGES])}{_more(len(stems))}"
    for kind, changes in kinds:
        shown = changes[:_MOST_CHANGES]
        for change in shown:
            yield f"  {kind} {change.path}: {_values(change)}{_parts(change, each)}".replace(
                "   ", "  "
            )
        if len(changes) > len(shown):
            yield f"  {kind}: {len(changes) - len(shown)} more, see --json"


def _more(count: int) -> str:
    return f" and {count - _MOST_CHANGES} more" if count > _MOST_CHANGES else ""


def _values(change: Change) -> str:
    return f"{_short(change.a)} -> {_short(change.b)}"


def _parts(change: Change, each: ArtifactDifference) -> str:
    total = min(each.parts_a, each.parts_b)
    if change in each.fit or change in each.numbers:  # one for all parts
        return ""
    is_all = change.num_parts == total or total <= 1
    if is_all and not _is_digest(change.a):
        return ""
    return f"  (part by part, {change.num_parts} of {total})" if total > 1 else ""


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) >= 32 and set(value) <= set("0123456789abcdef")


def _short(value: object) -> str:
    if value is None:
        return "none"
    if _is_digest(value):
        return f"{str(value)[:12]}.."
    text = str(value)
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}.."


def _show_rows(rows: RowsDifference) -> None:
    if images := rows.images:
        show_lines(
            [
                "",
                f"Images: {images.only_a:,} only in A, {images.only_b:,} only in B, "
                f"{images.other_content:,} with other bytes, {images.other_class:,} of other class",
            ]
        )
    if crops := rows.crops:
        line = (
            f"Crops: {crops.num_crops:,}; {crops.other_box:,} boxes and {crops.other_flip:,} "
            "flips differ"
        )
        if crops.other_ops:
            line += f"; {crops.other_ops:,} crops have other operations"
        if crops.other_mix:
            line += f"; {crops.other_mix:,} crops are mixed otherwise"
        show_lines([line])
    if labels := rows.labels:
        line = (
            f"Labels: {labels.num_crops:,}; {labels.other_label:,} differ, of which "
            f"{labels.other_class:,} in the most probable class"
        )
        if labels.rejected_in_one:
            line += f"; {labels.rejected_in_one:,} are rejected in one store only"
        if labels.mean_variation is not None and labels.max_variation is not None:
            line += (
                f"; total variation {labels.mean_variation:.2g} in the mean, "
                f"{labels.max_variation:.2g} at most"
            )
        show_lines([line])
    for name, transitions in rows.calibrations.items():
        total = max(1, sum(transitions.values()))
        cells = [
            (change, f"{count:,}", percent(count / total))
            for change, count in sorted(transitions.items(), key=lambda item: -item[1])
        ]
        show_table(f"Actions of calibration {name}", ("A -> B", "crops", "%"), cells)
    show_lines([f"Note: {note}" for note in rows.notes])
