"""The tables of docs/study.md, by the names of their places in it."""

from collections.abc import Sequence

from experiments import read
from experiments.read import Results
from experiments.study import Study

_HEAD = ("labels", "val", "test", "val - MS5", "test - MS5", "seeds")


def tables(found: Study, results: Results) -> dict[str, str]:
    """Return every table as Markdown, by name."""
    first = found.first_world
    made = {"worlds": _worlds(found)}
    for group in found.groups:
        arms = [arm for arm in results.arms(first) if group in found.arms[arm].groups]
        made[f"group-{group}"] = _arms(results, first, _with_baseline(found, arms))
    for world in found.worlds:
        if world != first:
            made[f"world-{world}"] = _arms(results, world, results.arms(world))
    made["labels"] = _labels(found)
    made["noise"] = _noise(found)
    made["mixing"] = _mixing(found)
    made["seconds"] = _seconds(found)
    made["stages"] = _stages(found)
    return made


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown, the first column to the left, the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _with_baseline(found: Study, arms: list[str]) -> list[str]:
    return arms if found.baseline in arms else [found.baseline, *arms]


def _arms(results: Results, world: str, arms: Sequence[str]) -> str:
    rows = []
    for arm in arms:
        if (world, arm) not in results.top1:
            continue
        val, test = (results.summary(world, arm, split) for split in read.SPLITS)
        changes = [results.difference(world, arm, split) for split in read.SPLITS]
        rows.append(
            [
                results.found.arms[arm].title,
                read.deviating(val),
                read.deviating(test),
                *map(read.differing, changes),
                str(len(val.values)),
            ]
        )
    return markdown(_HEAD, rows)


def _worlds(found: Study) -> str:
    measured = {row["world"]: row for row in read.rows(found, "teachers")}
    rows = []
    for name, world in found.worlds.items():
        if name not in measured:  # results of a part of the study
            continue
        wrong = world.digits.get("wrong_labels", 0)
        own = found.teachers[world.teacher].get("num_train", "all")
        top1 = [read.percent(measured[name][split]) for split in read.SPLITS]
        rows.append([name, f"{wrong:.0%}".replace("%", " %"), str(own), *top1])
    head = ("world", "wrong training labels", "teacher's digits", "teacher, val", "teacher, test")
    return markdown(head, rows)


def _labels(found: Study) -> str:
    actions = ("drop", "soften", "revise", "truth")
    rows = [
        [
            row["world"],
            found.arms[row["arm"]].title,
            *(read.percent(row.get(action, "")) for action in actions),
            f"{float(row['entropy']):.2f}",
            read.percent(row["right"]),
        ]
        for row in read.rows(found, "labels")
    ]
    named = ("dropped", "softened", "revised", "ground truth")
    head = ("world", "labels", *(f"{name}, %" for name in named), "entropy", "right, %")
    return markdown(head, rows)


def _noise(found: Study) -> str:
    rows = [
        [
            row["world"],
            *(f"{int(row[name]):,}" for name in ("images", "wrong", "suspected")),
            read.percent(row["precision"]),
            read.percent(row["recall"]),
        ]
        for row in read.rows(found, "noise")
    ]
    head = ("world", "images", "wrong", "suspected", "precision, %", "recall, %")
    return markdown(head, rows)


def _mixing(found: Study) -> str:
    rows = [
        [
            found.arms[row["arm"]].title,
            f"{float(row['moved']):.3f}",
            f"{float(row['variance']):.3f}",
        ]
        for row in read.rows(found, "mixing")
    ]
    return markdown(("labels", "moved by mixing", "variance within an image"), rows)


def _seconds(found: Study) -> str:
    """Seconds of a step in the first world."""
    rows = [
        [
            found.arms[row["arm"]].title,
            f"{1000 * float(row['seconds_per_step']):.1f}",
            f"{float(row['ratio']):.2f}",
        ]
        for row in read.rows(found, "seconds")
    ]
    return markdown(("labels", "ms a step", "to ground truth"), rows)


def _stages(found: Study) -> str:
    """Seconds of the commands of the first world, of its teacher, and of scores anywhere."""
    teacher = found.worlds[found.first_world].teacher
    projects = (f"teachers/{teacher}", f"worlds/{found.first_world}")
    rows = [
        [row["project"], row["stage"], f"{float(row['seconds']):.1f}"]
        for row in read.rows(found, "stages")
        if row["project"] in projects or row["stage"].startswith("score ")
    ]
    return markdown(("project", "stage", "seconds"), rows)
