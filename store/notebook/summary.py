"""A short description of a store, for a notebook or a prompt. Reads entries, no rows."""

import html as markup
from pathlib import Path
from typing import Any

from store.errors import FerkdError
from store.inspection.info import info
from store.units import readable_bytes


def lines(root: Path) -> list[str]:
    """The description as text; says so where there is no store to describe."""
    try:
        found = info(root)
    except FerkdError as error:
        return [f"LabelStore({str(root)!r}): {error}"]
    head = f"LabelStore({str(root)!r})" + "".join(f", {fact}" for fact in facts(found))
    rows = artifacts(found)
    width = max(len(name) for name, *_ in rows)
    return [head, *[f"  {name:<{width}}  {n:>13} rows  {size:>9}" for name, n, size in rows]]


def html(root: Path) -> str:
    """The same as HTML, for a notebook."""
    try:
        found = info(root)
    except FerkdError as error:
        return f"<p><b>LabelStore</b> {markup.escape(str(error))}</p>"
    name = markup.escape(str(root))
    stated = " · ".join(markup.escape(fact) for fact in facts(found))
    rows = "".join(
        f"<tr><th style='text-align:left'>{markup.escape(artifact)}</th>"
        f"<td>{num}</td><td>{size}</td></tr>"
        for artifact, num, size in artifacts(found)
    )
    return (
        f"<div><b>LabelStore</b> <code>{name}</code><br>{stated}"
        f"<table><tr><th></th><th>rows</th><th>size</th></tr>{rows}</table></div>"
    )


def facts(found: dict[str, Any]) -> list[str]:
    """What people ask for first: images, classes, crops, label, teacher, bytes a crop."""
    stated = []
    if "num_images" in found:
        stated.append(f"{found['num_images']:,} images of {found['num_classes']:,} classes")
    if "num_crops" in found:
        stated.append(f"{found['num_crops']} crops an image")
    if "label" in found:
        label = found["label"]
        kept = f", K = {label['k']}" if label["kind"].startswith("marginal") else ""
        stated.append(f"label {label['kind']}{kept}")
    if "bytes_per_crop" in found:
        stated.append(f"{found['bytes_per_crop']} bytes a crop")
    teacher = found.get("teacher", {})
    if teacher.get("name"):
        digest = f" ({teacher['digest'][:8]})" if teacher.get("digest") else ""
        stated.append(f"teacher {teacher['name']}{digest}")
    return stated


def artifacts(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, rows and size of every artifact."""
    return [
        (name, f"{part['rows']:,}", readable_bytes(part["num_bytes"]))
        for name, part in found["artifacts"].items()
    ]
