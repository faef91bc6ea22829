"""How much information synthetic labels hold, beside what FACTS were measured of.

    python -m benchmarks.entropy

Shapes: N images, M crops, R ranked classes.
"""

import numpy as np
from numpy.typing import NDArray

from benchmarks.synthetic import Synthetic

_IMAGES = 2000
_COUNTED = 300
"""Images whose classes are counted, each on its own."""


def entropy(values: NDArray[np.generic]) -> float:
    """Bits a value of the values' own distribution."""
    share = np.unique(values, return_counts=True)[1] / values.size
    return float(-(share * np.log2(share)).sum())


def ids_given_image(class_ids: NDArray[np.integer]) -> list[float]:
    """Bits a crop of each rank of (N, M, R) class ids, given the image; ranks on their own."""
    counted = class_ids[:_COUNTED]
    return [
        float(np.mean([entropy(image[:, rank]) for image in counted]))
        for rank in range(class_ids.shape[2])
    ]


def main() -> None:
    """Print the figures that the docstring of benchmarks/synthetic.py states."""
    synthetic = Synthetic(_IMAGES)
    ranked, probs = synthetic.ranked(0, _IMAGES)
    targets = synthetic.class_ids(0, _IMAGES)[:, None, None]
    ids = ids_given_image(ranked.topk_class)
    halves = [entropy(probs[..., rank].astype(np.float16)) for rank in range(probs.shape[2])]
    is_target = ranked.topk_class == targets
    print(f"class ids given the image: {sum(ids):.1f} bits, by rank {np.round(ids, 1).tolist()}")
    print(f"float16 probabilities: {sum(halves):.1f} bits, rank by rank")
    print(f"the maximum is the target's: {is_target[..., 0].mean():.1%}")
    print(f"the target is among {probs.shape[2]}: {is_target.any(axis=2).mean():.1%}")


if __name__ == "__main__":
    main()
