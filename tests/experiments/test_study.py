"""The study's parameters: every arm is one that the tool takes, and dvc.yaml names them alike."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments import students, study
from experiments.student import train_config
from experiments.study import Study
from ferkd_pipeline import params
from store.errors import ParamsError
from tests.experiments import small_study

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> Study:
    """The study of the repository."""
    monkeypatch.chdir(ROOT)
    return study.load()


def test_every_world_and_kind_has_parameters_that_the_tool_takes(whole: Study) -> None:
    for name in whole.teachers:
        params.check(Path("params.yaml"), study.teacher_params(whole, name))
    for world in whole.worlds:
        for kind in whole.kinds_of(world):
            params.check(Path(f"{world}/{kind}"), study.world_params(whole, world, kind))


def test_every_arm_has_a_training_that_the_tool_takes(whole: Study) -> None:
    steps = set()
    for name, arm in whole.arms.items():
        config = train_config(whole, name, seed=3)
        assert config.seed == 3
        assert (config.labels == "truth") == (arm.learn == "truth")
        assert config.loss != "mse" or whole.labels[arm.labels]["kind"] == "full"
        assert config.mix != "selfmix" or config.crops_per_image > 1
        steps.add((config.steps, config.batch_size))
    assert len(steps) == 1  # equal budgets


def test_every_calibration_stands_in_the_store_that_its_arm_reads(whole: Study) -> None:
    for world in whole.worlds:
        for name, arm in whole.arms_of(world).items():
            section = study.world_params(whole, world, arm.labels).get("calibrate", {})
            assert (name in section) == bool(arm.steps)


def test_the_baseline_is_in_every_world(whole: Study) -> None:
    assert all(whole.baseline in whole.arms_of(world) for world in whole.worlds)


def test_only_the_folders_of_noisy_worlds_are_wrong(whole: Study) -> None:
    shares = {
        world: study.world_params(whole, world, "ms5")["digits"].get("wrong_labels", 0)
        for world in whole.worlds
    }
    assert shares == {"clean": 0, "noise10": 0.1, "noise20": 0.2, "weak": 0}


def test_dvc_names_what_the_parameters_name(whole: Study) -> None:
    stages: dict[str, Any] = yaml.safe_load((ROOT / "experiments" / "dvc.yaml").read_text())
    for name in ("students", "results"):
        worlds = {dep for dep in stages["stages"][name]["deps"] if dep.endswith("/stores")}
        assert worlds == {f"{whole.world_folder(each)}/stores" for each in whole.worlds}
    for stage in stages["stages"].values():
        entry = stage.get("do", stage)
        for dep in entry["deps"]:
            if "out/" not in dep and dep != "experiments/results":
                assert (ROOT / dep).exists(), dep


def test_an_unknown_name_is_refused_with_its_place(tmp_path: Path) -> None:
    arms = {"ms5": {"title": "MS5", "groups": ["labels"], "labels": "ms6"}}
    with pytest.raises(ParamsError, match=r"arms\.ms5\.labels names 'ms6', allowed: ms5, full"):
        small_study.load(tmp_path, arms=arms)


def test_a_step_that_the_tool_does_not_know_names_its_arm(tmp_path: Path) -> None:
    arms = {"ms5": {"title": "MS5", "groups": ["labels"], "steps": [{"step": "guess"}]}}
    found = small_study.load(tmp_path, arms=arms, sweeps={})
    with pytest.raises(ParamsError, match=r"calibrate\.ms5"):
        params.check(Path("x"), study.world_params(found, "clean", "ms5"))


def test_cells_have_seeds_outermost_and_patterns_choose(tmp_path: Path) -> None:
    found = small_study.load(tmp_path)
    cells = found.cells()
    assert len(cells) == 18
    assert [seed for _, _, seed in cells] == [0] * 9 + [1] * 9
    chosen = students.choose(found, ["noisy/*", "clean/m*"], [1])
    assert [arm for _, arm, _ in chosen] == ["ms5", "mixup", "ms5", "revised", "suspicious"]
    with pytest.raises(ParamsError, match="no student"):
        students.choose(found, ["nowhere/*"], None)
