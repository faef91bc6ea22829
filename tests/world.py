"""A tiny real project: images on disk, a teacher of random weights, a store made by the engine.

Paths in it are relative, as in a user's params.yaml, so tests work inside its folder.
"""

import contextlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ferkd_pipeline import engine, jobs, params
from ferkd_pipeline.engine import StageOutcome
from ferkd_pipeline.params import Params
from stages.shared.contract import NoProgress, Source
from stages.shared.model_config import ModelConfig
from stages.shared.models import build, card_of, save_model
from store.arrays import ArrayReader
from store.entries import Entry, find_entry
from store.layout import Layout, part_name

torch.set_num_threads(1)  # a child of fork cannot use OpenMP threads that its parent had
# PyTorch makes its thread pool anew in a child of fork; two threads that ask for it first, at once,
# end with "Invalid thread pool!". So it is made before there are threads.
os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))

CLASSES = ("ant", "bee", "cat", "dog", "elk")
NUM_IMAGES = 25
NUM_CROPS = 4
SHARDED = ("sample", "infer", "compress", "calibrate")
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
PARAMS: dict[str, Any] = {
    "store": {"root": "labels", "num_shards": 3},
    "index": {"images": "images", "num_workers": 1},
    "sample": {"seed": 5, "num_crops": NUM_CROPS},
    "infer": {
        "teacher": {**NETWORK, "weights": "models/teacher"},
        "batch_size": 8,
        "block_images": 3,
        "num_workers": 2,
        "device": "cpu",
    },
    "compress": {"kind": "marginal_smoothing", "k": 2},
    "calibrate": {
        "ferkd": [{"step": "ferkd", "preset": "custom", "drop_below": 0.3, "soften_to": 0.4}],
        "shares": [
            {
                "step": "ferkd",
                "preset": "custom",
                "drop_lowest": 0.1,
                "soften_lowest": 0.3,
                "drop_highest": 0.2,
            },
            {"step": "revise", "eta": 0.7},
        ],
    },
}

Changes = dict[str, Any]
Tree = dict[str, bytes]


def write_images(
    folder: Path, classes: tuple[str, ...] = CLASSES, num: int = 5, seed: int = 0
) -> None:
    """Small JPEG and PNG images of noise and gradients, no two of one size."""
    for name, index in ((name, index) for name in classes for index in range(num)):
        rng = np.random.default_rng([*name.encode(), index + 1000 * seed])
        height, width = (int(side) for side in rng.integers(36, 70, 2))
        ramp = np.linspace(0, 255, width)[None, :, None] * rng.random(3)
        noise = rng.integers(0, 120, (height, width, 3))
        pixels = np.clip(ramp + noise, 0, 255).astype(np.uint8)
        (folder / name).mkdir(parents=True, exist_ok=True)
        suffix = "png" if index % 2 else "jpg"
        Image.fromarray(pixels).save(folder / name / f"{index}.{suffix}")


def write_teacher(
    folder: Path, seed: int = 0, num_classes: int = len(CLASSES), names: tuple[str, ...] = ()
) -> None:
    """A network of random weights whose probabilities spread from unsure to sure.

    Its classes are the first ``num_classes`` of CLASSES, or else ``names``.
    """
    num_classes, names = (len(names), names) if names else (num_classes, CLASSES[:num_classes])
    config = ModelConfig(**NETWORK, input_size=(32, 32), mean=(0.4, 0.4, 0.4), std=(0.3, 0.3, 0.3))
    model = build(config, num_classes, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.module.named_parameters():
            if name.startswith("fc"):
                value.copy_(torch.randn(value.shape, generator=generator) * 3)
    save_model(folder, model.module, card_of(config, model.spec, names))


def merged(base: Changes, changes: Changes) -> Changes:
    """``base`` with nested ``changes``; None removes a key."""
    result = dict(base)
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(result.get(name), dict):
            result[name] = merged(result[name], value)
        elif value is None:
            result.pop(name, None)
        else:
            result[name] = value
    return result


@dataclass(frozen=True, slots=True)
class Project:
    """A project's folder; its methods need it as the current folder."""

    folder: Path

    def params(self, **changes: Any) -> Params:
        """PARAMS with changes, checked as the command line does."""
        return params.check(Path("params.yaml"), merged(PARAMS, changes))

    def write_params(self, **changes: Any) -> None:
        """The same as a file, for commands."""
        (self.folder / "params.yaml").write_text(json.dumps(merged(PARAMS, changes)))

    def source(self, **changes: Any) -> Source:
        """What the sharded stages work on."""
        return jobs.source_of(self.params(**changes))

    def run(
        self, *stages: str, shards: tuple[int, ...] | None = None, **changes: Any
    ) -> list[StageOutcome]:
        """Run stages through the engine."""
        values = self.params(**changes)
        return [engine.run_stage(values, s, shards, progress=NoProgress()) for s in stages]

    def make_validation_store(self, **changes: Any) -> None:
        """A label store ``labels-val`` of other images, by the same teacher."""
        write_images(self.folder / "images-val", num=3, seed=1)
        other = {"store": {"root": "labels-val"}, "index": {"images": "images-val"}}
        values = merged({**other, "calibrate": None}, changes)
        self.run("index", "sample", "infer", "compress", **values)

    def why(self, stage: str, **changes: Any) -> list[str]:
        """What `--dry-run` says of each shard."""
        return [plan.why for plan in engine.plan_stage(self.params(**changes), stage, None)]

    @property
    def layout(self) -> Layout:
        """The store."""
        return Layout.beside(Path("labels"))

    def entry(self, artifact: str, shard: int) -> Entry:
        """The entry of a part that must be there."""
        found = find_entry(self.layout, artifact, part_name(shard))
        assert found is not None
        return found

    def predictions(self, num_shards: int = 3) -> dict[str, NDArray[Any]]:
        """Arrays of all shards, one after the other."""
        readers = [
            ArrayReader(self.layout.arrays("predictions", part_name(shard)))
            for shard in range(num_shards)
        ]
        return {
            name: np.concatenate([reader.read(name, 0, reader.num_images) for reader in readers])
            for name in readers[0].names
        }

    def tree(self, *below: str) -> Tree:
        """Every file below folders (by default the whole store), by path."""
        tops = [Path(name) for name in below or ("labels",)]
        files = [path for top in tops for path in sorted(top.rglob("*")) if path.is_file()]
        return {path.as_posix(): path.read_bytes() for path in files}


def make_project(folder: Path) -> Project:
    """Images, teacher, params.yaml and a complete store."""
    project = Project(folder)
    with contextlib.chdir(folder):
        write_images(Path("images"))
        write_teacher(Path("models/teacher"))
        project.write_params()
        project.run("index", *SHARDED)
    return project


def copy_project(project: Project, folder: Path) -> Project:
    """A copy that a test may change, with the times of the images."""
    shutil.copytree(project.folder, folder, dirs_exist_ok=True)
    return Project(folder)


def forget_predictions() -> None:
    """As though infer had never run."""
    for folder in ("labels/predictions", ".ferkd/work"):
        shutil.rmtree(folder, ignore_errors=True)
