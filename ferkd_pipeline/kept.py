"""Results of trainings, kept by what they were made from, so that none is made twice.

DVC deletes a stage's outputs before it runs its command, and runs train and compare again where any
calibration changed, also one that they do not use. What was made from the same parameters and
inputs, by the same code, is then taken back from ``.ferkd/results/STAGE/KEY/``. `store gc` deletes
these; they share their bytes with the results where the file system links files.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ferkd_pipeline import fingerprints
from stages.shared.contract import Report
from store import json_text
from store.atomic import replace_folder
from store.digest import canonical_json, sha256_file, sha256_json
from store.errors import says_nothing_of_file

_SAID = "report.json"


def digest(places: dict[str, Path]) -> str:
    """Digest of files by the names that they have, or had: name -> where its bytes lie now."""
    return sha256_json({name: sha256_file(path) for name, path in places.items()})


def keep(shelf: Path, tops: Sequence[Path], report: Report) -> None:
    """Keep the files below folders of results, whole or not at all, replacing what lies there."""
    files = {path.as_posix(): path for top in tops for path in fingerprints.files_below(top)}
    with replace_folder(shelf) as partial:
        for name, path in files.items():
            _link(path, partial / "files" / name)
        said = {"digest": digest(files), "lines": [*report.lines], "numbers": report.numbers}
        described = {**said, "sha256": sha256_json(said)}
        (partial / _SAID).write_bytes(canonical_json(described))


def take_back(shelf: Path, tops: Sequence[Path]) -> Report | None:
    """Put kept results in their places; None where there are none, or not as they were."""
    try:
        said = json_text.parse_mapping((shelf / _SAID).read_bytes())
        if said.pop("sha256") != sha256_json(said):
            return None
        below = shelf / "files"
        places = {
            path.relative_to(below).as_posix(): path for path in fingerprints.files_below(below)
        }
        if said["digest"] != digest(places):
            return None
        report = Report(dict(said["numbers"]), tuple(said["lines"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, OSError) and says_nothing_of_file(error):
            raise  # a training must not run again for a disk that did not answer
        return None
    for top in tops:
        with replace_folder(top) as partial:
            for path in fingerprints.files_below(below / top):
                _link(path, partial / path.relative_to(below / top))
    return report


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
