"""What differs between two stores, from their entries alone: no rows are read.

A store is what its entries say: the rows digest of every part, the parameters and inputs that it
was made from, and the software. So a store in a revision, of which only manifests are at hand,
compares like one on disk.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from store import entries, fit_file
from store.check import completeness
from store.entries import Entry
from store.errors import DataError
from store.layout import Layout, list_artifacts

State = Literal["same", "same rows", "differs", "only in A", "only in B"]
"""`same rows`: every value is the same, but the bytes or the lineage are not."""


@dataclass(frozen=True, slots=True)
class StoreState:
    """What a store's entries say."""

    name: str
    """What people call it: a folder, or a folder at a revision."""
    artifacts: Mapping[str, list[Entry]]
    fits: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """By artifact, of calibrations that have one."""


@dataclass(frozen=True, slots=True)
class Change:
    """One value that differs."""

    path: str
    """Keys from the outside in, joined by dots: ``steps.0.eps``."""
    a: Any
    """None where A does not have it."""
    b: Any
    num_parts: int
    """Parts of which this holds; ``a`` and ``b`` are those of the first."""


@dataclass(frozen=True, slots=True)
class ArtifactDifference:
    """One artifact in both stores. Parts are named by their stems."""

    artifact: str
    state: State
    parts_a: int
    parts_b: int
    differing: list[str]
    """In both, with other rows."""
    only_a: list[str]
    only_b: list[str]
    rows: tuple[int, int]
    num_bytes: tuple[int, int]
    params: list[Change]
    inputs: list[Change]
    """What it was made from: digests, and what the stage recorded besides."""
    stage: list[Change]
    """Stage and its revision."""
    attributes: list[Change]
    numbers: list[Change]
    """What the stage counted, summed over parts where these are numbers."""
    fit: list[Change]
    software: list[Change]


@dataclass(frozen=True, slots=True)
class StoreDifference:
    """Two stores, artifact by artifact, in the order of the data's way."""

    a: str
    b: str
    artifacts: list[ArtifactDifference]
    missing: list[str] = field(default_factory=list)
    """Shards that a store lacks, and what makes them: it is compared as it is."""

    @property
    def is_same(self) -> bool:
        """Whether both hold the same artifacts with the same rows, whoever wrote them."""
        return all(each.state in ("same", "same rows") for each in self.artifacts)


def state_of(root: Path) -> StoreState:
    """What the entries of a store on disk say.

    Raises:
        DataError: there is no store, or an entry or fit is damaged.
    """
    layout = Layout.beside(root)
    names = list_artifacts(layout)
    if not names:
        raise DataError(f"{root} holds no label store; run `ferkd-pipeline stage index` first")
    fits = {name: fit_file.read(layout, name) for name in names if name.startswith("calibrated/")}
    return StoreState(
        str(root),
        {name: found for name in names if (found := entries.list_entries(layout, name))},
        {name: fit for name, fit in fits.items() if fit is not None},
    )


def compare(a: StoreState, b: StoreState) -> StoreDifference:
    """Compare two stores."""
    names = list(dict.fromkeys([*a.artifacts, *b.artifacts]))
    names.sort(key=lambda name: name.startswith("calibrated/"))  # stable: those of B among A's
    found = [_artifact(name, a, b) for name in names]
    missing = list(dict.fromkeys([*_missing(a), *_missing(b)]))
    return StoreDifference(a.name, b.name, found, missing)


def _missing(state: StoreState) -> list[str]:
    """Shards that there should be, in words."""
    names = [name for name in state.artifacts if completeness.is_sharded(name)]
    listed = [entry for name in names for entry in state.artifacts[name]]
    num_images = state.artifacts["images"][0].rows if "images" in state.artifacts else None
    total, layout = completeness.num_shards(listed, num_images), Layout.beside(Path(state.name))
    return [
        f"{state.name}: {damage.part}: {damage.kind}; {damage.remedy}"
        for damage in completeness.check(layout, listed, names, total, set())
    ]


