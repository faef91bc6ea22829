"""benchmarks/train.py on a handful of images: what it compares is the same, its keys are there."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.training import gpu, loading, losses, steps, suite, turns, world
from benchmarks.training.reference_loader import dense_labels
from benchmarks.training.world import World
from stages.shared.training.batches import select_step
from stages.shared.training.labels import LabelTensors

TINY = steps.Setting("resnet18", "resnet18", side=32, batch_size=4, crops_per_image=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world.make(tmp_path_factory.mktemp("world"), num_images=3, num_crops=9)


def test_both_loaders_are_given_the_same_images_and_labels(made: World) -> None:
    view = made.open_view()
    pixels, dense = loading.reference_loader(made, 4)()
    ours = loading.loader(view, 4)()
    assert pixels.shape == ours.pixels.shape == (12, 3, 224, 224)
    assert pixels.dtype == torch.float32 and ours.pixels.dtype == torch.uint8
    assert dense.shape == (12, 1000)
    torch.testing.assert_close(dense.sum(1), torch.ones(12))
    # All 9 crops of an image, out of FKD's file and out of the view.
    source, plan = loading.LargeStore(view), loading.step_plan(3, 1, 9)
    batch = select_step(source, plan, 0).batch
    row = int(plan.order(0)[0])
    file = made.fkd_labels / Path(made.labels.table.paths[row]).with_suffix(".tar")
    coords, flips, pairs = torch.load(file, weights_only=False)
    sides = np.array([world.HEIGHT, world.WIDTH] * 2)
    order = np.lexsort(batch.boxes[0].T)
    boxes = np.rint(coords * sides).astype(int)
    same = np.lexsort(boxes.T)
    np.testing.assert_array_equal(batch.boxes[0][order], boxes[same])
    np.testing.assert_array_equal(batch.flips[0][order], flips[same])
    ours_dense = LabelTensors.from_batch(batch).expand(1000)[order]
    theirs = dense_labels(pairs, 1000).double()[same]
    torch.testing.assert_close(ours_dense, theirs, rtol=0, atol=1e-6)


def test_images_are_decoded_anew_for_every_batch(made: World) -> None:
    make = loading.loader(made.open_view(), 1)
    make()
    path = next(made.images.rglob("*.JPEG"))
    data = path.read_bytes()
    path.write_bytes(b"")
    try:
        with pytest.raises(Exception, match=path.name):
            make()
    finally:
        path.write_bytes(data)


def test_files_are_like_photographs(made: World) -> None:
    sizes = [path.stat().st_size for path in made.images.rglob("*.JPEG")]
    assert 90_000 < np.mean(sizes) < 130_000


def test_pixels_are_pillows_within_two_levels(made: World) -> None:
    found = loading.pixel_differences(made)
    assert found["pixel_max_difference"] <= 2
    assert found["pixel_share_within_2"] == 1


def test_the_other_pixels_are_noticed(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "SPEC", replace(loading.SPEC, interpolation="bicubic"))
    assert loading.pixel_differences(made)["pixel_max_difference"] > 2


def test_loader_rates_have_a_ratio_for_each_number_of_crops(made: World) -> None:
    found = loading.rates(made, rounds=1)
    for m in (1, 4, 8):
        ratio = found[f"loader_rate_m{m}"] / found[f"reference_rate_m{m}"]
        assert found[f"loader_ratio_m{m}"] == pytest.approx(ratio)
    assert found["loader_ratio"] == found["loader_ratio_m4"]
    assert all(np.isfinite(value) and value > 0 for value in found.values())


def test_steps_are_timed_for_three_kinds_of_labels(made: World) -> None:
    found = steps.ratios(made, rounds=1, setting=TINY)
    assert found["step_ratio_truth"] > 0 and found["step_ratio_online"] > 0


def test_the_dense_labels_of_the_reference_are_its_formula() -> None:
    pairs = torch.tensor([[[3.0, 0.0], [0.5, 0.25]], [[1.0, 2.0], [0.9, 0.2]]])
    expected = torch.tensor([[0.25, 0.125, 0.125, 0.5], [0, 0.9, 0.2, 0]])
    torch.testing.assert_close(dense_labels(pairs, 4), expected)


def test_tasks_take_turns_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    clock = iter(range(100))
    seconds = turns.seconds_in_turns(
        {name: lambda name=name: calls.append(name) for name in "ab"},  # type: ignore[misc]
        rounds=2,
        clock=lambda: float(next(clock)),
    )
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert seconds == {"a": [1.0, 1.0], "b": [1.0, 1.0]}


def test_the_gpu_part_runs_where_the_device_is_a_cpu(made: World) -> None:
    device = torch.device("cpu")
    assert gpu.loader_rate(made, device, rounds=1) > 0
    found = gpu.training(
        made,
        device,
        steps=1,
        network="resnet18",
        batch_size=4,
        precision="float32",
        num_workers=0,
        warm_up=1,
        side=32,
    )
    assert 0 <= found["gpu_wait_share"] <= 1
    assert found["gpu_crops_per_second"] == pytest.approx(4 * found["gpu_images_per_second"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_the_script_prints_what_design_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "Setting", lambda: TINY)
    monkeypatch.setattr(losses, "BATCH", 8)
    sizes = ["--images", "2", "--crops", "9", "--rounds", "1"]
    monkeypatch.setattr(losses, "_ROUNDS", 2)
    assert suite.main([*sizes, "--json"]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    keys = {"loss_ratio", "loader_ratio", "step_ratio_truth", "step_ratio_online"}
    assert found.keys() >= keys | {"pixel_max_difference", "loader_rate_m8"}
    assert not any(key.startswith("gpu_") for key in found)
    assert gpu.NO_GPU in told.err
    assert suite.main([*sizes, "--only", "loss"]) == 0
    out = capsys.readouterr().out
    assert "peer: FKD's dense labels" in out and "crops/s" not in out
