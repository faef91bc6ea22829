"""Tables of what was measured, for people."""

from typing import Any

from benchmarks.report import number, table

_ROWS = (
    ("loss_ratio", "loss, against hard labels, one core", "<= 1.05"),
    ("loss_ratio_two_cores", "the same on two cores", ""),
    ("loss_ours_ms", "ours, ms", ""),
    ("loss_hard_ms", "hard labels, ms", ""),
    ("loss_gather_ratio", "peer: log_softmax, gather, autograd", ""),
    ("loss_reference_ratio", "peer: FKD's dense labels", ""),
    ("loader_ratio", "loader, against FKD's, m = 4, one core", ">= 2.2"),
    ("pixel_max_difference", "pixels, largest difference from Pillow's, levels", "<= 2"),
    ("pixel_share_within_2", "share of values within 2 levels", "1"),
    ("pixel_share_equal", "share of values that are equal", ""),
    ("step_ratio_truth", "step with stored labels, against ground truth", "<= 1.02"),
    ("step_ratio_online", "step with an online teacher, against stored labels", ""),
    ("step_truth_ms", "step with ground truth, ms", ""),
    ("step_stored_ms", "step with stored labels, ms", ""),
    ("step_online_ms", "step with an online teacher, ms", ""),
    ("gpu_loader_ratio", "loader that resizes on the GPU, against FKD's, a core", ">= 6.5"),
    ("gpu_loader_rate", "the same, crops/s", ""),
    ("gpu_images_per_second", "training on the GPU, images/s", ""),
    ("gpu_crops_per_second", "training on the GPU, crops/s", ""),
    ("gpu_wait_share", "share of its time that the GPU waits", ""),
)


def tables(found: dict[str, Any]) -> str:
    """What `benchmarks/train.py` prints, of the parts that were measured."""
    rows = [(text, number(found[key]), reach) for key, text, reach in _ROWS if key in found]
    parts = [table(("figure", "measured", "reach"), rows)]
    if "loader_ratio" in found:
        parts.append(_loader(found))
    if "num_images" in found:
        size = found["mean_file_bytes"] / 1000
        where = f"{found['num_images']} JPEG files of {size:.0f} KB x {found['num_crops']} crops"
        parts.insert(0, f"{where}; {found['rounds']} rounds")
    return "\n\n".join(parts)


def _loader(found: dict[str, Any]) -> str:
    crops = (1, 4, 8)
    rows = []
    for name, text in (
        ("reference", "peer: FKD's procedure"),
        ("loader", "ours, uint8"),
        ("loader_normalised", "ours, normalised too"),
    ):
        rates = [found[f"{name}_rate_m{m}"] for m in crops]
        bases = [found[f"reference_rate_m{m}"] for m in crops]
        pairs = zip(rates, bases, strict=True)
        cells = [cell for own, base in pairs for cell in (number(own), f"{own / base:.2f}")]
        rows.append((text, *cells))
    head = ["crops/s"] + [cell for m in crops for cell in (f"m = {m}", "ratio")]
    return table(head, rows)
