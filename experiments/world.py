"""Make a teacher or a world: a project folder, filled by the tool's own commands.

python -m experiments.world teacher strong
python -m experiments.world world noise10
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from experiments import command, study
from experiments.study import Changes, Study
from store.atomic import replace_folder, write_bytes
from store.errors import DataError, FerkdError

SHARED = ("images", "rejects", "crops", "predictions")
"""What the stores of one world's kinds have alike."""

SECONDS = "seconds.json"
"""How long each command took, start of Python included."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run as the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.world", description=__doc__)
    parser.add_argument("what", choices=["teacher", "world"])
    parser.add_argument("name")
    return command.run(parser, argv, lambda given, found: make(found, given.what, given.name))


def make(found: Study, what: str, name: str) -> None:
    """Make a teacher or a world; what is complete is not made again.

    Raises:
        FerkdError: a name is unknown, or a stage failed; its own message was printed.
    """
    known = found.teachers if what == "teacher" else found.worlds
    if name not in known:
        raise DataError(f"{name!r} is no {what} of the study, allowed: {', '.join(known)}")
    if what == "teacher":
        make_teacher(found, name)
    else:
        make_world(found, name)


def make_teacher(found: Study, name: str) -> None:
    """Train a teacher on its own digits."""
    folder = found.teacher_folder(name)
    _write(folder, "params.yaml", study.teacher_params(found, name))
    for stage in ("digits", "index", "teacher"):
        _stage(folder, "params.yaml", stage)


def make_world(found: Study, name: str) -> None:
    """Make a world's images, predictions, labels, scores and calibrations."""
    folder, kinds = found.world_folder(name), found.kinds_of(name)
    teacher = found.teacher_folder(found.worlds[name].teacher) / "models" / "teacher"
    if not teacher.is_dir():
        raise DataError(
            f"{teacher} is missing; make it with "
            f"`python -m experiments.world teacher {found.worlds[name].teacher}`"
        )
    (folder / "models").mkdir(parents=True, exist_ok=True)
    _copy(teacher, folder / "models" / "teacher")
    for kind in kinds:
        _write(folder, f"params-{kind}.yaml", study.world_params(found, name, kind))
    _stage(folder, f"params-{kinds[0]}.yaml", "digits")
    # A calibration may take its thresholds from another store: they come last.
    for kind in kinds:
        _labels(found, name, folder, kinds[0], kind)
    for kind in kinds:
        for stage in ("score", "calibrate"):
            if stage in study.world_params(found, name, kind):
                _stage(folder, f"params-{kind}.yaml", stage)


def _labels(found: Study, world: str, folder: Path, first: str, kind: str) -> None:
    """Everything up to labels; predictions on the same images are copied, not made again."""
    own = study.world_params(found, world, kind)
    alike = own["index"] == study.world_params(found, world, first)["index"]
    if kind != first and alike:
        for artifact in SHARED:
            target = folder / "stores" / kind / "labels" / artifact
            _copy(folder / "stores" / first / "labels" / artifact, target)
    else:
        for stage in ("index", "sample", "infer"):
            _stage(folder, f"params-{kind}.yaml", stage)
    _stage(folder, f"params-{kind}.yaml", "compress")


def _write(folder: Path, name: str, raw: Changes) -> None:
    study.checked(raw, folder / name)
    text = "# Made by experiments/world.py.\n" + yaml.safe_dump(raw, sort_keys=False)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / name, text.encode())


def _copy(source: Path, target: Path) -> None:
    if not source.is_dir():
        raise DataError(f"{source} is missing; the stage that makes it failed")
    target.parent.mkdir(parents=True, exist_ok=True)
    with replace_folder(target) as partial:
        shutil.copytree(source, partial, dirs_exist_ok=True)


def _stage(folder: Path, params: str, stage: str) -> None:
    """Run one command of the tool with the project as its folder, as a user would."""
    print(f"{folder}: {stage} ({params})", file=sys.stderr, flush=True)
    begun = time.perf_counter()
    arguments = [sys.executable, "-m", "ferkd_pipeline", "stage", stage, "--params", params]
    done = subprocess.run(arguments, cwd=folder, check=False)
    if done.returncode:
        raise FerkdError(f"{folder}: stage {stage} of {params} failed ({done.returncode})")
    _remember(folder / SECONDS, f"{stage} ({params})", time.perf_counter() - begun)


def _remember(path: Path, name: str, seconds: float) -> None:
    """Keep how long a stage took; the longest counts, a later run may have found it complete."""
    kept = json.loads(path.read_bytes()) if path.exists() else {}
    kept[name] = round(max(seconds, kept.get(name, 0.0)), 2)
    write_bytes(path, (json.dumps(kept, indent=1) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
