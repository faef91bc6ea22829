"""Names beside numbers: what a person reads in a table, as dictionary arrays.

pandas makes categoricals of them, which take a byte or four a row.
"""

import numpy as np
import pyarrow as pa

from store import scores, tables
from store.errors import DataError, ParamsError
from store.layout import ARTIFACTS, Layout, calibrated, list_artifacts
from store.overlay import Action


def classes(class_ids: pa.ChunkedArray, names: tuple[str, ...], listed: object) -> pa.Array:
    """Names of class ids; ``listed`` is the file that has the names, for the message.

    Raises:
        DataError: an id has no name.
    """
    ids = class_ids.combine_chunks()
    values = ids.to_numpy(zero_copy_only=False)
    if len(values) and not 0 <= values.min() <= values.max() < len(names):
        raise DataError(
            f"{listed} has {len(names)} classes, but there are class ids outside them; run "
            "`ferkd-pipeline store verify`"
        )
    return pa.DictionaryArray.from_arrays(ids, pa.array(names))


def with_actions(table: pa.Table) -> pa.Table:
    """Put the name of each action beside its number, where the table has actions."""
    if "action" not in table.column_names:
        return table
    places = np.full(256, len(Action), dtype=np.int8)
    places[[int(action) for action in Action]] = np.arange(len(Action), dtype=np.int8)
    found = places[tables.column(table, "action")]
    indices = pa.array(found, mask=found == len(Action))
    names = pa.array([action.name.lower() for action in Action])
    named = pa.DictionaryArray.from_arrays(indices, names)
    return table.add_column(table.column_names.index("action") + 1, "action_name", named)


def calibrations(layout: Layout) -> list[str]:
    """Names of the calibrations of a store."""
    found = [name.split("/", 1) for name in list_artifacts(layout)]
    return [parts[1] for parts in found if parts[0] == "calibrated"]


def calibration(layout: Layout, name: str | None) -> str:
    """The artifact of a calibration; of the only one where none is named.

    Raises:
        DataError: there is none of that name, or several and none is named.
    """
    folder, known = layout.folder("calibrated"), calibrations(layout)
    if name is None:
        if len(known) == 1:
            return calibrated(known[0])
        if not known:
            raise DataError(f"{folder} holds no calibration; run `ferkd-pipeline stage calibrate`")
        raise DataError(
            f"{folder} holds {len(known)} calibrations: {', '.join(known)}; say which, such as "
            f"name={known[0]!r}"
        )
    if not isinstance(name, str):
        raise ParamsError(f"calibration is {name!r}, allowed: a name (see store.calibrations)")
    artifact = calibrated(name)
    if name not in known:
        raise DataError(
            f"{folder} has no calibration {name!r} (there: {', '.join(known) or 'none'}); run "
            "`ferkd-pipeline stage calibrate` for one that params.yaml names"
        )
    return artifact


def artifact(layout: Layout, name: str) -> None:
    """Refuse an artifact that no store has, or a calibration or scores that this one lacks.

    Raises:
        ParamsError: there is no such artifact.
        DataError: there is no such calibration, or there are no such scores.
    """
    if isinstance(name, str) and name.startswith("calibrated/"):
        calibration(layout, name.removeprefix("calibrated/"))
    elif isinstance(name, str) and name.startswith("scores/"):
        scores.find(layout, name.removeprefix("scores/"))
    elif name not in ARTIFACTS:
        known = [*ARTIFACTS, *(calibrated(each) for each in calibrations(layout))]
        raise ParamsError(f"there is no artifact {name!r}; there are {', '.join(known)}")
