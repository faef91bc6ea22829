"""The figures of benchmarks/infer.py are of the same work on both sides."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.labelling import cropping, gpu, suite
from benchmarks.training import world
from stages.infer.feed import Crops
from stages.shared.pixels import normalise
from store.layout import Layout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> world.World:
    return world.make(tmp_path_factory.mktemp("world"), 3, 6)


def test_both_sides_make_the_same_crops(made: world.World) -> None:
    crops = Crops(made.labels.boxes, made.labels.flips)
    theirs = torch.cat(list(cropping.reference(made.images, made.labels.table, crops, "bilinear")))
    batches = cropping.ours(made.images, made.labels.table, crops, "bilinear")
    ours = torch.cat([normalise(batch, cropping.MEAN, cropping.STD) for batch in batches])
    assert ours.shape == theirs.shape == (18, 3, *cropping.SIZE)
    assert float((ours - theirs).abs().max()) < 2.01 / 255 / min(cropping.STD)


def test_differences_are_counted(made: world.World, monkeypatch: pytest.MonkeyPatch) -> None:
    crops = Crops(made.labels.boxes, made.labels.flips)
    found = cropping.pixel_differences(made.images, made.labels.table, crops)
    assert found["bilinear_max_difference"] <= 2
    assert found["bilinear_share_within_2"] == 1
    assert found["bicubic_max_difference"] <= 8
    flipped = Crops(made.labels.boxes, ~made.labels.flips)
    monkeypatch.setattr(cropping, "ours", lambda a, b, c, d: _ours(a, b, flipped.first(2), d))
    assert (
        cropping.pixel_differences(made.images, made.labels.table, crops)["bilinear_share_within_2"]
        < 0.9
    )


_ours = cropping.ours


def test_the_part_for_gpus_runs_without_one(made: world.World, tmp_path: Path) -> None:
    found = gpu.shares(
        Layout.beside(tmp_path / "labels"),
        made.images,
        made.labels,
        1,
        {"small": "resnet10t"},
        batch_size=4,
        num_workers=1,
        seconds=0.2,
    )
    assert found["gpu_forward_share"] == found["gpu_forward_share_small"] > 0
    rate, bare = found["gpu_crops_per_second_small"], found["gpu_bare_crops_per_second_small"]
    assert found["gpu_forward_share"] == pytest.approx(rate / bare)


def test_the_script_prints_its_keys(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--json", "--images", "2", "--crops", "3", "--rounds", "1", "--only", "crops"]
    assert suite.main(options) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["infer_cpu_ratio"] == found["infer_cpu_rate"] / found["infer_reference_rate"]
    assert np.isfinite(found["infer_cpu_bilinear_ratio"])
    assert suite.main([*options[1:], "--only", "crops"]) == 0
    assert "against FKD's procedure" in capsys.readouterr().out
