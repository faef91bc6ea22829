"""Tables of what was measured, for people."""

from collections.abc import Sequence
from typing import Any


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under a head, the first column to the left, the others to the right."""
    cells = [list(head), *[list(row) for row in rows]]
    widths = [max(len(row[place]) for row in cells) for place in range(len(head))]
    lines = []
    for row in cells:
        rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *rest]).rstrip())
    return "\n".join(lines)


def number(value: float) -> str:
    """Three to four significant digits, thousands marked."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 0.01 else f"{value:.4g}"


def _ratio(value: float | None, base: float | None) -> str:
    return "-" if value is None or base is None else number(value / base)


_ROWS = (
    ("bytes_per_crop", "bytes a crop for training", "<= 13, then 12"),
    ("label_bytes_per_crop", "of these, labels", "<= 8.5, then 8"),
    ("unused_bytes_per_crop", "target_prob, beside", ""),
    ("mean_kl", "mean KL of stored labels", "<= 1e-4"),
    ("max_kl", "largest KL", ""),
    ("fetch_ratio", "fetch, against the reference", ">= 350"),
    ("fetch_rate", "fetch, images/s", ""),
    ("draw_rate", "draw, images/s", ""),
    ("draw_and_gather_rate", "draw and gather, images/s", ""),
    ("compress_rate", "compress arrays, crops/s", ">= 1e6"),
    ("compress_from_zarr_rate", "the same from Zarr", ""),
    ("calibrate_rate", "calibrate, crops/s", ">= 4e6"),
    ("calibrate_fit_rate", "its first phase: a look at all crops", ""),
    ("calibrate_read_rate", "its reading alone", ""),
    ("calibrate_compute_rate", "its verdicts alone", ""),
    ("calibrate_write_rate", "its writing alone", ""),
    ("open_seconds", "open the view, s", "< 1"),
    ("worker_mb", "private memory after 1,000 gathers, MB", "< 300"),
    ("map_seconds", "map it in a loader worker, s", ""),
    ("worker_map_mb", "private memory of that worker, MB", ""),
)


def store_tables(found: dict[str, Any]) -> str:
    """What `benchmarks/store.py` prints."""
    keys = [(text, number(found[key]), reach) for key, text, reach in _ROWS]
    peers: dict[str, dict[str, float | None]] = found["peers"]
    base = peers["reference"]
    rows = [
        (
            name,
            _ratio(each["bytes_per_crop"], 1),
            _ratio(each["fetch_rate"], 1),
            _ratio(each["fetch_rate"], base["fetch_rate"]),
            _ratio(each["scan_rate"], 1e6),
            _ratio(each["scan_rate"], base["scan_rate"]),
        )
        for name, each in peers.items()
    ]
    head = ("format", "bytes/crop", "fetch images/s", "ratio", "scan Mcrops/s", "ratio")
    columns = [(name, f"{size:.3f}") for name, size in found["columns"].items()]
    where = f"{found['num_images']:,} images x {found['num_crops']} crops"
    view = f"{found['view_num_images']:,} images"
    return "\n\n".join(
        [
            f"{where}; view of {view}; precision {found['precision']}, K = {found['k']}",
            table(("figure", "measured", "reach"), keys),
            table(head, rows),
            table(("column", "bytes/crop"), columns),
        ]
    )
