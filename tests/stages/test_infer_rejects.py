"""Images that infer cannot use, teachers that fail, and the memory that batches take."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from timm.models.resnet import ResNet

from stages.infer.clock import NoClock
from stages.infer.feed import CropFeed, CropList, Crops, pixel_key
from stages.infer.inputs import Inputs
from stages.infer.run import open_inputs
from stages.shared.contract import NoProgress
from store import images
from store.check.verify import verify
from store.errors import DataError, ShardError
from store.view.build import plan_view
from tests.world import NUM_IMAGES, Project, forget_predictions


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def lenient(**more: Any) -> dict[str, Any]:
    return {"infer": {"max_reject_share": 0.5, **more}}


def test_the_limit_of_rejects_holds_for_earlier_work_too(
    own: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_predictions()
    Path("images/ant/0.jpg").unlink()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("store.entries.publish", interrupted)
        own.run("infer", **lenient())
    with pytest.raises(ShardError, match="1 of 8 images of part-00000"):
        own.run("infer")


def test_an_unreadable_image_goes_its_whole_way(
    own: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_predictions()
    true_forward = ResNet.forward

    def forward(self: ResNet, x: torch.Tensor) -> torch.Tensor:
        is_plain = (x == x[:, :, :1, :1]).flatten(1).all(dim=1)
        output: torch.Tensor = true_forward(self, x)
        return torch.where(is_plain[:, None], torch.nan, output)

    monkeypatch.setattr(ResNet, "forward", forward)  # black, which stands for it, makes no error
    Path("images/bee/2.jpg").unlink()
    [outcome, *_] = own.run("infer", "compress", "calibrate", **lenient())
    assert any("1 images could not be used" in warning for warning in outcome.warnings)
    table = images.load(own.layout)
    lost = list(table.paths).index("bee/2.jpg")
    rejects = pq.read_table("labels/predictions/_rejects-00000.parquet").to_pylist()
    assert rejects == [{"image_id": lost, "path": "bee/2.jpg", "reason": "missing"}]
    stored = own.predictions()
    for name in ("logp", "target_logp", "logsumexp"):
        assert np.isnan(stored[name][lost]).all()
        assert np.isfinite(np.delete(stored[name], lost, axis=0)).all()
    soft = pq.read_table("labels/soft/part-00000.parquet").to_pandas()
    mine = soft["image_id"] == lost
    assert soft.loc[mine, ["prob_0", "prob_1", "target_prob"]].isna().all(axis=None)
    assert (soft.loc[mine, ["class_0", "class_1"]] == -1).all(axis=None)
    assert not soft.loc[~mine].isna().any(axis=None)
    for name in ("ferkd", "shares"):
        part = pq.read_table(f"labels/calibrated/{name}/part-00000.parquet").to_pandas()
        assert (part.loc[mine, "action"] == 255).all()
        assert part.loc[mine, ["teacher_weight", "target_weight"]].isna().all(axis=None)
        assert (part.loc[~mine, "action"] != 255).all()
        view = plan_view(own.layout, 3, Path("images"), name).open()
        assert view.num_images == NUM_IMAGES - 1
        assert lost not in view.image_ids
    assert verify(Path("labels"), NoProgress()).damages == []


def test_too_many_rejects_are_not_kept(own: Project) -> None:
    expected = own.tree("labels/predictions")
    forget_predictions()
    files = {path: path.with_name(f"{path.name}.away") for path in Path("images").glob("*/*")}
    for path, away in files.items():
        path.rename(away)
    for _ in range(2):
        with pytest.raises(ShardError, match=r"3 of 8 images of part-00000 .* 0.2; .*0.jpg: miss"):
            own.run("infer", infer={"max_reject_share": 0.2})
    for path, away in files.items():
        away.rename(path)
    own.run("infer")
    assert own.tree("labels/predictions") == expected


def test_a_rejected_image_that_came_back_is_used(own: Project) -> None:
    """Finished blocks of an interrupted run are not believed about images that were missing."""
    expected = own.tree("labels/predictions")
    forget_predictions()
    Path("images/ant/1.png").rename("away.png")
    Path("images/bee/2.jpg").rename("away.jpg")
    with pytest.raises(ShardError, match=r"2 of 8 images .*ant/1.png"):
        own.run("infer", infer={"max_reject_share": 0.13})  # the third block has the second one
    Path("away.png").rename("images/ant/1.png")
    Path("away.jpg").rename("images/bee/2.jpg")
    own.run("infer")
    assert own.tree("labels/predictions") == expected


def test_changed_bytes_stop_the_shard(own: Project) -> None:
    forget_predictions()
    path = Path("images/dog/1.png")
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataError, match=rf"{path} changed since .*`ferkd-pipeline stage index`"):
        own.run("infer")
    assert not Path("labels/predictions/part-00002.zarr").exists()


def test_nan_weights_stop_the_shard(own: Project) -> None:
    inputs = open_inputs(own.params().section("infer"), own.source())(0)  # type: ignore[arg-type]
    with torch.no_grad():
        dict(inputs.teachers[0].model.module.named_parameters())["fc.bias"][2] = float("nan")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.infer.teachers.build", lambda *_: inputs.teachers[0].model)
        with pytest.raises(ShardError, match=r"NaN or infinity for crop 0 of ant/0.jpg; try infer"):
            own.run("infer", infer={"batch_size": 5})


def test_batches_hold_no_more_than_asked_for(
    shared: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = shared.params()
    inputs: Inputs = open_inputs(values.section("infer"), shared.source())(1)  # type: ignore[arg-type]
    boxes, flips, *_ = inputs.read_crops()
    crops = Crops(np.tile(boxes, (1, 20, 1)), np.tile(flips, (1, 20)))
    spec = inputs.teachers[0].model.spec
    feed = CropFeed(
        Path("images"),
        inputs.images,
        crops,
        [pixel_key(spec)],
        7,
        num_workers=3,
        clock=NoClock(),
    )
    started = 0
    begin = CropFeed._begin

    def counted(*arguments: Any) -> Any:
        nonlocal started
        started += 1
        return begin(*arguments)

    monkeypatch.setattr(CropFeed, "_begin", counted)
    wanted = np.argwhere(np.ones_like(crops.flips))
    taken = 0
    for batch in feed.batches([CropList(0, wanted)]):
        assert batch.pixels[pixel_key(spec)].shape == (7, 3, 32, 32)
        np.testing.assert_array_equal(batch.rows, wanted[7 * taken : 7 * taken + 7])
        taken += 1
        assert started - taken <= 3 + 1
        assert len(feed.decoded._recent) <= 3 + 2
    assert taken == -(-len(wanted) // 7)
