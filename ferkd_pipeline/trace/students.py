"""The chains of what is made outside of the label store: models, training views, metrics."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ferkd_pipeline import kept
from ferkd_pipeline.fingerprints import files_below
from ferkd_pipeline.trace.chain import artifact_chain, chain_of, models_in, spelled, teachers
from ferkd_pipeline.trace.lineage import lineage_of_labels
from ferkd_pipeline.trace.node import Node, compared
from ferkd_pipeline.trace.weights_file import metadata, tensor_names, weights_digest
from stages.shared.model_card import WEIGHTS_NAME, Card, find_card, load_card
from store import entries, json_text
from store.errors import DataError, FerkdError
from store.layout import Layout
from store.view.build import plan_view

_WRITES = {
    "train": ("models/student", "metrics/train"),
    "teacher": ("models/teacher", "metrics/teacher"),
    "linear": ("models/linear", "metrics/linear"),
}
"""What the stages write that leave metrics beside a model; others leave their folder alone."""
_ROLES = {
    "train": "student",
    "teacher": "teacher",
    "linear": "classifier on a student's features",
}
_TOLD_OF_TRAINING = (
    *("optimizer", "lr", "batch_size", "crops_per_image", "steps", "epochs", "schedule", "loss"),
    *("mix", "augment", "precision", "seed"),
)
MADE_FROM = "labels_made_from"
"""Field of a student's card: the lineage of its labels, see `lineage_of_labels`."""


def model_chain(path: Path, layout: Layout) -> Node:
    """The chain of a saved model: its folder, its file of weights, or a copy of that elsewhere.

    Raises:
        DataError: it is damaged, or a file that none of the project's models has the weights of.
    """
    card = find_card(path)
    if card is not None:
        file = path / WEIGHTS_NAME if path.is_dir() else path
        return _model(str(path), card, weights_digest(file) if file.is_file() else None, layout)
    said, digest = metadata(path), weights_digest(path)
    saved = models_in(layout.root.parent / "models")
    for wanted in (digest, said.get("digest", "")):
        if wanted in saved:
            folder, card = saved[wanted]
            node = _model(str(folder), card, weights_digest(folder / WEIGHTS_NAME), layout)
            body = said.get("part") == "backbone"
            is_same = wanted == digest
            if not is_same and body:
                whole = folder / WEIGHTS_NAME
                is_same = weights_digest(whole, only=tensor_names(path)) == digest
            return Node(
                f"weights {path}",
                "unchanged" if is_same else "changed",
                digest if is_same else wanted,
                now=None if is_same else digest,
                facts=("exported without the classifier",) if body else (),
                recorded=said,
                made_from=(node,),
            )
    raise DataError(
        f"{path}: no model in {layout.root.parent / 'models'} has its weights (SHA-256 "
        f"{(said.get('digest') or digest)[:12]}..); trace the folder that it was copied from, or "
        "name the project with --root"
    )


def _model(name: str, card: Card, now: str | None, layout: Layout) -> Node:
    state, other = compared(card.digest, now)
    stage = str(card.extra.get("stage"))
    role = _ROLES.get(stage, "model")
    return Node(
        what=f"{role} {name}",
        state=state,
        digest=card.digest,
        now=other,
        why="" if state == "unchanged" else "its file of weights is not the one of its card",
        facts=tuple(_model_facts(card)),
        recorded={name: value for name, value in card.extra.items() if name != MADE_FROM},
        made_from=tuple(
            _learned_from(card, layout) if stage == "train" else _features(card, layout)
        ),
    )


def _model_facts(card: Card) -> Iterator[str]:
    height, width = card.pixels.size
    kwargs = spelled(card.model_kwargs)
    yield f"{card.name}, {len(card.classes):,} classes, pixels {height}x{width}" + (
        f", {kwargs}" if kwargs else ""
    )
    training: Any = card.extra.get("training")
    if training:
        yield spelled({key: training[key] for key in _TOLD_OF_TRAINING if key in training})
    if start := card.extra.get("starting_weights"):
        yield f"began with weights {start[:12]}.."
    labels, teacher = card.extra.get("labels"), (training or {}).get("online_teacher")
    if labels == "online" and teacher:
        yield f"labelled while it learned by {teacher.get('name')}"
    if labels == "truth":
        crops = "fresh crops" if (training or {}).get("crops") else "the crops of the store"
        yield f"learned from the ground truth alone, on {crops}"


def _learned_from(card: Card, layout: Layout) -> Iterator[Node]:
    """The training view of a student, or the images of one that drew its own crops."""
    made_from, digest = card.extra.get(MADE_FROM), card.extra.get("view")
    lineage = made_from if isinstance(made_from, dict) and made_from else None
    teacher = card.extra.get("online_teacher")
    if isinstance(teacher, dict):
        yield from teachers([teacher], layout)
    if digest is not None and card.extra.get("labels", "store") == "store":
        yield _view(digest, card.extra.get("calibration"), lineage, layout)
    elif lineage is not None:
        yield chain_of(layout, lineage)


