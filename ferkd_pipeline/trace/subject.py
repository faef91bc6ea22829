"""What a path is: a model, a part of a label store, a training view, metrics."""

from pathlib import Path

from ferkd_pipeline.trace import students
from ferkd_pipeline.trace.chain import artifact_chain
from ferkd_pipeline.trace.node import Node
from stages.shared.model_card import CARD_NAME
from store import entries, json_text
from store.errors import DataError
from store.layout import ARTIFACTS, Layout

TRACED = (
    "a saved model or its .safetensors file (models/student), a file or folder of a label store "
    "(labels/soft/part-00003.parquet, labels/calibrated/NAME), a training view's folder, a folder "
    "of metrics (metrics/train)"
)


def trace(path: Path, root: Path) -> Node:
    """The chain that made what lies at ``path``; ``root`` is the store of what lies outside one.

    Raises:
        DataError: there is nothing, nothing that can be traced, or it is damaged.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; what can be traced: {TRACED}")
    layout = Layout.beside(root)
    if path.name == CARD_NAME:
        path = path.parent
    if path.suffix == ".safetensors" or (path.is_dir() and (path / CARD_NAME).is_file()):
        return students.model_chain(path, layout)
    if (place := _in_store(path)) is not None:
        own, artifact, stem = place
        return artifact_chain(own, artifact, None if stem is None else [stem])
    folder = path if path.is_dir() else path.parent
    if _is_view(folder / "meta.json"):
        return students.view_chain(folder, layout)
    if (folder / "summary.json").is_file():
        return students.metrics_chain(folder, layout)
    raise DataError(f"{path} is nothing that can be traced; that is {TRACED}")


def _in_store(path: Path) -> tuple[Layout, str, str | None] | None:
    """Store, artifact and part that a path lies in; no part where it is a whole artifact."""
    absolute = path.absolute()
    for folder in (absolute, *absolute.parents):
        named = folder.parent.name == "calibrated"
        if not named and folder.name not in ARTIFACTS:
            continue
        artifact = f"calibrated/{folder.name}" if named else folder.name
        root = folder.parent.parent if named else folder.parent
        layout = Layout.beside(_shortest(root))
        stems = [each.stem.removeprefix("_") for each in entries.entry_paths(layout, artifact)]
        if stems:
            below = absolute.relative_to(folder).parts
            return layout, artifact, _stem(path, below[0], stems) if below else None
    return None


def _shortest(root: Path) -> Path:
    """As people write it: relative to where they are, if it lies there."""
    return root.relative_to(Path.cwd()) if root.is_relative_to(Path.cwd()) else root


def _stem(path: Path, name: str, stems: list[str]) -> str | None:
    """The part that a file of an artifact belongs to."""
    if name in ("_manifest.json", "_fit.json"):
        return None
    own = name.split(".")[0].lstrip("_")
    number = own.rsplit("-", 1)[-1]
    for stem in (own, f"part-{number}"):
        if stem in stems:
            return stem
    if len(stems) == 1 and name.endswith(".parquet"):
        return stems[0]  # the classes beside the images
    raise DataError(f"{path} is of no part of the store; what can be traced: {TRACED}")


def _is_view(path: Path) -> bool:
    try:
        return "images_folder" in json_text.parse(path.read_bytes())
    except (OSError, ValueError, TypeError):
        return False
