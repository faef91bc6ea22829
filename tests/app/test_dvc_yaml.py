import json
from pathlib import Path

import pytest
import yaml

from ferkd_pipeline import dvc_file, params, stage_table

REPOSITORY = Path(__file__).resolve().parents[2]
OPTIONAL = {info.name for info in stage_table.STAGES if info.optional}
DVC_YAML = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]


def test_it_is_what_the_table_of_stages_says() -> None:
    values = params.load(REPOSITORY / "params.yaml")
    made = dvc_file.stages(
        [info for info in stage_table.STAGES if info.name not in OPTIONAL],
        with_code=True,
        images=dvc_file.image_folders(values.sections),
    )
    assert list(DVC_YAML) == list(made)
    for name, entry in made.items():
        assert DVC_YAML[name] == entry, name


@pytest.mark.parametrize("weights", ["given/a.pth", "./given/a.pth"])
def test_stages_depend_on_the_weights_that_they_are_given(weights: str) -> None:
    found = weights_read(("teacher", "infer", "train", "compare"), weights)
    assert found == {
        "teacher": ["given/a.pth"],
        "infer": ["given/a.pth", "models/teacher"],
        "train": ["given/a.pth"],
        "compare": ["given/a.pth"],
    }


@pytest.mark.parametrize("weights", ["models/teacher", "./models/teacher/model.safetensors"])
def test_weights_that_a_stage_makes_are_read_once_and_never_by_itself(weights: str) -> None:
    found = weights_read(("teacher", "infer", "train"), weights)
    assert found == {"teacher": [], "infer": ["models/teacher"], "train": ["models/teacher"]}


def test_students_depend_on_what_only_some_parameters_read() -> None:
    train = {
        "model": {"name": "x"},
        **{"lr": 1, "steps": 1, "labels": "online", "crops": {}},
        "online_teacher": {"name": "y", "weights": "given/b.pth"},
    }
    values = params.check(Path("params.yaml"), {"train": train})
    made = dvc_file.stages(
        [stage_table.find(name) for name in ("index", "compress", "train")],
        images=dvc_file.image_folders(values.sections),
    )
    assert made["train"]["deps"] == ["given/b.pth", "labels/soft", "labels/images"]


def test_a_teacher_that_no_stage_makes_is_watched() -> None:
    assert weights_read(("infer",), "models/teacher") == {"infer": ["models/teacher"]}


def weights_read(stages: tuple[str, ...], weights: str) -> dict[str, list[str]]:
    """Dependencies on weights of stages whose networks all start from ``weights``."""
    model = {"name": "resnet18", "weights": weights}
    network = {"model": model, "lr": 1, "steps": 1}
    compare = {"val": "val"}
    sections = {"teacher": network, "infer": {"teacher": model}, "train": network}
    values = params.check(
        Path("params.yaml"), {name: sections.get(name, compare) for name in stages}
    )
    made = dvc_file.stages(
        [stage_table.find(name) for name in stages], images=dvc_file.image_folders(values.sections)
    )
    return {
        name: [path for path in made[name].get("deps", []) if path.startswith(("given", "models"))]
        for name in stages
    }


@pytest.mark.parametrize(
    "info",
    [info for info in stage_table.STAGES if not info.optional],
    ids=lambda info: info.name,
)
def test_a_stage_depends_on_the_code_that_it_runs(info: stage_table.StageInfo) -> None:
    entry = DVC_YAML[info.name]
    assert entry["cmd"] == f"ferkd-pipeline stage {info.name}"
    assert {f"stages/{info.name}", "stages/shared", "store"} <= set(entry["deps"])
    assert info.name in entry["params"]


def test_only_predictions_outlive_a_run() -> None:
    persisting = [
        path
        for entry in DVC_YAML.values()
        for out in entry.get("outs", [])
        if isinstance(out, dict)
        for path, options in out.items()
        if options.get("persist")
    ]
    assert persisting == ["labels/predictions"]


def test_compress_can_be_changed_without_the_teacher() -> None:
    changed, reached = "labels/soft", {"compress"}
    outs = {changed}
    for name, entry in DVC_YAML.items():
        if outs & set(entry.get("deps", [])):
            reached.add(name)
            kinds = [entry.get(kind, []) for kind in ("outs", "metrics", "plots")]
            outs |= {next(iter(o)) if isinstance(o, dict) else o for kind in kinds for o in kind}
    assert reached == {"compress", "calibrate", "train", "evaluate", "compare", "report"}


def test_every_plot_template_of_ours_is_there() -> None:
    built_in = {"linear", "simple", "scatter", "confusion", "bar_horizontal"}
    for options in dvc_file.PLOTS.values():
        template = options.get("template", "linear")
        if template not in built_in:
            text = (REPOSITORY / ".dvc/plots" / f"{template}.json").read_text()
            assert "<DVC_METRIC_DATA>" in json.dumps(json.loads(text))
