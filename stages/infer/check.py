"""A short look at the teachers before a long run: are they right about a few images?

It changes nothing that is written, and fails nothing: what is wrong with an image or a teacher, the
run itself says. `ferkd-pipeline teacher check` looks longer, and finds out why.
"""

import time
import weakref
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from stages.infer.config import Config
from stages.infer.examine.answers import Answers, Images, ask
from stages.infer.examine.chance import verdict
from stages.infer.examine.panel import Panel
from stages.infer.examine.reading import centre_crops, pictures
from stages.infer.examine.sampling import spread
from stages.infer.inputs import Inputs
from stages.shared.contract import NoProgress, Progress
from stages.shared.images import ImageError
from store import images
from store.errors import FerkdError

NUM_IMAGES = 64
_SECONDS = 4.0
_BATCH = 8
"""Images a forward: a slow teacher on a CPU must not take minutes over one batch."""
_PASSED_OVER = (ImageError, FerkdError, OSError)
"""An image that another machine labels may not even lie on this one."""

_seen: weakref.WeakSet[nn.Module] = weakref.WeakSet()
"""Networks that were looked at: a run of the stage loads its teachers once, for all its shards."""


def look_once(config: Config, inputs: Inputs, progress: Progress) -> None:
    """Say on how many of a few images the teachers are right, loudly where that is near chance.

    The images are spread over the classes of all shards. Of a projection head, whose outputs are
    neither right nor wrong, it is told whether they are finite. Ends after a few seconds.
    """
    first = inputs.teachers[0].model.module
    if first in _seen:
        return
    _seen.add(first)
    panel = Panel(config, inputs.teachers, inputs.kept.num_outputs, inputs.device)
    end = time.monotonic() + _SECONDS

    def go_on() -> bool:
        return time.monotonic() < end

    try:
        if config.outputs == "projection":
            _look_at_outputs(panel, _some(inputs), progress, go_on)
        else:
            _look_at_answers(panel, _some(inputs), progress, go_on)
    except FerkdError:
        return  # of these few; the run says what is wrong with its own


def _some(inputs: Inputs) -> Images:
    table = images.load(inputs.layout, with_hashes=False)
    rows = spread(table.class_ids, NUM_IMAGES)
    folder = inputs.images_folder
    paths = tuple(folder / str(path) for path in table.paths[rows])
    return Images("images", folder, paths, table.class_ids[rows].astype(np.int64))


def _look_at_answers(
    panel: Panel, some: Images, progress: Progress, go_on: Callable[[], bool]
) -> None:
    asked = ask(
        panel,
        some,
        NoProgress(),
        go_on=go_on,
        batch_size=min(_BATCH, panel.config.batch_size),
        passed_over=_PASSED_OVER,
    )
    for line in lines(asked.average, panel.num_outputs, len(panel.teachers)):
        progress.note(line)


def lines(answers: Answers, num_classes: int, num_teachers: int = 1) -> list[str]:
    """What there is to say of answers about a few images: one line, and a warning near chance."""
    who = "the teacher is" if num_teachers == 1 else f"the {num_teachers} teachers together are"
    num_right, num_images = answers.num_right, len(answers.classes)
    told = verdict(num_right, num_images, num_classes)
    doubt = ", too few to tell from a guess" if told == "unclear" else ""
    found = [f"{who} right on {num_right} of {num_images} images{doubt}"]
    if told == "near chance":
        found.append(
            f"WARNING: {who} near chance on these {num_images} images of {num_classes:,} classes: "
            "the normalisation or the order of classes is probably not that of these images; stop "
            "this run and ask `ferkd-pipeline teacher check` why"
        )
    if answers.num_not_finite:
        found.append(f"WARNING: NaN or infinity for {answers.num_not_finite} of these images")
    return found


def _look_at_outputs(
    panel: Panel, some: Images, progress: Progress, go_on: Callable[[], bool]
) -> None:
    [teacher] = panel.teachers
    num_images = num_finite = 0
    size, num_workers = min(_BATCH, panel.config.batch_size), panel.config.num_workers
    cut = centre_crops(panel.specs)
    for batch in pictures(some.paths, cut, size, num_workers, _PASSED_OVER):
        if len(batch.places):
            is_finite = torch.isfinite(panel.ask(teacher, batch.pixels[0])).all(dim=1)
            num_images += len(is_finite)
            num_finite += int(is_finite.sum())
        if not go_on():
            break
    if num_images:
        loud = "" if num_finite == num_images else "WARNING: "
        progress.note(
            f"{loud}the teacher gives {panel.num_outputs:,} outputs, finite on {num_finite} of "
            f"{num_images} images"
        )
