"""A small metrics folder and label store for tests of the report, written as stages write them."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from store import entries, tables

LABEL = {
    "kind": "smoothing",
    "k": 1,
    "num_classes": 100,
    "precision": "float16",
    "temperature": 1.0,
    "include_target": False,
}


def write_metrics(folder: Path) -> None:
    compare = {
        "student": "resnet",
        "steps": 400,
        "num_crops": 51200,
        "seeds": [0, 1],
        "top1": {
            "truth": {"val": _spread(0.6, 0.01), "test": _spread(0.609, 0.018)},
            "store": {"val": _spread(0.66, 0.01), "test": _spread(0.668, 0.011)},
            "ferkd": {"val": _spread(0.65, 0.01), "test": _spread(0.648, 0.021)},
        },
        "paired": {
            "store - truth": {"val": _difference(0.06), "test": _difference(0.059)},
            "ferkd - truth": {"val": _difference(0.05), "test": _difference(0.039)},
            "ferkd - store": {"val": _difference(-0.01), "test": _difference(-0.02)},
        },
    }
    timing = {
        "rounds": 8,
        "steps_per_round": 5,
        "seconds_per_step": {"truth": 0.05, "store": 0.0502, "online teacher": 0.07},
        "ratio_to_truth": {"truth": 1.0, "store": 1.004, "online teacher": 1.4},
    }
    _json(folder / "compare/compare.json", compare)
    _json(folder / "compare/timing.json", timing)
    (folder / "compare/curves_mean.csv").write_text(
        "arm,step,top1_mean,top1_std,n\n"
        + "".join(
            f"{arm},{step},{1 - np.exp(-step / scale):.6f},0.02,2\n"
            for arm, scale in (("truth", 430), ("store", 360), ("ferkd", 380))
            for step in (0, 100, 200, 300, 400)
        )
    )
    trained = {"steps": 400, "final_loss": 0.7, "top1": 0.66, "top5": 0.96, "num_images": 1000}
    _json(folder / "train/summary.json", trained | {"num_parameters": 20_000})
    _json(folder / "teacher/summary.json", trained | {"num_parameters": 78_000, "top1": 0.79})
    _json(
        folder / "evaluate/summary.json", {"test": {"top1": 0.67, "top5": 0.97, "num_images": 1985}}
    )


def write_store(root: Path) -> None:
    max_prob = np.append(np.linspace(0, 1, 99), np.nan).astype(np.float32)
    max_prob[1] = np.float32(0.05)
    write_part(root / "soft/part-00000.parquet", {"prob_0": max_prob, "class_0": np.arange(100)})
    action = np.repeat(np.array([0, 1, 2, 255], np.uint8), [90, 3, 6, 1])
    write_part(root / "calibrated/ferkd/part-00000.parquet", {"action": action})
    write_entry(root, "calibrated/ferkd", {"inputs": {"soft": "s"}})
    write_entry(root, "soft", {"inputs": {"predictions": "p"}})
    write_entry(root, "predictions", {"inputs": {"teacher": "abc123"}})


def write_entry(root: Path, artifact: str, lineage: dict[str, object]) -> None:
    """Cover the part, which lies there already; of predictions the report reads the entry only."""
    table = root / artifact / "part-00000.parquet"
    files = entries.file_records(table.parent, [table])
    entry = {
        "artifact": artifact,
        "stem": "part-00000",
        "stage": "x",
        "key": "k",
        "rows": pq.read_metadata(table).num_rows if table.exists() else 100,
        "rows_digest": "d",
        "files": {name: asdict(record) for name, record in files.items()},
        "format_version": 1,
        "attributes": {"label": LABEL, "precision": "float16", "num_crops": 100},
        "lineage": lineage,
    }
    _json(root / artifact / "_part-00000.json", entry)


def _spread(mean: float, std: float) -> dict[str, object]:
    return {"mean": mean, "std": std, "n": 2, "values": [mean - 0.01, mean + 0.01]}


def _difference(mean: float) -> dict[str, object]:
    return {"mean": mean, "standard_error": 0.016, "n": 2}


def _json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_part(path: Path, columns: dict[str, np.ndarray]) -> None:
    tables.write_table(path, pa.table(columns), {})
