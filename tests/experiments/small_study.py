"""A study small enough for a test: 50 digits, networks of a few steps, one world of each kind."""

import contextlib
from pathlib import Path
from typing import Any

import yaml

from experiments import study, world
from experiments.study import Study
from ferkd_pipeline import engine, params
from stages.shared.contract import NoProgress

NETWORK: dict[str, Any] = {
    "name": "resnet18",
    "model_kwargs": {
        "layers": [1, 1, 1, 0],
        "channels": [8, 8, 8, 8],
        "stem_type": "deep",
        "stem_width": 4,
        "output_stride": 8,
    },
}
PIXELS = {"input_size": [32, 32], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
TRAINING: dict[str, Any] = {
    "model": NETWORK | PIXELS,
    "crops_per_image": 1,
    "batch_size": 16,
    "steps": 3,
    "lr": 0.01,
    "device": "cpu",
}
BASE: dict[str, Any] = {
    "store": {"num_shards": 2},
    "digits": {
        "num_train": 60,
        "num_val": 50,
        "num_test": 50,
        "renders_train": 1,
        "renders_val": 1,
        "renders_test": 1,
    },
    "index": {"images": "data/digits/train", "num_workers": 1},
    "teacher": TRAINING | {"flip": 0},
    "sample": {"num_crops": 4, "scale": [0.08, 1], "flip": 0},
    "infer": {
        "teacher": NETWORK | {"weights": "models/teacher"},
        "batch_size": 32,
        "num_workers": 1,
        "device": "cpu",
    },
    "compress": {"kind": "marginal_smoothing", "k": 5, "precision": "compact"},
    "train": TRAINING,
}
STUDY: dict[str, Any] = {
    "timing": {"arms": ["ms5"], "rounds": 2, "steps": 1},
    "seeds": [0, 1],
    "baseline": "ms5",
    "student": {"eval_every": 2},
    "teachers": {"strong": {}},
    "worlds": {
        "clean": {"title": "Right", "teacher": "strong"},
        "noisy": {"title": "Wrong", "teacher": "strong", "digits": {"wrong_labels": 0.2}},
    },
    "labels": {"ms5": {"kind": "marginal_smoothing", "k": 5}, "full": {"kind": "full"}},
    "groups": {"labels": "Kinds", "revision": "Revision", "mixing": "Mixing"},
    "arms": {
        "truth": {"title": "truth", "groups": ["labels"], "learn": "truth"},
        "ms5": {"title": "MS5", "groups": ["labels"], "worlds": ["clean", "noisy"]},
        "online": {"title": "online", "groups": ["labels"], "learn": "online"},
        "full": {"title": "full", "groups": ["labels"], "labels": "full"},
        "revised": {
            "title": "revised",
            "groups": ["revision"],
            "worlds": ["clean", "noisy"],
            "steps": [{"step": "revise", "eta": 0.8}],
        },
        "suspicious": {
            "title": "suspicious",
            "groups": ["revision"],
            "worlds": ["noisy"],
            "steps": [
                {"step": "noise", "confidence": 0, "agreement": 0.51, "target_below": 1},
                {"step": "revise"},
            ],
        },
        "mixup": {"title": "Mixup", "groups": ["mixing"], "train": {"mix": "mixup"}},
    },
    "sweeps": {
        "eta": {"title": "Revision", "x": "eta", "lines": {"wrong": {0.8: "revised", 1: "ms5"}}}
    },
}


def load(folder: Path, **changes: Any) -> Study:
    """Write the small study below ``folder`` and read it."""
    paths = {"base": "base.yaml", "out": "out", "results": "results"}
    raw = {**{name: str(folder / path) for name, path in paths.items()}, **STUDY, **changes}
    (folder / "base.yaml").write_text(yaml.safe_dump(BASE, sort_keys=False))
    (folder / "study.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    return study.load(folder / "study.yaml")


def stage_here(folder: Path, params_name: str, stage: str) -> None:
    """Run a stage in this process: nine starts of Python would take half a minute."""
    with contextlib.chdir(folder):
        values = params.load(Path(params_name))
        engine.run_stage(values, stage, None, progress=NoProgress())


def make_worlds(found: Study) -> None:
    """Make the teacher and both worlds, with `world._stage` replaced by `stage_here`."""
    world.make_teacher(found, "strong")
    for name in found.worlds:
        world.make_world(found, name)
