"""How many crops and images each action took, mergeable over shards."""

from dataclasses import dataclass, field, fields
from typing import Any

from stages.shared.contract import Json
from store.overlay import Action

GROUPS = ("extreme_hard", "moderate_hard", "hard_positive", "easy_positive")
"""FerKD's names for crops dropped low, softened, kept, and dropped high."""

_MANY_DROPPED = 0.1
"""Share of crops above which FerKD's thresholds do not fit the teacher; FerKD drops under 0.8 %."""
_MANY_RESTORED = 0.1
"""Share of images above which too many would have lost all their crops."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What calibrate did to the crops of a shard, or of all of them."""

    actions: dict[str, int] = field(default_factory=dict)
    """Crops by action: keep, drop, soften, revise, truth, reject. Every name is there."""
    images: dict[str, int] = field(default_factory=dict)
    """Images that have a crop of the action; an image may be counted under several."""
    groups: dict[str, int] = field(default_factory=dict)
    """Crops by FerKD's group, before images without any were restored; empty without FerKD."""
    num_images: int = 0
    restored_images: int = 0
    """Images that would have lost all their crops and keep them as softened ground truth."""
    restored_crops: int = 0
    suspected_images: int | None = None
    """Images whose ground truth is probably wrong; None without the step noise."""
    taught_images: int | None = None
    """Images selected for the teacher; None without the step select."""

    def merge(self, other: "Counts") -> "Counts":
        """Return the counts of both together."""
        return Counts(
            **{
                each.name: _sum(getattr(self, each.name), getattr(other, each.name))
                for each in fields(Counts)
            }
        )

    @property
    def num_crops(self) -> int:
        """Crops with a verdict: all but the rejected ones."""
        return sum(self.actions.values()) - self.actions.get("reject", 0)

    @property
    def _softens(self) -> bool:
        """Whether what is restored was softened, which crops that are mixed cannot be."""
        return bool(self.actions.get("soften"))

    def shares(self) -> dict[str, float]:
        """Return the share of each action and group among the crops with a verdict."""
        total = max(1, self.num_crops)
        named = {name: n for name, n in self.actions.items() if name != "reject"} | self.groups
        return {name: number / total for name, number in named.items()}

    def to_json(self) -> dict[str, Json]:
        """Return the counts as plain JSON."""
        found: dict[str, Json] = {}
        for each in fields(Counts):
            value = getattr(self, each.name)
            found[each.name] = {**value} if isinstance(value, dict) else value
        return found

    def lines(self) -> tuple[str, ...]:
        """Return sentences for people: shares of actions, of groups, and what was restored."""
        shares = self.shares()
        actions = [
            f"{name} {shares[name]:.2%}"
            for name in (action.name.lower() for action in Action)  # as recorded, they are sorted
            if name != "reject" and self.actions.get(name)
        ]
        lines = [f"{self.num_crops:,} crops: {', '.join(actions) or 'none'}"]
        if self.groups:
            groups = [
                f"{name.replace('_', ' ')} {shares[name]:.2%}" for name in GROUPS if name in shares
            ]
            lines.append(f"FerKD's groups: {', '.join(groups)}")
        if self.taught_images is not None:
            lines.append(
                f"{self.taught_images:,} of {self.num_images:,} images are taught by the teacher, "
                "the others by the ground truth alone"
            )
        if self.suspected_images is not None:
            lines.append(
                f"{self.suspected_images:,} of {self.num_images:,} images are suspected of a wrong "
                "label and keep the teacher's"
            )
        if self.actions.get("reject"):
            lines.append(f"{self.actions['reject']:,} crops without a prediction are rejected")
        if self.restored_images:
            lines.append(
                f"{self.restored_images:,} images would have lost all their crops: their "
                f"{self.restored_crops:,} crops stay as "
                + ("softened ground truth" if self._softens else "the teacher labelled them")
            )
        return tuple(lines)

    def warnings(self) -> tuple[str, ...]:
        """Return sentences that deserve attention: thresholds that do not suit the teacher."""
        dropped = sum(self.groups.get(group, 0) for group in ("extreme_hard", "easy_positive"))
        found = []
        if dropped > _MANY_DROPPED * self.num_crops:
            found.append(
                f"FerKD's thresholds would drop {dropped / self.num_crops:.1%} of the crops "
                "(before images that lost all of theirs got them back), which suits another "
                "teacher than this one; try preset auto or ferkd_share, or thresholds of your own"
            )
        if self.restored_images > _MANY_RESTORED * self.num_images:
            found.append(
                f"{self.restored_images:,} of {self.num_images:,} images would lose all their "
                "crops and keep "
                + (
                    "softened ground truth alone: what the teacher says of them is lost"
                    if self._softens
                    else "all of them: thresholds have no effect there"
                )
            )
        return tuple(found)


def _sum(a: Any, b: Any) -> Any:
    """Add two counts, or two mappings of them; None is nothing counted."""
    if a is None or b is None:
        return b if a is None else a
    if isinstance(a, dict):
        return {name: a.get(name, 0) + b.get(name, 0) for name in a | b}
    return a + b
