"""dvc.yaml, made from the table of stages: one DVC stage an arrow of the data's way.

The dvc.yaml of this repository is written by hand, with comments; a test holds it to what is made
here. `init` writes one for the user's own data.
"""

import posixpath
from collections.abc import Iterable, Mapping
from typing import Any

import pydantic

from ferkd_pipeline.stage_table import StageInfo

CODE_SHARED = ("stages/shared", "store")
"""Code that every stage runs, besides its own package."""

LABELS = "labels/soft"

PLOTS: Mapping[str, dict[str, Any]] = {
    "metrics/teacher/curve.csv": {"x": "step", "y": "top1", "title": "Teacher: top-1 on val"},
    "metrics/train/curve.csv": {"x": "step", "y": "top1", "title": "Student: top-1 on val"},
    "metrics/linear/curve.csv": {
        "x": "step",
        "y": "top1",
        "title": "Classifier on the student's features: top-1 on val",
    },
    "metrics/evaluate/classes.csv": {
        "template": "bar_horizontal",
        "x": "top1",
        "y": "set_class",
        "title": "Student: top-1 by class",
    },
    "metrics/compare/curves.csv": {
        "x": "step",
        "y": "top1",
        "template": "scatter",
        "title": "Every student of the comparison: top-1 on val",
    },
    "metrics/compare/curves_mean.csv": {
        "template": "arms",
        "x": "step",
        "y": "top1_mean",
        "title": "Ground truth against stored labels: mean top-1 on val, one deviation either way",
    },
    "metrics/report/max_prob.csv": {
        "template": "bar_horizontal",
        "x": "share",
        "y": "max_prob",
        "title": "How sure the teacher is: crops by maximum probability",
    },
}
"""How `dvc plots show` draws each CSV file. `arms` is a template of ours, in .dvc/plots."""

REPORT = (
    "metrics/report/report.html",
    "metrics/report/summary.json",
    "metrics/report/max_prob.csv",
)
METRICS = "metrics/report/summary.json"
"""What `dvc metrics show` prints: the few numbers that matter, in one row."""


def stages(
    table: Iterable[StageInfo],
    *,
    root: str = "labels",
    with_code: bool = False,
    images: Mapping[str, list[str]] | None = None,
) -> dict[str, Any]:
    """Return the `stages` mapping of a dvc.yaml for these stages, and the report at the end.

    Args:
        table: the stages that take part; what one reads and no other writes is left out.
        root: folder of the label store.
        with_code: whether the code lies in this repository, so that an edit must count.
        images: for a stage's name, the image folders and weights that it depends on, and artifacts
            that it reads only with some parameters. Weights below a folder that another of these
            stages writes stand for that folder.
    """
    table = list(table)
    made = {path for info in table for path in info.writes}
    found = {
        info.name: _stage(info, made, root, with_code, (images or {}).get(info.name, []))
        for info in table
    }
    found["report"] = _report(made, root, with_code)
    return found


def image_folders(sections: Mapping[str, pydantic.BaseModel]) -> dict[str, list[str]]:
    """Return the image folders and weights that params.yaml names, by the stage that reads them."""
    raw = {name: section.model_dump(mode="json") for name, section in sections.items()}

    def named(stage: str, *keys: str) -> list[Any]:
        return [raw[stage][key] for key in keys if stage in raw and raw[stage][key] is not None]

    def weights(stage: str, key: str) -> list[str]:
        # Not from `raw`: infer leaves the paths out of its key, and so out of its dump.
        asked = getattr(sections[stage], key) if stage in sections else ()
        models = asked if isinstance(asked, tuple) else (asked,)
        paths = [model.weights for model in models if model is not None]
        return [posixpath.normpath(path) for path in paths if path is not None]

    students = weights("train", "model") + weights("train", "online_teacher")

    found = {
        "index": named("index", "images"),
        "teacher": named("teacher", "evaluation") + weights("teacher", "model"),
        "infer": weights("infer", "teacher"),
        "score": _read_by_scores(sections),
        "calibrate": [f"{root}/soft" for root in validation_roots(sections)],
        "train": named("train", "evaluation") + students + _read_by_fresh_crops(sections),
        "evaluate": _evaluated(sections),
        "linear": named("linear", "evaluation"),
        "compare": named("compare", "val", "test") + students,
    }
    return {stage: list(dict.fromkeys(folders)) for stage, folders in found.items() if folders}