def _artifact(name: str, a: StoreState, b: StoreState) -> ArtifactDifference:
    parts_a = {entry.stem: entry for entry in a.artifacts.get(name, [])}
    parts_b = {entry.stem: entry for entry in b.artifacts.get(name, [])}
    both = [(parts_a[stem], parts_b[stem]) for stem in parts_a if stem in parts_b]
    differing = [one.stem for one, other in both if one.rows_digest != other.rows_digest]
    only_a = [stem for stem in parts_a if stem not in parts_b]
    only_b = [stem for stem in parts_b if stem not in parts_a]
    fit = _changes([(a.fits.get(name, {}), b.fits.get(name, {}))])

    def changes(pick: Callable[[Entry], Any]) -> list[Change]:
        return _changes([(pick(one), pick(other)) for one, other in both])

    return ArtifactDifference(
        artifact=name,
        state=_state(parts_a, parts_b, bool(differing or only_a or only_b), bool(fit)),
        parts_a=len(parts_a),
        parts_b=len(parts_b),
        differing=differing,
        only_a=only_a,
        only_b=only_b,
        rows=(_rows(parts_a.values()), _rows(parts_b.values())),
        num_bytes=(_num_bytes(parts_a.values()), _num_bytes(parts_b.values())),
        params=changes(lambda entry: entry.lineage.get("params")),
        inputs=changes(lambda entry: entry.lineage.get("inputs")),
        stage=changes(
            lambda entry: {"stage": entry.stage, "revision": entry.lineage.get("revision")}
        ),
        attributes=changes(lambda entry: entry.attributes),
        numbers=_changes([(_numbers(both, 0), _numbers(both, 1))]),
        fit=fit,
        software=changes(lambda entry: entry.software),
    )


def _state(
    parts_a: Mapping[str, Entry], parts_b: Mapping[str, Entry], other_rows: bool, other_fit: bool
) -> State:
    if not parts_b:
        return "only in A"
    if not parts_a:
        return "only in B"
    if other_rows:
        return "differs"
    return "same" if parts_a == parts_b and not other_fit else "same rows"


def _rows(parts: Iterable[Entry]) -> int:
    return sum(entry.rows for entry in parts)


def _num_bytes(parts: Iterable[Entry]) -> int:
    return sum(record.num_bytes for entry in parts for record in entry.files.values())


def _numbers(both: list[tuple[Entry, Entry]], side: int) -> dict[str, Any]:
    """What the stage counted in parts that both have: numbers summed, the rest of the first."""
    total: dict[str, Any] = {}
    for pair in both:
        for path, value in flatten(pair[side].numbers).items():
            is_count = isinstance(value, int) and not isinstance(value, bool)
            if is_count and path != "num_crops" and isinstance(total.get(path), int):
                total[path] += value
            else:
                total.setdefault(path, value)
    return total


def _changes(pairs: list[tuple[Any, Any]]) -> list[Change]:
    """Leaves that differ in one pair at least, in order of first sight."""
    first: dict[str, tuple[Any, Any]] = {}
    counts: dict[str, int] = {}
    for one, other in pairs:
        a, b = flatten(one), flatten(other)
        for path in dict.fromkeys([*a, *b]):
            if a.get(path) != b.get(path):
                first.setdefault(path, (a.get(path), b.get(path)))
                counts[path] = counts.get(path, 0) + 1
    return [Change(path, *values, counts[path]) for path, values in first.items()]


def flatten(value: Any, above: str = "") -> dict[str, Any]:
    """Leaves of nested JSON by dotted path; a list of plain values is a leaf."""
    if isinstance(value, Mapping):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        items = enumerate(value)
    else:
        return {above: value}
    leaves: dict[str, Any] = {}
    for key, item in items:
        leaves |= flatten(item, f"{above}.{key}" if above else str(key))
    return leaves
