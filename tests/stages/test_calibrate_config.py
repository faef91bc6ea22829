"""The section calibrate of params.yaml: what is allowed, and what is said of the rest."""

import pydantic
import pytest

from stages.calibrate.config import Config
from tests.stages.calibration import FERKD_CUSTOM, steps

REVISE = steps({"step": "revise"})


def test_defaults_read_well() -> None:
    config = Config.model_validate(
        {
            "ferkd": [{"step": "ferkd"}],
            "revision": [{"step": "revise", "eta": 0.8, "where": "wrong"}],
        }
    )
    assert [step.step for step in config.root["ferkd"]] == ["ferkd"]
    assert config.root["revision"] == REVISE
    assert Config.model_validate(config.model_dump()) == config


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"step": "ferkd", "eps": 0.5}, "eps"),
        ({"step": "ferkd", "eps": -0.1}, "eps"),
        ({"step": "ferkd", "drop_below": 0.1}, "drop_below is given with preset ferkd"),
        ({"step": "ferkd", "preset": "ferkdd"}, "preset"),
        ({"step": "ferkd", "threshold": 1}, "threshold"),
        (FERKD_CUSTOM, "needed: at least one"),
        (FERKD_CUSTOM | {"drop_below": 0.3, "soften_to": 0.05}, r"soften_to is 0.05, allowed"),
        (FERKD_CUSTOM | {"drop_below": 0.3, "soften_to": 0.3}, "interval is empty"),
        (FERKD_CUSTOM | {"soften_to": 0.9, "drop_from": 0.9}, "overlaps"),
        (FERKD_CUSTOM | {"drop_below": 0.9, "drop_from": 0.8}, "overlaps"),
        (FERKD_CUSTOM | {"drop_below": 0.2, "soften_from": 0.1, "soften_to": 0.3}, "overlaps"),
        (FERKD_CUSTOM | {"soften_from": 0.1}, "without soften_to"),
        (FERKD_CUSTOM | {"drop_from": 1.2}, "drop_from"),
        (FERKD_CUSTOM | {"drop_below": 0.1, "drop_highest": 0.1}, "thresholds or shares"),
        (FERKD_CUSTOM | {"drop_lowest": 0.2, "soften_lowest": 0.1}, "above drop_lowest"),
        (FERKD_CUSTOM | {"soften_lowest": 0.6, "drop_highest": 0.5}, "drop_highest is 0.5"),
        ({"step": "revise", "eta": 1.0}, "eta"),
        ({"step": "revise", "eta": 0.0}, "eta"),
        ({"step": "revise", "where": "here"}, "where"),
        ({"step": "selects"}, "'selects'"),
        ({"step": "select"}, "scores"),
        ({"step": "select", "scores": "../x"}, "scores"),
        ({"step": "select", "scores": "x", "share": 1.1}, "share"),
        ({"step": "select", "scores": "x", "teacher_weight": 0}, "teacher_weight"),
        ({"step": "ferkd", "eps": "autos"}, "eps"),
        ({"step": "ferkd", "on": "top"}, "on"),
        (
            {"step": "ferkd", "preset": "auto", "drop_below": 0.1},
            "drop_below is given with preset auto",
        ),
        ({"step": "ferkd", "validation": "labels-val"}, "only with preset: auto or eps: auto"),
        ({"step": "noise", "agreement": 0.5}, "agreement"),
        ({}, "step"),
    ],
)
def test_wrong_parameters_are_one_clear_line(step: dict[str, object], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message) as caught:
        Config.model_validate({"name": [step]})
    errors = caught.value.errors()
    assert len(errors) == 1
    assert "\n" not in errors[0]["msg"]


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "-x", "a b", "x" * 65, "é"])
def test_names_are_plain_folder_names(name: str) -> None:
    with pytest.raises(pydantic.ValidationError, match="is no name of a calibration"):
        Config.model_validate({name: [{"step": "ferkd"}]})


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ([], "has no steps"),
        ([{"step": "ferkd"}] * 2, "the step ferkd twice"),
        ([{"step": "truth"}, {"step": "noise"}], "noise after truth, allowed: first"),
        ([{"step": "select", "scores": "a"}] * 2, "the step select twice"),
    ],
)
def test_recipes_make_sense(recipe: list[object], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        Config.model_validate({"name": recipe})


def test_auto_takes_caps_and_a_validation_store() -> None:
    [step] = steps(
        {"step": "ferkd", "preset": "auto", "drop_lowest": 0.1, "validation": "labels-val"}
    )
    assert step.model_dump()["drop_lowest"] == 0.1
    steps({"step": "ferkd", "eps": "auto", "validation": "labels-val"})
