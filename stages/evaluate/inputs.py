"""Reading the sets that stage evaluate measures on."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stages.evaluate.config import ImageSet
from stages.evaluate.core import match_labels
from stages.shared.contract import Progress
from stages.shared.training.evaluation_sets import (
    EvaluationSet,
    is_numbered,
    read_class_folder,
)
from store.errors import DataError, says_nothing_of_file


def read_set(
    name: str,
    settings: ImageSet,
    folder: Path,
    label_file: Path | None,
    class_names: Sequence[str],
    progress: Progress,
) -> EvaluationSet:
    """List a set's images with what is right for each; those without labels are left out.

    Raises:
        DataError: folder or file of labels are missing or do not fit the training or each other.
    """
    numbers = settings.classes == "numbers"
    if settings.classes == "auto" and is_numbered(folder, class_names):
        numbers = True
        progress.note(
            f"{name}: class folders are taken as numbers of classes: 0 is {class_names[0]}, "
            f"{len(class_names) - 1} is {class_names[-1]}"
        )
    images = read_class_folder(name, folder, class_names, numbers=numbers)
    return images if label_file is None else _labelled(images, folder, label_file, class_names)


def _labelled(
    images: EvaluationSet, folder: Path, label_file: Path, class_names: Sequence[str]
) -> EvaluationSet:
    paths = [Path(path).relative_to(folder).as_posix() for path in images.paths]
    value = _read_json(label_file)
    labels = match_labels(value, paths, images.class_ids, class_names, str(label_file))
    counted = [place for place, each in enumerate(labels) if each]
    if not counted:
        raise DataError(f"{label_file}: no image has a label, so there is nothing to measure")
    return replace(
        images,
        paths=tuple(images.paths[place] for place in counted),
        class_ids=tuple(images.class_ids[place] for place in counted),
        labels=tuple(labels[place] for place in counted),
    )


def _read_json(path: Path) -> object:
    try:
        value: object = json.loads(path.read_bytes(), object_pairs_hook=_unique)
    except OSError as error:
        if says_nothing_of_file(error):
            raise
        raise DataError(
            f"{path}: this file of labels cannot be read ({error.strerror}); check the path"
        ) from None
    except (ValueError, RecursionError) as error:
        text = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DataError(f"{path}: not JSON of labels ({text}); get the file anew") from None
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise ValueError(f"{twice!r} stands twice")
    return found
