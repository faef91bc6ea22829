"""Crops cut out where the teacher is: here the CPU, which only makes them in another way."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.infer.clock import Clock
from stages.infer.device_crops import DeviceCrops
from stages.infer.feed import Batch, CropFeed, CropList, Crops, PixelKey
from stages.infer.inputs import open_inputs
from stages.shared.contract import keyed_params
from tests.world import Project, copy_project, forget_predictions

KEYS: list[PixelKey] = [((32, 32), "bilinear"), ((24, 40), "bicubic")]
DEVICE = torch.device("cpu")
OPS: dict[str, Any] = {
    "augment": {"colour_jitter": {"brightness": 0.4, "hue": 0.1}, "rand_augment": {"num_ops": 1}}
}


def batches(project: Project, batch_size: int, device: torch.device | None) -> list[Batch]:
    """All crops of shard 1, in batches."""
    values = project.params(sample=OPS)
    inputs = open_inputs(values.section("infer"), project.source())(1)  # type: ignore[arg-type]
    crops = Crops(*inputs.read_crops())
    folder, clock = inputs.images_folder, Clock()
    feed = CropFeed(
        folder,
        inputs.images,
        crops,
        KEYS,
        batch_size,
        num_workers=2,
        whole=device is not None,
        clock=clock,
    )
    rows = np.argwhere(np.ones_like(crops.flips))
    found = list(feed.batches([CropList(0, rows[:17]), CropList(1, rows[17:])]))
    if device is None:
        return found
    maker = DeviceCrops(crops, KEYS, batch_size, device, clock)
    return [Batch(b.block, b.rows, b.failed, maker.make(b), b.images) for b in found]


@pytest.fixture(scope="module")
def augmented(made: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy whose crops have recorded operations, and an image that is gone."""
    project = copy_project(made, tmp_path_factory.mktemp("device") / "own")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.folder)
        project.run("sample", sample=OPS)
        table = open_inputs(project.params(sample=OPS).section("infer"), project.source())(1).images  # type: ignore[arg-type]
        (project.folder / "images" / str(table.paths[2])).unlink()
    return project


@pytest.mark.parametrize("batch_size", [5, 7, 64])
def test_they_are_those_of_the_processor(
    augmented: Project, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(augmented.folder)
    for here, there in zip(
        batches(augmented, batch_size, None), batches(augmented, batch_size, DEVICE), strict=True
    ):
        assert (here.block, here.failed) == (there.block, there.failed)
        np.testing.assert_array_equal(here.rows, there.rows)
        for key in KEYS:
            assert here.pixels[key].shape == there.pixels[key].shape == (batch_size, 3, *key[0])
            assert there.pixels[key].is_contiguous(memory_format=torch.channels_last)
            # Operations such as equalize spread a level of difference; of most crops none is there.
            far = (here.pixels[key].int() - there.pixels[key].int()).abs() > 2
            assert far.float().mean() < 0.02
            black = ~there.pixels[key].flatten(1).any(dim=1)
            assert bool(black[len(there.rows) :].all())
            gone = np.isin(there.rows[:, 0], list(there.failed))
            assert bool(black[: len(there.rows)][torch.from_numpy(gone)].all())


def test_an_image_is_sent_once(augmented: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its crops go on in the next batch, which finds it there."""
    monkeypatch.chdir(augmented.folder)
    sent: list[int] = []
    send = DeviceCrops._send

    def counted(self: DeviceCrops, images: dict[int, torch.Tensor]) -> None:
        sent.extend(image for image in images if image not in self._there)
        send(self, images)

    monkeypatch.setattr(DeviceCrops, "_send", counted)
    found = batches(augmented, 3, DEVICE)
    assert sorted(sent) == sorted(set(sent))
    assert set(sent) == {i for b in found for i in b.rows[:, 0].tolist()} - {2}


def test_labels_stay_close_and_have_a_key_of_their_own(own: Project) -> None:
    before, lineage = own.predictions(), own.entry("predictions", 0).lineage["inputs"]
    change: dict[str, Any] = {"infer": {"resize": "device"}}
    assert own.why("infer", infer={"resize": "auto"}) == ["complete"] * 3
    assert "complete" not in own.why("infer", **change)
    own.run("infer", **change)
    after = own.predictions()
    assert own.entry("predictions", 0).lineage["inputs"] == {**lineage, "resize": "device"}
    np.testing.assert_allclose(after["logsumexp"], before["logsumexp"], rtol=0.02, atol=0.02)
    forget_predictions()
    own.run("sample", "infer", store={"num_shards": 1}, **change)
    for name, values in own.predictions(1).items():
        np.testing.assert_array_equal(values, after[name], err_msg=name)


def test_a_compiled_teacher_has_a_key_of_its_own(
    own: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.compile itself takes a minute and a compiler; what is shown is that it is asked for."""
    compiled: list[dict[str, Any]] = []

    def compile_(self: torch.nn.Module, **options: Any) -> None:
        compiled.append(options)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_)
    own.run("infer", infer={"compile": True})
    assert compiled == [{"dynamic": False}]
    assert own.entry("predictions", 0).lineage["inputs"]["compile"] is True
    assert "compile" not in keyed_params(own.params().section("infer"))


def test_threads_decode_an_image_once(own: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def counted(path: Path) -> bytes:
        read.append(path)
        return path.read_bytes()

    monkeypatch.setattr("stages.infer.decoded.read_bytes", counted)
    forget_predictions()
    own.run("infer", shards=(0,), infer={"batch_size": 3, "num_workers": 8, "block_images": 100})
    assert len(read) == len(set(read)) == 8
