"""How many crops each action took, mergeable over shards.

Shapes: N crops of one shard.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stages.shared.contract import Json
from store.overlay import Action, Overlay

GROUPS = ("extreme_hard", "moderate_hard", "hard_positive", "easy_positive")
"""FerKD's names for crops dropped low, softened, kept, and dropped high."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What calibrate did to the crops of a shard, or of all of them."""

    actions: dict[str, int] = field(default_factory=dict)
    """Crops by action: keep, drop, soften, revise, truth, reject. Every name is there."""
    groups: dict[str, int] = field(default_factory=dict)
    """Crops by FerKD's group, before images without any were restored; empty without FerKD."""
    restored_images: int = 0
    """Images that would have lost all their crops and keep them as softened ground truth."""
    restored_crops: int = 0

    def merge(self, other: "Counts") -> "Counts":
        """Return the counts of both together."""
        return Counts(
            _sum(self.actions, other.actions),
            _sum(self.groups, other.groups),
            self.restored_images + other.restored_images,
            self.restored_crops + other.restored_crops,
        )

    @property
    def num_crops(self) -> int:
        """Crops with a verdict: all but the rejected ones."""
        return sum(self.actions.values()) - self.actions.get("reject", 0)

    def shares(self) -> dict[str, float]:
        """Return the share of each action and group among the crops with a verdict."""
        total = max(1, self.num_crops)
        named = {name: n for name, n in self.actions.items() if name != "reject"} | self.groups
        return {name: number / total for name, number in named.items()}

    def to_json(self) -> dict[str, Json]:
        """Return the counts as plain JSON."""
        return {
            "actions": {**self.actions},
            "groups": {**self.groups},
            "restored_images": self.restored_images,
            "restored_crops": self.restored_crops,
        }

    def lines(self) -> tuple[str, ...]:
        """Return sentences for people: shares of actions, of groups, and what was restored."""
        shares = self.shares()
        actions = [
            f"{name} {shares[name]:.2%}"
            for name in self.actions
            if name != "reject" and self.actions[name]
        ]
        lines = [f"{self.num_crops:,} crops: {', '.join(actions) or 'none'}"]
        if self.groups:
            groups = [f"{name.replace('_', ' ')} {shares[name]:.2%}" for name in self.groups]
            lines.append(f"FerKD's groups: {', '.join(groups)}")
        if self.actions.get("reject"):
            lines.append(f"{self.actions['reject']:,} crops without a prediction are rejected")
        if self.restored_images:
            lines.append(
                f"{self.restored_images:,} images would have lost all their crops: their "
                f"{self.restored_crops:,} crops stay as softened ground truth"
            )
        return tuple(lines)


def count(
    overlay: Overlay,
    groups: dict[str, int],
    restored: NDArray[np.bool_],
    image_ids: NDArray[np.integer],
) -> Counts:
    """Return the counts of one shard; `restored` and `image_ids` are (N,)."""
    sizes = np.bincount(overlay.action, minlength=256)
    return Counts(
        {action.name.lower(): int(sizes[action]) for action in Action},
        groups,
        len(np.unique(image_ids[restored])),
        int(restored.sum()),
    )


def _sum(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    return {name: a.get(name, 0) + b.get(name, 0) for name in a | b}
