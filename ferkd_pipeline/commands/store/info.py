"""`ferkd-pipeline store info`: what a store holds and where each artifact came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from ferkd_pipeline.commands.options import json_option, params_option, print_json
from ferkd_pipeline.commands.store.shared import (
    root_of,
    root_option,
    show_lines,
    show_pairs,
    show_table,
)
from store.units import readable_bytes

_DIGEST_LETTERS = 12


@click.command(short_help="Show what a store holds and where it came from.")
@root_option
@params_option
@json_option
def info(root: Path | None, params_path: Path, as_json: bool) -> None:
    """Show what a store holds: artifacts, shards, rows, sizes; stage, revision, parameters and
    software that made each; whether it is recorded. Reads entries, no rows.
    """
    from store.inspection import info as store_info

    found = store_info.info(root_of(root, params_path))
    if as_json:
        print_json(found)
        return
    artifacts: Mapping[str, Mapping[str, Any]] = found["artifacts"]
    show_lines([f"{found['root']}: label store, format version {found.get('format_version', '?')}"])
    show_pairs(list(_headline(found)))
    show_table(
        "Artifacts",
        ("artifact", "parts", "rows", "size", "made by", "recorded"),
        [_row(name, each) for name, each in artifacts.items()],
    )
    show_lines(["", "Where each came from"])
    show_pairs([*_parameters(artifacts), *_software(artifacts)])


def _headline(found: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    counts = [
        f"{found[key]:,} {key.removeprefix('num_').replace('_', ' ')}"
        for key in ("num_images", "num_classes", "num_rejects")
        if isinstance(found.get(key), int)
    ]
    if isinstance(found.get("num_crops"), int):
        counts.append(f"{found['num_crops']:,} crops an image")
    if counts:
        yield "images", ", ".join(counts)
    if mixed := found.get("mixed"):
        yield "mixed", f"{mixed['mixup']:.1%} by Mixup, {mixed['cutmix']:.1%} by CutMix"
    if teacher := found.get("teacher"):
        digest = str(teacher.get("digest") or "unknown")[:_DIGEST_LETTERS]
        device = f", on {teacher['device']}" if teacher.get("device") else ""
        yield "teacher", f"{teacher.get('name') or 'unnamed'}, weights SHA-256 {digest}..{device}"
    if label := found.get("label"):
        yield "labels", describe_label(label)
    if "bytes_per_crop" in found:
        with_box, without = found["bytes_per_crop"], found["label_bytes_per_crop"]
        yield "size", f"{with_box} bytes a crop with its box, {without} without"
    yield "calibrations", ", ".join(found.get("calibrations", [])) or "none"
    if scores := found.get("scores"):
        yield "scores", ", ".join(scores)


def describe_label(label: Mapping[str, Any]) -> str:
    """Return a kind of label in words: ``marginal_smoothing, K = 5 of 10 classes, compact``."""
    kind = str(label.get("kind"))
    classes = label["num_classes"]
    kept = f", K = {min(label['k'], classes)} of" if kind.startswith("marginal") else ","
    words = [f"{kind}{kept} {classes:,} classes", str(label.get("precision"))]
    if label.get("temperature", 1) != 1:
        words.append(f"temperature {label['temperature']}")
    if label.get("include_target"):
        words.append("with the target")
    if label.get("normalize", "none") != "none":
        words.append(f"normalized {label['normalize']}")
    return ", ".join(words)


def _row(name: str, each: Mapping[str, Any]) -> tuple[str, ...]:
    revision = each.get("revision")
    made_by = str(each.get("stage", "?")) + ("" if revision is None else f", revision {revision}")
    return (
        name,
        f"{each['num_parts']:,}",
        f"{each['rows']:,}",
        readable_bytes(each["num_bytes"]),
        made_by,
        "yes" if each["is_recorded"] else "no",
    )


def _parameters(artifacts: Mapping[str, Mapping[str, Any]]) -> Iterable[tuple[str, str]]:
    from store.inspection.difference import flatten

    for name, each in artifacts.items():
        if name == "scores":
            yield from _scores(each["params"])
            continue
        text = ", ".join(_spelled(flatten(each.get("params") or {})))
        several = "" if each.get("is_one_run", True) else " (parts differ; this is the first)"
        yield name, f"{text or 'no parameters'}{several}"


def _scores(by_name: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield what each of the scores was made with, where it is not the default."""
    from pydantic import ValidationError

    from stages.score.config import Config
    from store.inspection.difference import flatten

    for name, params in by_name.items():
        try:
            settings = Config.model_validate({name: params}).root[name]
            given = settings.model_dump(mode="json", exclude_defaults=True)
        except ValidationError:  # of another version: all that it wrote
            given = dict(params or {})
        proxy = given.pop("proxy", {})
        words = [str(given.pop("estimator", "unknown estimator")), *_spelled(flatten(given))]
        if model := proxy.pop("model", {}):
            words.append(f"proxy {model.pop('name', 'unnamed')}")
            words += _spelled(flatten(model))
        yield f"scores {name}", ", ".join([*words, *_spelled(flatten(proxy))])


def _spelled(values: Mapping[str, Any]) -> list[str]:
    return [
        f"{path} {_plain(value)}" for path, value in values.items() if path and value is not None
    ]


def _software(artifacts: Mapping[str, Mapping[str, Any]]) -> Iterable[tuple[str, str]]:
    made: dict[str, list[str]] = {}
    for name, each in artifacts.items():
        versions = ", ".join(f"{key} {value}" for key, value in each.get("software", {}).items())
        made.setdefault(versions, []).append(name)
    for versions, names in made.items():
        of = "" if len(made) == 1 else f" of {', '.join(names)}"
        if versions:
            yield f"software{of}", versions


def _plain(item: object) -> str:
    if isinstance(item, bool):
        return "yes" if item else "no"
    if isinstance(item, list):
        return f"[{', '.join(map(_plain, item))}]"
    return f"{item:.6g}" if isinstance(item, float) else str(item)
