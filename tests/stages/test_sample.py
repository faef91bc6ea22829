"""The stage sample through the engine: who a box depends on, and what its key depends on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from stages.sample import core
from stages.sample.config import Config
from stages.sample.mix import Others
from stages.sample.run import REVISION
from store import images
from store.digest import rows_digest
from store.errors import DataError
from store.layout import part_name
from store.partners import PartnerRing
from store.random import path_hashes
from tests.world import NUM_CROPS, NUM_IMAGES, Project, write_images

GOLDEN = Path(__file__).parents[1] / "golden" / "sample.json"
BOX = ["top", "left", "height", "width", "flip"]


def crops(project: Project, num_shards: int) -> dict[str, NDArray[Any]]:
    """Rows of all crops by image path: (M, 5) top, left, height, width, flip."""
    frames = [
        pq.read_table(project.layout.table("crops", part_name(shard))).to_pandas()
        for shard in range(num_shards)
    ]
    paths = images.load(project.layout).paths
    return {
        paths[image_id]: rows[BOX].to_numpy(np.int64)
        for frame in frames
        for image_id, rows in frame.groupby("image_id")
    }


def assert_same(a: dict[str, NDArray[Any]], b: dict[str, NDArray[Any]]) -> None:
    for path in a:
        np.testing.assert_array_equal(a[path], b[path], err_msg=path)


def test_boxes_lie_in_their_images(shared: Project) -> None:
    table = images.load(shared.layout)
    found = crops(shared, 3)
    assert list(found) == list(table.paths)
    for path, height, width in zip(table.paths, table.heights, table.widths, strict=True):
        box = found[path]
        assert box.shape == (NUM_CROPS, 5)
        assert (box[:, :2] >= 0).all()
        assert (box[:, 2:4] >= 1).all()
        assert (box[:, 0] + box[:, 2] <= height).all()
        assert (box[:, 1] + box[:, 3] <= width).all()
    flips = np.concatenate([box[:, 4] for box in found.values()])
    assert 0 < flips.sum() < len(flips)


@pytest.mark.parametrize("num_shards", [1, 2, 7, NUM_IMAGES])
def test_shards_do_not_move_boxes(own: Project, num_shards: int) -> None:
    before = crops(own, 3)
    own.run("sample", store={"num_shards": num_shards})
    after = crops(own, num_shards)
    assert len(after) == NUM_IMAGES
    assert_same(before, after)


def test_other_images_do_not_move_boxes(own: Project) -> None:
    before = crops(own, 3)
    write_images(Path("images"), classes=("aardvark", "cow"), num=3)
    (Path("images") / "ant" / "0.jpg").unlink()
    own.run("index", "sample")
    after = crops(own, 3)
    del before["ant/0.jpg"]
    assert len(after) == NUM_IMAGES + 6 - 1
    assert_same(before, after)


def test_more_crops_keep_the_old_ones(own: Project) -> None:
    before = crops(own, 3)
    own.run("sample", sample={"num_crops": 9})
    after = {path: box[:NUM_CROPS] for path, box in crops(own, 3).items()}
    assert_same(before, after)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 6},
        {"num_crops": 5},
        {"scale": [0.1, 1.0]},
        {"ratio": [1.0, 1.0]},
        {"flip": 0.25},
        {"kind": "random_crop", "size": 20},
        {"kind": "random_crop", "size": 20, "padding": 2},
        {"augment": {"rand_augment": {}}},
        {"augment": {"colour_jitter": {"hue": 0.1}}},
        {"mix": {}},
    ],
)
def test_what_changes_rows_changes_the_key(shared: Project, change: dict[str, Any]) -> None:
    assert shared.why("sample") == ["complete"] * 3
    assert shared.why("sample", sample=change) == ["parameters or inputs changed"] * 3
    assert drawn(**change) != drawn()


def test_what_changes_no_row_is_refused_or_not_keyed(shared: Project) -> None:
    assert shared.why("sample", infer={"batch_size": 2}) == ["complete"] * 3
    for name in ("size", "padding"):
        with pytest.raises(ValidationError, match=f"{name} has no effect with kind random_resized"):
            Config.model_validate({name: 8})
    for name in ("scale", "ratio"):
        with pytest.raises(ValidationError, match=f"{name} has no effect with kind random_crop"):
            Config.model_validate({"kind": "random_crop", "size": 8, name: (1.0, 1.0)})


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"scale": (0.0, 1.0)}, "0 < min <= max <= 1"),
        ({"scale": (0.5, 0.4)}, "0 < min <= max <= 1"),
        ({"ratio": (2.0, 1.0)}, "0.001 <= min <= max <= 1000"),
        ({"kind": "random_crop"}, "needs size"),
        ({"num_crops": 0}, "greater than or equal to 1"),
        ({"num_crops": 32768}, "less than or equal to 32767"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"flip": 1.5}, "less than or equal to 1"),
        ({"crops": 3}, "Extra inputs"),
    ],
)
def test_impossible_parameters(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Config.model_validate(fields)


def test_without_an_index(own: Project) -> None:
    own.layout.entry("images", images.STEM).unlink()
    with pytest.raises(DataError, match="run `ferkd-pipeline stage index` first"):
        own.run("sample")


def drawn(**fields: Any) -> str:
    """Digest of the rows of three images of fixed sizes."""
    config = Config.model_validate({"seed": 5, "num_crops": NUM_CROPS, **fields})
    paths = np.array(["ant/0.jpg", "ant/größe.png", "bee/1.webp"], dtype=object)
    heights, widths = np.array([64, 1, 375], np.int32), np.array([48, 900, 500], np.int32)
    first, others = 7, None
    if config.mix is not None:
        first, others = 0, Others(PartnerRing(path_hashes(paths)), heights, widths)
    return rows_digest(core.draw(config, first, paths, heights, widths, others))


def make_golden() -> dict[str, Any]:
    return {
        "revision": REVISION,
        "random_resized_crop": drawn(),
        "scaled": drawn(scale=(0.08, 0.936), num_crops=11, flip=0.0, seed=2**63 - 1),
        "random_crop": drawn(kind="random_crop", size=32, padding=4),
        "augmented": drawn(
            augment={
                "rand_augment": {"num_ops": 3, "magnitude": 10, "magnitude_std": 4},
                "colour_jitter": {"brightness": 0.4, "saturation": [0, 3], "hue": 0.5},
            }
        ),
        "mixed": drawn(mix={}, num_crops=50),
        "mixed now and then": drawn(
            mix={"mixup": 0.2, "cutmix": 3, "probability": 0.6, "crops_per_partner": 1},
            num_crops=50,
        ),
    }


def test_golden_revision() -> None:
    """Rows of old stores must be reproducible.

    If other rows are wanted, raise REVISION in stages/sample/run.py, so that old shards are made
    again, and write ``json.dumps(make_golden(), indent=1)`` to the file.
    """
    assert make_golden() == json.loads(GOLDEN.read_text())
