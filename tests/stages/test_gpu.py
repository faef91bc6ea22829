"""What only a GPU shows. Skipped where there is none."""

import shutil

import numpy as np
import pytest
import torch

from tests.world import Project

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_predictions_are_those_of_the_cpu(own: Project) -> None:
    on_cpu = own.predictions()
    own.run("infer", infer={"device": "cuda"})
    on_gpu = own.predictions()
    assert own.entry("predictions", 0).lineage["inputs"]["device"] == "cuda"
    np.testing.assert_allclose(on_gpu["logsumexp"], on_cpu["logsumexp"], rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(
        on_gpu["logp"].astype(np.float32), on_cpu["logp"].astype(np.float32), rtol=2e-2, atol=2e-2
    )


def test_shard_borders_change_no_prediction(own: Project) -> None:
    own.run("infer", infer={"device": "cuda"})
    three = own.predictions()
    for folder in ("labels/predictions", ".ferkd"):  # nothing may be copied
        shutil.rmtree(folder)
    own.run("sample", "infer", store={"num_shards": 1}, infer={"device": "cuda", "batch_size": 8})
    one = own.predictions(num_shards=1)
    for name in three:
        np.testing.assert_array_equal(three[name], one[name], err_msg=name)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_stays_close(own: Project, precision: str) -> None:
    exact = own.predictions()["logsumexp"]
    own.run("infer", infer={"device": "cuda", "precision": precision})
    rounded = own.predictions()["logsumexp"]
    assert np.isfinite(rounded).all()
    assert np.median(np.abs(rounded - exact)) < 0.2


@pytest.mark.parametrize("batch_size", [7, 64])
def test_crops_made_there_are_those_of_the_processor(own: Project, batch_size: int) -> None:
    change = {"device": "cuda", "batch_size": batch_size, "num_workers": 3}
    own.run("infer", infer={**change, "resize": "cpu"})
    sent = own.predictions()
    own.run("infer", infer={**change, "resize": "device"})
    made_there = own.predictions()
    np.testing.assert_allclose(made_there["logsumexp"], sent["logsumexp"], rtol=2e-2, atol=2e-2)
    shutil.rmtree("labels/predictions")
    shutil.rmtree(".ferkd")
    own.run("infer", infer={**change, "resize": "device", "num_workers": 1})
    for name, values in own.predictions().items():
        np.testing.assert_array_equal(values, made_there[name], err_msg=name)


def test_the_pixels_themselves() -> None:
    """Within a level of the processor's, on a stream of their own, in batches that share images."""
    from stages.infer.clock import Clock
    from stages.infer.device_crops import DeviceCrops
    from stages.infer.feed import Batch, Crops
    from stages.shared.pixels import crop_resize

    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (90 + i, 120, 3), dtype=np.uint8) for i in range(3)]
    boxes = np.tile(np.array([[3, 5, 60, 70], [0, 0, 90, 120], [-4, 90, 40, 40]]), (3, 1, 1))
    flips = np.tile([False, True, False], (3, 1))
    crops, device = Crops(boxes.astype(np.int32), flips), torch.device("cuda")
    clock = Clock(device)
    maker = DeviceCrops(crops, [((32, 48), "bilinear")], 4, device, clock)
    rows = np.argwhere(np.ones_like(flips))
    for start in range(0, 9, 4):
        own = rows[start : start + 4]
        pinned = {i: torch.from_numpy(images[i]).pin_memory() for i in own[:, 0].tolist()}
        found = maker.make(Batch(0, own, {}, {}, pinned))[(32, 48), "bilinear"].cpu()
        for place, (image, crop) in enumerate(own.tolist()):
            wanted = crop_resize(images[image], boxes[image, crop], flips[image, crop], (32, 48))
            assert int((found[place].int() - wanted[0].int()).abs().max()) <= 2
        assert not found[len(own) :].any()
    assert clock.seconds()["crop"] > 0


def test_speed_is_measured_there(own: Project) -> None:
    from stages.infer.config import Config
    from stages.infer.inputs import open_inputs
    from stages.infer.measure import measure

    values = own.params(infer={"device": "cuda"})
    inputs = open_inputs(values.typed("infer", Config), own.source())(0)
    found = measure(values.typed("infer", Config), inputs, 1.0)
    assert found.device == torch.cuda.get_device_name()
    assert found.crops_per_second > 0 and found.bare_crops_per_second > 0
    assert {"crop", "forward", "keep"} <= set(found.seconds)
