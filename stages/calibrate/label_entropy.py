"""How undecided labels are before and after calibration. Shapes: N crops, C classes."""

import numpy as np
from numpy.typing import NDArray

from store.inspection.label_rows import LabelRows, entropy
from store.overlay import Action, Overlay, combine, combine_dense


def label_entropy(
    rows: LabelRows, overlay: Overlay, before: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the entropy (N,) of calibrated labels, nats; NaN where dropped or rejected.

    ``before`` is that of the labels as stored.
    """
    a, b = overlay.teacher_weight, overlay.target_weight
    changed = (overlay.action != Action.KEEP) & ~np.isnan(a)
    after = np.where(overlay.action == Action.KEEP, before, np.nan)
    targets, num_classes = rows.targets[changed], rows.spec.num_classes
    if rows.sparse is None:
        dense = combine_dense(rows.dense()[changed], targets, a[changed], b[changed])
        logs = np.log(np.where(dense > 0, dense, 1))
        after[changed] = 0.0 - (dense * logs).sum(axis=1)
        return after
    ids, weights, tail = (each[changed] for each in rows.entries())
    ids, weights, tail = combine(ids, weights, tail, targets, a[changed], b[changed], num_classes)
    # The target's own weight joins the entry that it already has, so that no class stands twice.
    at = ids[:, :-1] == targets[:, None]
    at &= at.cumsum(axis=1) == 1  # with include_target it may stand twice, once with weight 0
    weights[:, :-1] += at * weights[:, -1:]
    weights[at.any(axis=1), -1] = 0
    after[changed] = entropy(weights, tail, num_classes)
    return after
