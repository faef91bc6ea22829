"""Which shards of a store should be there, and are not.

Shapes: N images, M crops an image, S shards.

A store does not say S: it follows from how many images its parts hold, or from the highest part.
"""

from collections import defaultdict
from collections.abc import Iterator

from store import images
from store.check.damage import Damage, of_entry, remake_command
from store.entry import Entry
from store.layout import ARTIFACTS, Layout, part_name

_SHARDED = ("crops", "predictions", "soft", "calibrated")
_MADE_FROM = {
    "crops": ("images",),
    "predictions": ("images", "crops"),
    "soft": ("images", "crops"),
    "calibrated": ("images", "crops", "soft"),
    "scores": ("images",),
}
"""What must lie beside an artifact: what the lineage of its parts names, and what that was made
from. Labels outlive the predictions they were made from, which people delete: they are large."""


def shard_of(stem: str) -> int | None:
    """Number of a shard from the stem of its files; None for what is no shard."""
    number = stem.removeprefix("part-")
    return int(number) if number != stem and number.isdecimal() else None


def is_sharded(artifact: str) -> bool:
    """Whether an artifact has a part for every shard."""
    return artifact.split("/")[0] in _SHARDED


def crops_an_image(listed: list[Entry]) -> int | None:
    """M, as the entries say it; None where none does, or they do not agree."""
    said = {
        entry.attributes["num_crops"]
        for entry in listed
        if entry.artifact in ("crops", "soft", "predictions") and "num_crops" in entry.attributes
    }
    found = said.pop() if len(said) == 1 else None
    return found if isinstance(found, int) and found > 0 else None


def num_shards(listed: list[Entry], num_images: int | None) -> int:
    """S: the only number that gives most parts as many images as they hold, if there is one."""
    parts = {
        (shard, entry.rows)
        for entry in listed
        if is_sharded(entry.artifact) and (shard := shard_of(entry.stem)) is not None
    }
    least = max((shard for shard, _ in parts), default=-1) + 1
    num_crops = crops_an_image(listed)
    if num_images is None or num_crops is None or not parts:
        return least
    votes: dict[int, int] = defaultdict(int)
    for shard, rows in parts:
        held = max(1, rows // num_crops)
        # S lies about N / held: a shard holds N / S images, rounded down or up.
        for number in range(max(shard, num_images // (held + 1)) + 1, num_images + 1):
            if number * (held - 1) > num_images:
                break
            votes[number] += _holds(num_images, number, shard) * num_crops == rows
    best = max(votes.values(), default=0)
    agreed = [number for number, count in sorted(votes.items()) if count == best > len(parts) // 2]
    return next((number for number in agreed if number >= least), (agreed or [least])[0])


def _holds(num_images: int, number: int, shard: int) -> int:
    start, stop = images.shard_bounds(num_images, number, shard)
    return stop - start


def missing_artifacts(
    layout: Layout, listed: list[Entry], names: list[str], *, needs_images: bool
) -> Iterator[Damage]:
    """Whole artifacts that the lineage of other parts names and that are not there.

    ``names`` are those that are there. With ``needs_images`` images are missing in any case.
    """
    wanted: dict[str, list[str]] = {}
    for name in sorted({entry.artifact for entry in listed}):
        for source in _MADE_FROM.get(name.split("/")[0], ()):
            wanted.setdefault(source, []).append(name)
    if needs_images:
        wanted.setdefault("images", ["every artifact"])
    for source in ARTIFACTS:
        if source in wanted and source not in names:
            made = ", ".join(wanted[source])
            remedy = f"run `{remake_command(source)}`, or take it from a copy"
            kind = f"is missing, and {made} cannot be checked without"
            yield Damage(str(layout.folder(source)), kind, remedy, source)


def notes(layout: Layout, listed: list[Entry], names: list[str]) -> list[str]:
    """What is not there and need not be, in words."""
    has_labels = any(entry.artifact == "soft" for entry in listed)
    if not has_labels or "predictions" in names:
        return []
    folder = layout.folder("predictions")
    return [
        f"{folder} is not there: the labels are whole without; to make others, run "
        f"`{remake_command('predictions')}` again"
    ]


def check(
    layout: Layout, listed: list[Entry], names: list[str], total: int, told: set[str]
) -> Iterator[Damage]:
    """Shards of ``total`` that an artifact lacks, and parts of another number of shards.

    Parts in ``told`` are passed over: what is wrong with them was said.
    """
    for name in names:
        own = [entry for entry in listed if entry.artifact == name]
        if not is_sharded(name):
            continue
        for entry in own:
            shard = shard_of(entry.stem)
            if shard is None or shard >= total:
                kind = f"a part of another number of shards: this store has {total}"
                yield of_entry(layout, entry, kind)
        there = {shard_of(entry.stem) for entry in own}
        missing = [
            n for n in range(total) if n not in there and f"{name}/{part_name(n)}" not in told
        ]
        if missing:
            yield _missing(layout, name, missing, total)


def _missing(layout: Layout, artifact: str, missing: list[int], total: int) -> Damage:
    stem = part_name(missing[0]) if len(missing) == 1 else ""
    command = remake_command(artifact, stem)
    file = layout.entry(artifact, stem) if stem else layout.folder(artifact)
    stage = command.removeprefix("ferkd-pipeline stage ").split(" ")[0]
    which = f"shard {missing[0]} of {total} is" if stem else f"shards {_ranges(missing)} are"
    count = "" if stem else f" ({len(missing)} of {total})"
    kind = f"{which} missing{count}: stage {stage} is not finished"
    part = f"{artifact}/{stem}" if stem else artifact
    return Damage(str(file), kind, f"run `{command}`", part)


def _ranges(numbers: list[int]) -> str:
    """Ascending numbers in words: 0, 3-5."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