def _evaluated(sections: Mapping[str, pydantic.BaseModel]) -> list[str]:
    section: Any = sections.get("evaluate")
    if section is None:
        return []
    return [*section.folders().values(), *section.label_files().values()]


def _read_by_fresh_crops(sections: Mapping[str, pydantic.BaseModel]) -> list[str]:
    section: Any = sections.get("train")
    return [] if section is None or section.reads_store else ["labels/images"]


def _read_by_scores(sections: Mapping[str, pydantic.BaseModel]) -> list[str]:
    section: Any = sections.get("score")
    if section is None:
        return []
    scores = section.root.values()
    folders = [getattr(each, "evaluation", None) for each in scores]
    weights = [each.proxy.model.weights for each in scores if hasattr(each, "proxy")]
    paths = [posixpath.normpath(path) for path in (*folders, *weights) if path is not None]
    # Else a new kind of label would train the proxies again.
    return [*paths, *([LABELS] if section.reads_labels else [])]


def validation_roots(sections: Mapping[str, pydantic.BaseModel]) -> list[str]:
    """Folders of the label stores of validation images that calibrations choose thresholds on."""
    section: Any = sections.get("calibrate")
    steps = [step for each in section.root.values() for step in each] if section else []
    roots = [getattr(step, "validation", None) for step in steps]
    return list(dict.fromkeys(posixpath.normpath(root) for root in roots if root is not None))


def _report(made: set[str], root: str, with_code: bool) -> dict[str, Any]:
    shown = ("labels/calibrated", "labels/soft", "metrics/")
    reads = [path for path in sorted(made) if path.startswith(shown)]
    entry: dict[str, Any] = {
        "desc": "gather the results in one page",
        "cmd": "ferkd-pipeline report --quiet",
        "deps": [
            *(["ferkd_pipeline/pages", "ferkd_pipeline/report"] if with_code else []),
            *(_below(root, path) for path in reads),
        ],
    }
    for path in REPORT:
        kind, value = _output(path, root)
        entry.setdefault(kind, []).append(value)
    return entry


def _stage(
    info: StageInfo, made: set[str], root: str, with_code: bool, images: list[str]
) -> dict[str, Any]:
    models = [_model_made(path, made) for path in images]
    images = [path for path, model in zip(images, models, strict=True) if model is None]
    artifacts = [path for path in images if path in made and path.startswith("labels/")]
    images = [path for path in images if path not in artifacts]
    code = [info.module.replace(".", "/"), *CODE_SHARED] if with_code else []
    sections = list(info.sections)
    if with_code and info.name != "index" and any(map(_is_digits, images)):
        # The same digits as index reads, and nothing but these make them. As folders they would be
        # five more arrows, and `dvc dag` a knot.
        images = [folder for folder in images if not _is_digits(folder)]
        sections.insert(0, "digits")
        code.append("stages/digits")
    reads = [_below(root, path) for path in (*info.reads, *artifacts) if path in made]
    reads += [model for model in models if model and model not in (*reads, *info.writes)]
    entry: dict[str, Any] = {
        "desc": info.summary,
        "cmd": f"ferkd-pipeline stage {info.name}",
        "params": sections,
    }
    if deps := [*code, *images, *reads]:
        entry["deps"] = deps
    for path in info.writes:
        kind, value = _output(path, root)
        entry.setdefault(kind, []).append(value)
    return entry


def _model_made(path: str, made: set[str]) -> str | None:
    """The model folder among ``made`` that a path lies in, or None."""
    folder = "/".join(path.split("/")[:2])
    return folder if folder.startswith("models/") and folder in made else None


def _is_digits(folder: str) -> bool:
    return folder.startswith("data/digits/")


def _output(path: str, root: str) -> tuple[str, Any]:
    if path in PLOTS:
        return "plots", {path: {"cache": False, **PLOTS[path]}}
    if path.startswith("metrics/"):
        return "metrics" if path == METRICS else "outs", {path: {"cache": False}}
    if path in ("labels/predictions", "labels/scores"):
        # DVC deletes other outputs before a run; these cost GPU days, and their stages keep what
        # fits.
        return "outs", {_below(root, path): {"persist": True}}
    return "outs", _below(root, path)


def _below(root: str, path: str) -> str:
    return root + path.removeprefix("labels") if path.startswith("labels/") else path
