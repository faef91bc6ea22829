"""Results of infer, compress and calibrate on fixed numbers: they change with REVISION only."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.calibrate import core as calibrate
from stages.calibrate.config import Config as CalibrateConfig
from stages.calibrate.crops import Crops
from stages.calibrate.fit import fit
from stages.calibrate.run import REVISION as CALIBRATE_REVISION
from stages.calibrate.served import ServedLabels
from stages.compress.core import Predictions, sparse_columns
from stages.compress.run import REVISION as COMPRESS_REVISION
from stages.infer.config import Config as InferConfig
from stages.infer.core import Kept, crop_keys, kept_values
from stages.infer.run import REVISION as INFER_REVISION
from store.codecs import Kind, LabelSpec, SparseLabels, to_entries
from store.digest import rows_digest
from store.images import ImageTable
from tests.stages.calibration import evidence

GOLDEN = Path(__file__).parents[1] / "golden" / "revisions.json"
NUM_CLASSES = 12
NUM_ROWS = 40
KINDS: tuple[Kind, ...] = ("hard", "smoothing", "marginal_smoothing", "marginal_renorm")


def logits() -> torch.Tensor:
    """Sixteenths, so that they are exact, with ties; some unsure, some sure."""
    values = np.random.Generator(np.random.Philox(key=[1, 2])).integers(-40, 40, (NUM_ROWS, 12))
    return torch.from_numpy(values / 16).float()


def targets() -> np.ndarray:
    return np.arange(NUM_ROWS) % NUM_CLASSES


def kept() -> dict[str, np.ndarray]:
    config = InferConfig.model_validate({"teacher": {"name": "resnet18"}, "temperatures": [2]})
    wanted = Kept.of(config, num_crops=4, num_classes=NUM_CLASSES)
    values = kept_values(wanted, logits(), torch.from_numpy(targets()))
    return {name: tensor.numpy() for name, tensor in values.items()}


def predictions() -> Predictions:
    """On a grid of thousandths: the last bit of an exponential is not what is tested here."""
    said = kept()
    ranked = np.take_along_axis(said["logp"], said["topk_class"].astype(np.int64), axis=1)
    coarse = (np.round(ranked.astype(np.float64) * 64) / 64).astype(np.float16)
    target = (np.round(said["target_logp"].astype(np.float64) * 64) / 64).astype(np.float16)
    return Predictions(
        said["topk_class"].astype(np.int32), coarse, None, target, said["logsumexp"], (1.0, 2.0)
    )


def spec(kind: Kind) -> LabelSpec:
    return LabelSpec(kind, 3, NUM_CLASSES, "compact")


def compressed() -> dict[str, str]:
    said = predictions()
    return {
        kind: rows_digest(sparse_columns(spec(kind), said, targets().astype(np.int32)))
        for kind in KINDS
    }


def calibrated() -> dict[str, Any]:
    config = CalibrateConfig.model_validate(
        {
            "ferkd": [{"step": "ferkd"}],
            "revised": [{"step": "ferkd", "preset": "ferkd_literal"}, {"step": "revise"}],
        }
    )
    columns = sparse_columns(spec("marginal_smoothing"), predictions(), targets().astype(np.int32))
    stored = SparseLabels(
        np.stack([columns[f"class_{k}"] for k in range(3)], axis=1),
        np.stack([columns[f"prob_{k}"] for k in range(3)], axis=1),
    )
    entries = to_entries(spec("marginal_smoothing"), stored, targets())
    served = ServedLabels.from_entries(*entries, targets())
    image_ids = np.arange(NUM_ROWS) // 4
    crops = Crops(image_ids, targets(), columns["prob_0"], NUM_CLASSES, labels=served)
    proof = evidence(columns["prob_0"], "compact", num_classes=NUM_CLASSES)
    found = {}
    for name, steps in config.root.items():
        overlay = calibrate.apply(steps, fit(name, steps, proof), crops).overlay
        found[name] = {
            "action": overlay.action.tolist(),
            "teacher_weight": [round(float(w), 5) for w in np.nan_to_num(overlay.teacher_weight)],
        }
    return found


def keys() -> list[str]:
    table = ImageTable(
        np.array(["a/1.jpg", "b/\u00e9.png"], dtype=object),
        np.array([0, 1], np.int32),
        np.array([8, 9], np.int32),
        np.array([7, 6], np.int32),
        np.array(["00", "ff"], dtype=object),
        ("a", "b"),
    )
    boxes = np.arange(16, dtype=np.int32).reshape(2, 2, 4) - 3
    flips = np.array([[True, False], [False, False]])
    return [f"{key:016x}" for key in crop_keys(table, boxes, flips).ravel()]


def make_golden() -> dict[str, Any]:
    said = kept()
    return {
        "infer": {
            "revision": INFER_REVISION,
            "crop_keys": keys(),
            "topk_class": rows_digest({"topk_class": said["topk_class"].astype(np.int32)}),
            "logp": [round(float(value), 2) for value in said["logp"][0]],
            "logsumexp": [round(float(value), 3) for value in said["logsumexp"][0]],
        },
        "compress": {"revision": COMPRESS_REVISION, **compressed()},
        "calibrate": {"revision": CALIBRATE_REVISION, **calibrated()},
    }


def test_results_change_with_the_revision_only() -> None:
    """Labels of old stores must be reproducible.

    If other results are wanted, raise REVISION in the stage's run.py, so that old shards are made
    again, and write ``json.dumps(make_golden(), indent=1)`` to the file.
    """
    assert make_golden() == json.loads(GOLDEN.read_text())
