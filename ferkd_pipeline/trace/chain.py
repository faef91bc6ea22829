"""From a lineage to the chain of nodes that people read, each compared with the store."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ferkd_pipeline.commands.store.info import describe_label
from ferkd_pipeline.trace.lineage import Lineage, digest_now, lineage_of
from ferkd_pipeline.trace.node import Node, compared
from stages.shared.model_card import CARD_NAME, Card, load_card
from store.errors import DataError
from store.inspection.difference import flatten
from store.layout import Layout

_ABOVE = {
    "calibrated": ("soft",),
    "soft": ("predictions",),
    "predictions": ("crops",),
    "crops": ("images",),
    "scores": ("soft",),
    "rejects": ("images",),
}
"""What each artifact is made from, besides scores and teachers."""
_FEWER = {"soft": "crops", "scores": "images"}
"""What is named instead, where nothing is known of that."""
_ORDER = ("calibrated", "scores", "rejects", "soft", "predictions", "crops", "images", "teachers")
_WORDS = {"soft": "soft labels", "calibrated": "calibration", "scores": "scores"}


def chain_of(layout: Layout, lineage: Lineage, stems: list[str] | None = None) -> Node:
    """The chain that a lineage tells, its first artifact at the top, compared with the store.

    ``stems`` are the parts that it is about, None for all.
    """

    def now_of(name: str) -> str | None:
        return digest_now(layout, name, stems)

    return _node(min(lineage, key=_rank), lineage, now_of, layout)


def _rank(name: str) -> int:
    """Place in the chain: a card's JSON is sorted by name."""
    kind, _, own = name.partition("/")
    return len(_ORDER) if own and kind != "calibrated" else _ORDER.index(kind)


def artifact_chain(layout: Layout, artifact: str, stems: list[str] | None) -> Node:
    """The chain of an artifact of the store, or of some of its parts.

    Raises:
        DataError: it is not there, or an entry is damaged.
    """
    return chain_of(layout, lineage_of(layout, artifact, stems), stems)


def models_in(folder: Path) -> dict[str, tuple[Path, Card]]:
    """Saved models below a folder by the digest of their weights; damaged ones are left out."""
    found = {}
    for path in sorted(folder.glob(f"*/{CARD_NAME}")):
        try:
            card = load_card(path.parent)
        except DataError:
            continue
        found[card.digest] = (path.parent, card)
    return found


def spelled(values: Any) -> str:
    """Parameters in one line, ``name value, name value``; what is null is left out."""
    leaves = flatten(values or {})
    return ", ".join(
        f"{path} {_plain(value)}" if path else _plain(value)
        for path, value in leaves.items()
        if value is not None
    )


def _plain(item: object) -> str:
    if isinstance(item, bool):
        return "yes" if item else "no"
    if isinstance(item, list):
        return f"[{', '.join(map(_plain, item))}]"
    return f"{item:.6g}" if isinstance(item, float) else str(item)


def _node(
    name: str, lineage: Mapping[str, Any], now_of: Callable[[str], str | None], layout: Layout
) -> Node:
    record: dict[str, Any] = lineage.get(name) or {}
    kind, _, own = name.partition("/")
    digest = record.get("rows_digest")
    state, now = compared(digest, now_of(name))
    if record.get("are_other"):
        state = "changed"
    above = [] if name.startswith("scores/") else [*_ABOVE.get(kind, ())]
    above = [each if each in lineage else _FEWER.get(kind, each) for each in above]
    if kind == "calibrated":
        above += sorted(each for each in lineage if each.startswith("scores/"))
    made_from = [_node(each, lineage, now_of, layout) for each in above if each in lineage]
    if kind == "predictions":
        made_from = [*teachers(lineage.get("teachers") or [], layout), *made_from]
    return Node(
        what=f"{_WORDS.get(kind, kind)} {own}".strip(),
        state=state,
        digest=digest,
        now=now,
        facts=tuple(_facts(kind, record)),
        recorded=record or None,
        made_from=tuple(made_from),
    )


def _facts(kind: str, record: Mapping[str, Any]) -> Iterator[str]:
    if "num_images" in record:
        yield f"{record.get('num_images'):,} images of {record.get('num_classes'):,} classes"
    elif "rows" in record:
        crops = record.get("num_crops")
        yield f"{record['rows']:,} rows" + (f", {crops} crops an image" if crops else "")
    if label := record.get("label"):
        yield describe_label(label)
    params = dict(record.get("params") or {})
    params.pop("teacher", None)  # told beside its weights
    if steps := params.pop("steps", None):
        yield from (f"step {number}: {_step(each)}" for number, each in enumerate(steps, 1))
    if text := spelled(params):
        yield text
    if record.get("parts_differ"):
        yield "parts were made with different parameters; these are of the first"


def _step(step: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in step.items() if name != "step"}
    return ", ".join(filter(None, [str(step.get("step")), spelled(rest)]))


def teachers(recorded: list[dict[str, Any]], layout: Layout) -> Iterator[Node]:
    """The networks that labelled, looked for among the project's saved models.

    Where the project has no teacher, they came from elsewhere, and are not looked for there.
    """
    saved = models_in(layout.root.parent / "models") if recorded else {}
    has_one = any(folder.name == "teacher" for folder, _ in saved.values())
    for each in recorded:
        digest = each.get("weights")
        found = saved.get(str(digest))
        share = f"{each['share']:.3g} of the average" if "share" in each else ""
        pixels = {"pixels": each.get("pixels")}
        facts = (spelled(each.get("model_kwargs")), spelled(pixels), share)
        yield Node(
            what=f"teacher {each.get('name', 'unnamed')}",
            state="unchanged" if found else "missing" if has_one else "elsewhere",
            digest=digest,
            why=str(found[0]) if found else "no model in models/ has these weights",
            facts=tuple(filter(None, facts)),
            recorded=each,
        )
