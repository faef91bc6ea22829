"""What infer does with earlier work: an interrupted run is taken up, old predictions copied."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import xxhash
from PIL import Image
from timm.models.resnet import ResNet

from stages.infer import check
from stages.infer.forward import Labelled, Labeller
from store import images
from store.layout import part_name
from tests.world import NUM_CROPS, NUM_IMAGES, Project, forget_predictions, write_teacher


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Grows by the batch size at each forward of the teacher."""
    calls: list[int] = []
    true_forward = ResNet.forward

    def forward(self: ResNet, x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        output: torch.Tensor = true_forward(self, x)
        return output

    monkeypatch.setattr(ResNet, "forward", forward)
    monkeypatch.setattr(check, "look_once", lambda *_: None)  # its few forwards are not counted
    yield calls


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def assert_as_fresh(project: Project, **changes: Any) -> None:
    """The predictions are byte for byte those of a run that had nothing to start from."""
    found = project.tree("labels/predictions")
    forget_predictions()
    project.run("infer", **changes)
    assert project.tree("labels/predictions") == found


def test_a_killed_command_goes_on_where_it_was(own: Project) -> None:
    """The real command, killed once; other moments and stages are in tests/faults."""
    own.write_params(infer={"block_images": 1})
    own.run("infer", infer={"block_images": 1})
    expected = own.tree("labels/predictions")
    forget_predictions()
    command = [sys.executable, "-m", "ferkd_pipeline", "stage", "infer"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        time.sleep(0.001)  # leaves the core to the command
        unfinished = [path.parent for path in Path(".ferkd/work/infer").glob("*/arrays.zarr")]
        num_blocks = sum(len(list(work.glob("journal/0*.json"))) for work in unfinished)
        if num_blocks >= 3 and own.layout.entry("predictions", "part-00000").exists():
            process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert own.tree("labels/predictions") != expected
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "part-00001: " in done.stderr
    assert "blocks were done already" in done.stderr
    assert "infer: 2 shards done, 1 complete already" in done.stdout
    assert own.tree("labels/predictions") == expected


def test_a_resumed_shard_forwards_only_the_rest(
    own: Project, forwards: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_predictions()
    whole = Labeller.label
    num_batches = 0

    def first_batches(self: Labeller, lists: Any) -> Iterator[Labelled]:
        nonlocal num_batches
        for batch in whole(self, lists):
            num_batches += 1
            yield batch
            if num_batches == 3:  # with the first batch of the second block
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Labeller, "label", first_batches)
        with pytest.raises(KeyboardInterrupt):
            own.run("infer", shards=(0,))
    assert len(forwards) == 3
    own.run("infer", shards=(0,))
    assert len(forwards) == 3 + 1 + 1  # 8 images: the second block of 3, and the last of 2
    own.run("infer")
    assert_as_fresh(own)


def test_arrays_that_were_moved_but_not_published_are_taken_back(
    own: Project, forwards: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = own.tree("labels/predictions")
    forget_predictions()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("store.entries.publish", interrupted)
        own.run("infer", shards=(2,))
    assert own.layout.arrays("predictions", part_name(2)).exists()
    assert not own.layout.entry("predictions", part_name(2)).exists()
    forwards.clear()
    own.run("infer", shards=(2,))
    assert forwards == []
    own.run("infer")
    assert own.tree("labels/predictions") == expected


def test_damaged_unfinished_work_is_done_again(own: Project) -> None:
    """Bytes of a block may be lost with the power although its journal line was not."""
    expected = own.tree("labels/predictions")
    work = own.layout.resumable("infer", own.entry("predictions", 0).key)
    forget_predictions()
    (work / "journal").mkdir(parents=True)
    (work / "journal" / "000001.json").write_text('{"digest": "0", "note": {}}')
    (work / "journal" / "000002.json").write_text("")
    own.run("infer")
    assert own.tree("labels/predictions") == expected


def test_added_images_alone_are_forwarded(own: Project, forwards: list[int]) -> None:
    for name in ("bee/new.png", "elk/z.png"):
        Image.effect_noise((40, 50), 90).convert("RGB").save(Path("images") / name)
    own.run("index", "sample", "infer")
    assert forwards == [8, 8]  # 4 crops of each, in a block of its own, padded
    assert_as_fresh(own)


@pytest.mark.parametrize("num_shards", [1, 2, 5])
def test_other_shards_forward_nothing(own: Project, forwards: list[int], num_shards: int) -> None:
    change: dict[str, Any] = {"store": {"num_shards": num_shards}}
    own.run("sample", "infer", **change)
    assert forwards == []
    assert_as_fresh(own, **change)


def test_one_shard_alone_takes_from_outdated_ones(own: Project, forwards: list[int]) -> None:
    """A task of a cluster finds the others' old parts in place: nothing has set them aside."""
    change: dict[str, Any] = {"store": {"num_shards": 2}}
    own.run("sample", **change)
    for shard in (1, 0):
        own.run("infer", shards=(shard,), **change)
    assert len(forwards) <= 4 * 2  # part 1 may be gone by the time that part 0 looks for it
    own.run("infer", **change)
    assert_as_fresh(own, **change)


def test_more_crops_forward_the_new_ones(own: Project, forwards: list[int]) -> None:
    change: dict[str, Any] = {"sample": {"num_crops": NUM_CROPS + 2}}
    own.run("sample", "infer", **change)
    assert len(forwards) == 9  # blocks of 3 images, 2 new crops of each: one batch a block
    assert_as_fresh(own, **change)


def test_a_changed_image_alone_is_forwarded(own: Project, forwards: list[int]) -> None:
    path = Path("images/cat/1.png")
    with Image.open(path) as image:
        turned = image.transpose(Image.Transpose.ROTATE_180)
    turned.save(path)
    own.run("index", "infer")  # of the same size, so its boxes are the same
    assert len(forwards) == 1
    assert_as_fresh(own)


@pytest.mark.parametrize("change", [{"batch_size": 4}, {"precision": "bf16"}, {"block_images": 5}])
def test_other_settings_copy_nothing(
    own: Project, forwards: list[int], change: dict[str, Any]
) -> None:
    own.run("infer", infer=change)
    assert sum(forwards) >= NUM_IMAGES * NUM_CROPS


def test_another_teacher_copies_nothing(own: Project, forwards: list[int]) -> None:
    write_teacher(Path("models/teacher"), seed=1)
    own.run("infer")
    assert sum(forwards) >= NUM_IMAGES * NUM_CROPS
    assert_as_fresh(own)


def test_a_damaged_donor_is_passed_over(own: Project, forwards: list[int]) -> None:
    for path in Path("labels/predictions/part-00001.zarr/logp/c").rglob("*"):
        if path.is_file():
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
    change: dict[str, Any] = {"store": {"num_shards": 2}}
    own.run("sample", "infer", **change)
    assert 0 < sum(forwards) < NUM_IMAGES * NUM_CROPS
    assert_as_fresh(own, **change)


def test_crop_keys_name_what_a_crop_shows(shared: Project) -> None:
    keys = shared.predictions()["crop_key"]
    table = images.load(shared.layout)
    assert keys.shape == (NUM_IMAGES, NUM_CROPS)
    name = f"{table.paths[0]}\0{table.content_hashes[0]}\0{table.class_ids[0]}"
    row = pq.read_table(shared.layout.table("crops", part_name(0))).to_pylist()[0]
    packed = np.array([row[c] for c in ("top", "left", "height", "width", "flip")], "<i4")
    seed = xxhash.xxh3_64_intdigest(name.encode())
    assert keys[0, 0] == xxhash.xxh3_64_intdigest(packed.tobytes(), seed)
