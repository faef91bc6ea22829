"""The report's tables as plain text cells, shown alike on the terminal and on the page."""

from ferkd_pipeline.pages.table import Table
from ferkd_pipeline.report.gather import Results, arm_name
from ferkd_pipeline.report.labels import Artifact
from ferkd_pipeline.report.measured import Difference, Spread
from store.units import readable_bytes


def tables(results: Results) -> list[Table]:
    """Return the tables for which there are results, the most important first."""
    found = [
        _comparison(results),
        _timing(results),
        _accuracy(results),
        _actions(results),
        _artifacts(results.artifacts),
    ]
    return [table for table in found if table is not None and table.rows]


def _comparison(results: Results) -> Table | None:
    comparison = results.comparison
    if comparison is None:
        return None
    sets = list(next(iter(comparison.top1.values())))
    rows = []
    for arm, spreads in comparison.top1.items():
        halfway = _percent(results.curves[arm].halfway()[1]) if arm in results.curves else "-"
        cells = [_spread(spreads[name]) for name in sets]
        versus = comparison.paired.get(f"{arm} - truth", {})
        rows.append(
            (arm_name(arm), halfway, *cells, _difference(versus[sets[-1]]) if versus else "-")
        )
    steps = next((curve.halfway()[0] for curve in results.curves.values()), 0)
    num_seeds = len(comparison.seeds)
    notes = (
        f"{comparison.student}; the same {comparison.steps:,} steps and {comparison.num_crops:,} "
        f"crops for each; {num_seeds} {'seed' if num_seeds == 1 else 'seeds'}.",
        "Top-1 in %. Mean ± standard deviation over the seeds; differences seed by seed, mean ± "
        "standard error.",
    )
    header = ("student learns from", f"val, step {steps:,}", *sets, f"{sets[-1]}, minus truth")
    return Table("Students", header, tuple(rows), notes)


def _timing(results: Results) -> Table | None:
    timing = results.timing
    if timing is None:
        return None
    rows = tuple(
        (arm_name(arm) if arm != "online teacher" else arm, f"{1000 * seconds:.1f}", ratio)
        for arm, seconds in timing.seconds_per_step.items()
        for ratio in [f"{timing.ratio_to_truth[arm]:.2f}"]
    )
    note = f"Reading and decoding included; medians of {timing.rounds} rounds taken in turns."
    return Table(
        "Time per step", ("student learns from", "ms", "against ground truth"), rows, (note,)
    )


def _accuracy(results: Results) -> Table | None:
    rows = []
    roles = {
        "teacher": results.teacher,
        "student": results.student,
        "classifier on its features": results.linear,
    }
    for role, trained in roles.items():
        if trained is not None and trained.top1 is not None:
            size, steps = f"{trained.num_parameters:,}", f"{trained.steps:,}"
            images = f"{trained.num_images:,}" if trained.num_images else "-"
            cells = (_percent(trained.top1), _top5(trained.top5))
            rows.append((f"{role}, at the end", size, steps, images, *cells))
    for name, accuracy in results.evaluation.items():
        cells = (_percent(accuracy.top1), _top5(accuracy.top5))
        rows.append((f"student on {name}", "", "", f"{accuracy.num_images:,}", *cells))
    header = ("network", "parameters", "steps", "images", "top-1", "top-5")
    notes = ["In %."]
    if several := [name for name, each in results.evaluation.items() if each.top5 is None]:
        notes.append(
            f"Images of {', '.join(several)} have several labels, and any of them is right; images "
            "without labels do not count."
        )
    return Table("Accuracy", header, tuple(rows), tuple(notes))


def _actions(results: Results) -> Table | None:
    rows = []
    for name, counts in results.actions.items():
        total = sum(counts.values())
        for action, count in counts.items():
            label = name.removeprefix("calibrated/")
            rows.append((label, action, f"{count:,}", f"{100 * count / total:.2f}"))
    header = ("calibration", "action", "crops", "% of crops")
    return Table("What calibration does", header, tuple(rows))


def _artifacts(artifacts: tuple[Artifact, ...]) -> Table:
    rows = tuple(
        (
            each.name,
            f"{each.num_shards}",
            f"{each.rows:,}",
            readable_bytes(each.num_bytes),
            f"{each.num_bytes / each.rows:.2f}" if each.rows else "-",
        )
        for each in artifacts
    )
    teachers = dict.fromkeys(each.teacher for each in artifacts if each.teacher)
    notes = tuple(f"Teacher's weights: SHA-256 {teacher[:16]}.." for teacher in teachers)
    return Table("Label store", ("artifact", "shards", "rows", "size", "bytes a row"), rows, notes)


def _top5(share: float | None) -> str:
    return "-" if share is None else _percent(share)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _spread(spread: Spread) -> str:
    tail = "" if spread.std is None else f" ± {_percent(spread.std)}"
    return _percent(spread.mean) + tail


def _difference(difference: Difference) -> str:
    error = difference.standard_error
    tail = "" if error is None else f" ± {_percent(error)}"
    return f"{100 * difference.mean:+.1f}{tail}"
