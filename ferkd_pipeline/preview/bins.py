"""How reliable the teacher is, in bins of equally many crops, validation crops beside them."""

from collections.abc import Sequence
from dataclasses import dataclass

from ferkd_pipeline.pages.table import Table
from ferkd_pipeline.preview.words import on_of
from stages.calibrate.fit import validation_root
from stages.calibrate.reliability import Bin, Reliability
from stages.calibrate.survey import Preview

NUM_BINS = 10
_SAID = {"max": "the teacher's maximum", "target": "the ground truth's probability"}


@dataclass(frozen=True, slots=True)
class Pair:
    """A bin of training crops, and the validation crops between the same probabilities."""

    training: Bin
    validation: Bin | None
    """None where there are none."""


def pairs(seen: Preview, on: str) -> list[Pair]:
    """Return the bins of a preview's crops by `max` or `target`."""
    own, other = seen.training[on], seen.validation.get(on, Reliability.empty())
    found = list(own.bins(NUM_BINS))
    lows = [-1.0, *(each.low for each in found[1:]), 2.0]
    return [Pair(each, _between(other, lows[n], lows[n + 1])) for n, each in enumerate(found)]


def _between(crops: Reliability, low: float, high: float) -> Bin | None:
    return next(crops.only((crops.values >= low) & (crops.values < high)).bins(1), None)


def tables(previews: Sequence[Preview]) -> list[Table]:
    """Return a table for each probability that previews look at, all of the same crops.

    One with validation crops says all that one without does; each validation store has its own.
    """
    kinds: dict[tuple[str, str | None], Preview] = {}
    for seen in previews:
        kinds.setdefault((on_of(seen), validation_root(seen.recipe.steps)), seen)
    has_validation = {on for on, root in kinds if root is not None}
    return [
        table(seen, on)
        for (on, root), seen in kinds.items()
        if root is not None or on not in has_validation
    ]


def table(seen: Preview, on: str) -> Table:
    """Return how often the teacher is right by how sure it is."""
    has_validation = bool(seen.validation) and seen.validation[on].total > 0
    total = max(1, seen.training[on].total)
    others = max(1, seen.validation[on].total) if has_validation else 1
    rows = []
    for pair in pairs(seen, on):
        span = f"{pair.training.low:.3f} to {pair.training.high:.3f}"
        cells = [span, *_cells(pair.training, total)]
        if has_validation:
            cells += _cells(pair.validation, others)
        rows.append(tuple(cells))
    header = [_SAID[on], "% of crops", "right %", "ground truth"]
    if has_validation:
        header += ["validation %", "right %", "ground truth"]
    notes = ["Ground truth: its mean probability."]
    if not has_validation:
        notes.append(
            "The teacher may have learned these images by heart: of others it is right less often. "
            "The key validation of the step ferkd names a label store of images it never saw."
        )
    title = f"How reliable the teacher is, by {_SAID[on]}"
    return Table(title, tuple(header), tuple(rows), tuple(notes))


def _cells(each: Bin | None, total: int) -> list[str]:
    if each is None:
        return ["0.00", "-", "-"]
    share, right = each.crops / total, each.accuracy
    return [f"{100 * share:.2f}", f"{100 * right:.2f}", f"{each.target_prob:.3f}"]
