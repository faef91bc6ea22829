"""Which images the teachers are asked about, and which classes there are."""

from pathlib import Path

import numpy as np

from ferkd_pipeline.params import Params
from ferkd_pipeline.whole.common import images_folder, layout_of
from stages.evaluate.config import Config as EvaluateConfig
from stages.evaluate.config import ImageSet
from stages.evaluate.inputs import read_set
from stages.infer.examine.answers import Images
from stages.infer.examine.run import CropDraw
from stages.sample.config import Config as SampleConfig
from stages.sample.core import crop_plan
from stages.shared.contract import Progress
from stages.shared.find_images import find_classes
from store import entries, images
from store.errors import ParamsError


def class_names(values: Params) -> tuple[tuple[str, ...], Path]:
    """Names of the classes in their order, and the file or folder that says so.

    Of the store where the images are indexed, else of the folder of training images.

    Raises:
        ParamsError: params.yaml names no folder of training images.
        DataError: the folder is missing or has no class folders, or the store is damaged.
    """
    layout = layout_of(values)
    if entries.find_entry(layout, "images", images.STEM) is None:
        folder = images_folder(values)
        return find_classes(folder), folder
    return images.load(layout, with_hashes=False).class_names, layout.table("images", "classes")


def image_set(
    values: Params, folder: Path | None, names: tuple[str, ...], progress: Progress
) -> Images:
    """The images of ``folder``, or of the validation set that params.yaml names first.

    Raises:
        ParamsError: there is no folder, and params.yaml names no set.
        DataError: a folder is missing, empty, or of a class that the training does not know.
    """
    name, settings = _settings(values, folder)
    found = read_set(name, settings, Path(settings.folder), None, names, progress)
    paths = tuple(Path(path) for path in found.paths)
    return Images(name, Path(settings.folder), paths, np.array(found.class_ids, dtype=np.int64))


def _settings(values: Params, folder: Path | None) -> tuple[str, ImageSet]:
    """The set's name, and its folder. Several labels an image play no part: what counts is how
    well the teacher tells the folders apart.
    """
    if folder is not None:
        return folder.name or str(folder), ImageSet(folder=str(folder))
    if "evaluate" in values.sections:
        evaluate = values.typed("evaluate", EvaluateConfig)
        return next(iter(evaluate.image_sets().items()))
    for section in ("teacher", "train"):
        path = getattr(values.sections.get(section), "evaluation", None)
        if path is not None:
            return Path(path).name, ImageSet(folder=path)
    raise ParamsError(
        f"{values.path} names no validation images (evaluate.sets); name a folder of class folders "
        "with --images"
    )


def crop_draw(values: Params) -> CropDraw | None:
    """How stage sample draws crops, where params.yaml says it."""
    if "sample" not in values.sections:
        return None
    config = values.typed("sample", SampleConfig)
    return CropDraw(crop_plan(config), config.flip, config.seed)
