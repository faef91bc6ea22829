"""Crops that are resized on a GPU. Skipped where there is none; the same code runs on a CPU in
test_device_pixels.py and test_loader.py."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.shared.contract import NoProgress
from stages.shared.device_pixels import resize_crops
from stages.shared.model_config import ModelConfig, PixelSpec
from stages.shared.training import image_reader
from stages.shared.training.batches import StoredCrops
from stages.shared.training.config import LearnerConfig
from stages.shared.training.learner import learn
from stages.shared.training.loader import StepBatches, iterate_steps
from tests.stages.test_device_pixels import packed, some_crops
from tests.stages.training_world import NETWORK, FakeView, image_table, plan_of, write_images

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SPEC = PixelSpec(
    size=(16, 12), interpolation="bilinear", mean=(0.5,) * 3, std=(0.25,) * 3, crop_ratio=1.0
)
LARGER = replace(SPEC, size=(20, 20), interpolation="bicubic")


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> FakeView:
    folder: Path = tmp_path_factory.mktemp("images")
    write_images(folder)
    return FakeView(folder, image_table(folder))


@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
def test_crops_are_those_of_the_cpu(how: Any) -> None:
    images, boxes, flips = some_crops()
    pixels, table = packed(images, boxes, flips)
    expected = resize_crops(pixels, table, (64, 48), how)
    found = resize_crops(pixels.cuda(), table, (64, 48), how)
    assert found.device.type == "cuda"
    assert found.is_contiguous(memory_format=torch.channels_last)
    difference = (found.cpu().int() - expected.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-3
    assert torch.equal(resize_crops(pixels.cuda(), table, (64, 48), how), found)


def test_memory_on_the_gpu_is_bounded() -> None:
    images, boxes, flips = some_crops(m=200)
    pixels, table = packed(images, boxes, flips)
    on_gpu = pixels.cuda()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    made = resize_crops(on_gpu, table, (96, 96), "bilinear")
    taken = torch.cuda.max_memory_allocated() - before - made.numel()
    assert taken < 600 * 2**20


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_come_pinned_and_are_cut_there(
    view: FakeView, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_reader, "KEPT_BYTES", -1)
    made = StepBatches(
        StoredCrops(view, seed=0), plan_of(24, 6, 0, m=2), SPEC, LARGER, resize="device"
    )
    cuda = torch.device("cuda")
    found = iterate_steps(made, 0, 4, num_workers=num_workers, pin_memory=True)
    for step, batch in enumerate(found):
        assert batch.uncut is not None
        assert batch.uncut.pixels.is_pinned()
        there, here = batch.to(cuda), made.make(step).to(torch.device("cpu"))
        assert there.labels.weights.device.type == "cuda"
        assert there.teacher_pixels is not None
        assert here.teacher_pixels is not None
        assert (there.pixels.cpu().int() - here.pixels.int()).abs().max() <= 1
        difference = there.teacher_pixels.cpu().int() - here.teacher_pixels.int()
        assert difference.abs().max() <= 1


def test_a_training_repeats_itself_bit_for_bit(view: FakeView) -> None:
    given = LearnerConfig(
        model=ModelConfig(**NETWORK),
        batch_size=12,
        crops_per_image=2,
        steps=20,
        lr=0.02,
        device="cuda",
        num_workers=2,
    )
    first, second = (
        learn(
            given, StoredCrops(view, seed=0), evaluation=None, progress=NoProgress(), label="test"
        )
        for _ in range(2)
    )
    assert first.history.losses == second.history.losses
    assert first.history.losses[-1] < first.history.losses[0]
