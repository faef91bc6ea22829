"""Which stages run as a whole. Each is imported when it is asked for: half of them import torch."""

from collections.abc import Callable, Mapping

from ferkd_pipeline.params import Params
from ferkd_pipeline.whole import others, training
from ferkd_pipeline.whole.start import Whole

_STAGES: Mapping[str, Callable[[Params], Whole]] = {
    "digits": others.digits,
    "index": others.index,
    "teacher": training.teacher,
    "score": others.score,
    "train": training.train,
    "evaluate": others.evaluate,
    "linear": training.linear,
    "compare": training.compare,
}

TRAINING = ("teacher", "train", "linear", "compare")
"""Their results are kept, see `kept`."""

SHARED_BY_RANKS = ("teacher", "train")
"""Several processes can run them together, as torchrun starts them."""


def prepare(params: Params, name: str) -> Whole:
    """What a stage reads and writes; starts nothing.

    Raises:
        ParamsError: a parameter is wrong.
        DataError: an input is missing or does not fit.
    """
    return _STAGES[name](params)
