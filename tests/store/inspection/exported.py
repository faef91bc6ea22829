"""What an export wrote, and what it should have: the joined rows as pandas makes them."""

from pathlib import Path

import numpy as np
import pandas as pd

from store.inspection.export import export, plan_export
from store.inspection.selection import Selection
from store.overlay import Action
from tests.store.inspection.worlds import Watch
from tests.store.small_store import SmallStore


def written(
    small: SmallStore,
    out: Path,
    selection: Selection | None = None,
    *,
    artifact: str = "labels",
    columns: tuple[str, ...] = (),
    calibration: str | None = None,
) -> pd.DataFrame:
    """What an export wrote to a Parquet file, read by pandas."""
    plan = plan_export(small.root, artifact, columns, selection or Selection(), calibration)
    num_rows = export(plan, out, Watch())
    frame = pd.read_parquet(out)
    assert len(frame) == num_rows
    return frame


def expected(small: SmallStore, calibration: str | None = None) -> pd.DataFrame:
    """The joined rows, made from the files by pandas alone."""

    def read(artifact: str) -> pd.DataFrame:
        files = sorted(small.layout.folder(artifact).glob("part-*.parquet"))
        return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)

    key = ["image_id", "crop"]
    frame = read("crops").merge(read("soft"), on=key)
    if calibration:
        frame = frame.merge(read(f"calibrated/{calibration}"), on=key)
        frame["action_name"] = [Action(a).name.lower() for a in frame["action"]]
    frame["path"] = small.table.paths[frame["image_id"]]
    frame["class_name"] = np.array(small.table.class_names)[frame["target"]]
    return frame


def same(found: pd.DataFrame, wanted: pd.DataFrame) -> bool:
    pd.testing.assert_frame_equal(
        found.reset_index(drop=True),
        wanted[found.columns].reset_index(drop=True),
        check_dtype=False,
    )
    return True
