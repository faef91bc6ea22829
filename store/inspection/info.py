"""What is in a store and where each artifact came from. Reads entries, no rows."""

from collections import Counter
from pathlib import Path
from typing import Any

from store import entries, scores
from store.entries import Entry
from store.errors import DataError
from store.layout import FORMAT_VERSION, Layout, list_artifacts
from store.mixing import has_mix


def info(root: Path) -> dict[str, Any]:
    """Describe the store at ``root``: JSON with a key for each artifact.

    Raises:
        DataError: there is no store, or an entry is damaged.
    """
    layout = Layout.beside(root)
    names = list_artifacts(layout)
    if not names:
        raise DataError(f"{root} holds no label store; run `ferkd-pipeline stage index` first")
    listed = {name: entries.list_entries(layout, name) for name in names}
    artifacts = {name: _artifact(layout, name, found) for name, found in listed.items() if found}
    return {
        "root": str(root),
        "format_version": FORMAT_VERSION,
        "artifacts": artifacts,
        **_headline(listed, artifacts),
    }


def _artifact(layout: Layout, name: str, found: list[Entry]) -> dict[str, Any]:
    lineages = [entry.lineage.get("params") for entry in found]
    return {
        "num_parts": len(found),
        "rows": sum(entry.rows for entry in found),
        "num_bytes": sum(r.num_bytes for entry in found for r in entry.files.values()),
        "stage": found[0].stage,
        "revision": found[0].lineage.get("revision"),
        "params": lineages[0] if name != scores.ARTIFACT else _by_stem(found, lineages),
        "inputs": _common_inputs(found),
        "is_one_run": name == scores.ARTIFACT or all(each == lineages[0] for each in lineages),
        "is_recorded": layout.manifest(name).exists(),
        "numbers": (
            _sum_numbers(found)
            if name != scores.ARTIFACT
            else _by_stem(found, [entry.numbers for entry in found])
        ),
        "attributes": found[0].attributes,
        "software": found[0].software,
    }


def _by_stem(found: list[Entry], values: list[Any]) -> dict[str, Any]:
    """What each part says for itself: scores are several tables of the same images."""
    return {entry.stem: value for entry, value in zip(found, values, strict=True)}


def _common_inputs(found: list[Entry]) -> dict[str, Any]:
    """What every part was made from alike (the teacher, not the rows of its own shard)."""
    listed = [entry.lineage.get("inputs", {}) for entry in found]
    first = listed[0] if isinstance(listed[0], dict) else {}
    return {
        name: value
        for name, value in first.items()
        if all(isinstance(each, dict) and each.get(name) == value for each in listed)
    }


def _sum_numbers(found: list[Entry]) -> dict[str, Any]:
    """Counts summed over parts; nested counts too. Settings that every part repeats stay."""
    total: dict[str, Any] = {}
    for name in found[0].numbers:
        values = [entry.numbers.get(name) for entry in found]
        if name == "num_crops" or not all(isinstance(v, int | dict) for v in values):
            total[name] = values[0] if all(v == values[0] for v in values) else None
        elif all(isinstance(v, dict) for v in values):
            counts: Counter[str] = Counter()
            for value in values:
                counts.update(value)
            total[name] = dict(counts)
        else:
            total[name] = sum(values)
    return total


def _teacher_name(lineage: dict[str, Any]) -> str | None:
    """Of one teacher its name in timm, of an ensemble all of them."""
    members = lineage.get("inputs", {}).get("ensemble", {}).get("members")
    listed = members or [lineage.get("params", {}).get("teacher", {})]
    names = [each.get("name") for each in listed]
    return " + ".join(names) if all(names) else None


def _mixed_shares(crops: dict[str, Any]) -> dict[str, float]:
    """Which share of all crops is mixed, by kind."""
    counts = {name: crops["numbers"].get(f"num_{name}") or 0 for name in ("mixup", "cutmix")}
    return {name: round(count / max(1, crops["rows"]), 4) for name, count in counts.items()}


def _headline(listed: dict[str, list[Entry]], artifacts: dict[str, Any]) -> dict[str, Any]:
    """The few figures that people ask for first."""
    head: dict[str, Any] = {}
    if "images" in artifacts:
        head |= artifacts["images"]["numbers"]
    if "crops" in artifacts:
        head["num_crops"] = listed["crops"][0].attribute("num_crops")
        if has_mix(listed["crops"][0]):
            head["mixed"] = _mixed_shares(artifacts["crops"])
    if "predictions" in artifacts:
        made = listed["predictions"][0].lineage
        inputs = made.get("inputs", {})
        head["teacher"] = {
            "name": _teacher_name(made),
            "digest": inputs.get("teacher"),
            "device": inputs.get("device"),
        }
    if "soft" in artifacts:
        soft = artifacts["soft"]
        head["label"] = listed["soft"][0].attribute("label")
        rows = max(1, soft["rows"])
        training = soft["num_bytes"] + artifacts.get("crops", {}).get("num_bytes", 0)
        head["label_bytes_per_crop"] = round(soft["num_bytes"] / rows, 2)
        head["bytes_per_crop"] = round(training / rows, 2)
    head["calibrations"] = sorted(
        name.split("/", 1)[1] for name in listed if name.startswith("calibrated/")
    )
    if listed.get(scores.ARTIFACT):
        head["scores"] = [entry.stem for entry in listed[scores.ARTIFACT]]
    return head
