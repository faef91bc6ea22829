"""One call from the parameters to what was found."""

from pathlib import Path

from ferkd_pipeline.params import Params
from ferkd_pipeline.teacher_check import inputs
from stages.infer.config import Config
from stages.infer.examine import names
from stages.infer.examine.panel import Panel
from stages.infer.examine.projections import CheckedProjection, check_projection
from stages.infer.examine.run import Checked, check
from stages.shared.contract import Progress
from store.errors import DataError


def look(
    values: Params, folder: Path | None, limit: int | None, progress: Progress
) -> Checked | CheckedProjection:
    """Ask the teachers of ``infer.teacher`` about images: of ``folder``, or of the first set.

    Raises:
        ParamsError: a parameter is wrong, the device cannot be had, or there are no images.
        DataError: weights or images are missing, or a teacher has other classes than the folders.
        RetryError: a file could not be read for a reason that may pass.
    """
    config = values.typed("infer", Config)
    class_names, listed = inputs.class_names(values)
    images = inputs.image_set(values, folder, class_names, progress)
    try:
        panel = Panel.open(config, class_names, listed)
    except DataError as error:
        hint = names.subset_hint(class_names)
        if hint is None or "classes apart" not in str(error):
            raise
        raise DataError(f"{error}; {hint}") from error
    if config.outputs == "projection":
        return check_projection(panel, images, progress, limit=limit)
    draw = inputs.crop_draw(values)
    return check(panel, class_names, images, progress, crops=draw, limit=limit)