def _features(card: Card, layout: Layout) -> Iterator[Node]:
    """The student that a linear classifier stands on, if it still lies in the project."""
    wanted = card.extra.get("student")
    if wanted is None:
        return
    found = models_in(layout.root.parent / "models").get(str(wanted))
    if found is None:
        why = "no model of the project has these weights now"
        yield Node("student", "missing", str(wanted), why=why)
        return
    folder, student = found
    yield _model(str(folder), student, weights_digest(folder / WEIGHTS_NAME), layout)


def _view(
    digest: Any, calibration: str | None, lineage: dict[str, Any] | None, layout: Layout
) -> Node:
    now, why = _view_now(layout, calibration)
    state, other = compared(digest, now)
    if lineage is None and state == "unchanged":
        lineage = lineage_of_labels(layout, calibration)  # the store still holds just these
    facts = [f"labels of calibration {calibration}" if calibration else "labels as compressed"]
    if lineage is None:
        facts.append("what its labels were made from was not recorded")
    return Node(
        what="training view",
        state=state,
        digest=digest,
        now=other,
        why=why,
        facts=tuple(facts),
        made_from=() if lineage is None else (chain_of(layout, lineage),),
    )


def _view_now(layout: Layout, calibration: str | None) -> tuple[str | None, str]:
    """Digest of the view that the store would give now, or why it gives none."""
    num_shards = len(entries.entry_paths(layout, "soft"))
    if num_shards == 0:
        return None, f"{layout.root} holds no soft labels"
    try:
        return plan_view(layout, num_shards, Path(), calibration).meta.digest, ""
    except FerkdError as error:
        return None, str(error)


def view_chain(folder: Path, layout: Layout) -> Node:
    """The chain of a training view's folder.

    Raises:
        DataError: it is damaged.
    """
    try:
        meta = json_text.parse((folder / "meta.json").read_bytes())
        digest, calibration = str(meta["digest"]), meta["calibration"]
        facts = (f"{meta['num_images']:,} images, {meta['num_crops']} crops an image",)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} is not a whole training view ({error}); delete it: it is made again"
        ) from error
    node = _view(digest, calibration, None, layout)
    return Node(
        f"training view {folder}",
        node.state,
        node.digest,
        node.now,
        node.why,
        (*facts, *node.facts),
        meta,
        node.made_from,
    )


def metrics_chain(folder: Path, layout: Layout) -> Node:
    """The chain of a folder of metrics.

    Raises:
        DataError: it is damaged.
    """
    try:
        said = dict(json_text.parse((folder / "summary.json").read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{folder / 'summary.json'}: cannot be read ({error})") from error
    project, name = folder.absolute().parent.parent, folder.name
    writes = _WRITES.get(name, (f"metrics/{name}",))
    places = {
        path.relative_to(project).as_posix(): path
        for top in writes
        for path in files_below(project / top)
    }
    recorded = _written_by(layout, name)
    state, now = compared(recorded, kept.digest(places))
    facts = (f"metrics and model of one run of stage {name}",) if len(writes) > 1 else ()
    return Node(
        f"metrics {folder}",
        state,
        recorded,
        now,
        "",
        facts,
        said,
        tuple(_measured(name, said, layout)),
    )


def _written_by(layout: Layout, stage: str) -> str | None:
    """Digest of all that the last run of a stage wrote, as its mark remembers it."""
    try:
        mark = json_text.parse((layout.work / "done" / f"{stage}.json").read_bytes())
        return str(mark["written"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _measured(stage: str, said: dict[str, Any], layout: Layout) -> Iterator[Node]:
    """What metrics were measured on, as far as they say it."""
    models = layout.root.parent / "models"
    folder = models / ("teacher" if stage == "teacher" else "student")
    if stage in ("train", "teacher", "evaluate", "linear") and (folder / "model.json").is_file():
        card, file = load_card(folder), folder / WEIGHTS_NAME
        yield _model(str(folder), card, weights_digest(file) if file.is_file() else None, layout)
    elif isinstance(store := said.get("store"), dict):
        for number, name in enumerate(sorted(store)):  # a calibration before its labels
            yield _labels(name, store[name], layout, is_first=number == 0)


def _labels(name: str, digest: Any, layout: Layout, *, is_first: bool) -> Node:
    """An artifact that metrics have the digest of; the first is followed further."""
    there = entries.entry_paths(layout, name)
    state, now = compared(digest, entries.artifact_digest(layout, name) if there else None)
    if state != "unchanged" or not is_first:
        return Node(f"{name} (all parts)", state, digest, now)
    return Node(
        f"{name} (all parts)", state, digest, made_from=(artifact_chain(layout, name, None),)
    )
