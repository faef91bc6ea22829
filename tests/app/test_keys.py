"""`ferkd-pipeline params`: the keys that people can set, from the configs themselves."""

import json

import pytest

from ferkd_pipeline import cli, stage_table
from ferkd_pipeline.keys import keys


@pytest.mark.parametrize("section", ["store", *stage_table.STAGE_NAMES])
def test_every_key_says_what_it_is(section: str) -> None:
    found = keys(section)
    assert found
    names = [key.name for key in found]
    assert len(set(names)) == len(names)
    for key in found:
        assert key.name.startswith(section), key
        assert key.kind and key.default, key
        is_choice = key.kind == key.default and "|" not in key.kind  # such as step: ferkd
        assert key.text or is_choice or key.default == "needed", key


def test_training_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["params", "train"]) == 0
    shown = capsys.readouterr().out
    for line in (
        "train.lr: number (needed)",
        "train.warmup_lr: number (1e-05)",
        "train.mix: none | selfmix | mixup | cutmix | mixup_cutmix (none)",
        "train.model.name: text (needed)",
        "train.crops.flip: number (0.5)",
        "train.track: list of dvclive | tensorboard ([])",
    ):
        assert line in shown.splitlines(), line
    assert "    Highest learning rate." in shown.splitlines()
    assert max(map(len, shown.splitlines())) <= 100


def test_nested_names_and_choices(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["params", "calibrate", "--json"]) == 0
    names = {key["name"] for key in json.loads(capsys.readouterr().out)}
    assert "calibrate.NAME[]{step: revise}.eta" in names
    assert "evaluate.sets.NAME.real" in {key.name for key in keys("evaluate")}


def test_unknown_sections_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["params", "trian"]) == 2
    assert "train" in capsys.readouterr().err
