"""A stage that reads a damaged store stops with exit 3's error; it never makes wrong labels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.shared.contract import NoProgress
from store.check.verify import verify
from store.errors import DataError
from tests.world import Project

# Each stage is asked for something it has not made yet, so it must read what is damaged.
CHANGES: dict[str, dict[str, Any]] = {
    "infer": {"infer": {"batch_size": 5}},
    "compress": {"compress": {"k": 1}},
    "calibrate": {
        "calibrate": {
            "shares": None,
            "ferkd": [{"step": "ferkd", "preset": "custom", "drop_below": 0.2, "soften_to": 0.3}],
        }
    },
}


def flip(place: int) -> Callable[[Path], None]:
    """Flips a bit of the byte at ``place``, counted from the end where negative."""

    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[place] ^= 4
        path.write_bytes(data)

    return change


def take_from_other(path: Path) -> None:
    """The same file of the shard before: whole, and in the wrong place."""
    other = Path(str(path).replace("part-00001", "part-00000"))
    path.write_bytes(other.read_bytes())


CASES = [
    ("infer", "crops/_part-00001.json", flip(200)),
    ("infer", "images/images.parquet", flip(-3)),
    ("compress", "predictions/part-00001.zarr/logp/c/0/0/0", take_from_other),
    ("calibrate", "soft/part-00001.parquet", flip(-3)),
]
"""Some of `test_readers.py`'s, where the whole stage is run and verify is asked."""


@pytest.mark.parametrize(("stage", "name", "damage"), CASES)
def test_stage_refuses_damaged_inputs(
    own: Project, stage: str, name: str, damage: Callable[[Path], None]
) -> None:
    path = Path("labels") / name
    damage(path)
    artifact = name.split("/")[0]
    with pytest.raises(DataError) as caught:
        own.run(stage, **CHANGES[stage])
    told = str(caught.value)
    assert f"labels/{artifact}" in told
    assert "run " in told
    assert "\n" not in told
    assert any(str(path) == found.file for found in verify(Path("labels"), NoProgress()).damages)
