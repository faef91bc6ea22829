"""`ferkd-pipeline bench infer` on the tiny project."""

import json
from pathlib import Path

import pytest

from ferkd_pipeline import cli
from stages.infer import measure as measuring
from stages.infer.config import Config
from stages.infer.inputs import open_inputs
from tests.world import Project

FAST = ["bench", "infer", "--seconds", "0.3"]


def test_speed_is_told(own: Project, capsys: pytest.CaptureFixture[str]) -> None:
    before = own.tree("labels", ".ferkd")
    own.write_params(infer={"num_workers": 2})
    assert cli.main([*FAST, "--shard", "1"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("resnet18: float32, batches of ")
    for words in ("stage infer", "bare forward", "bytes a crop", "the teacher's forward", "decode"):
        assert words in said
    assert own.tree("labels", ".ferkd") == before, "nothing is left"


def test_numbers_for_scripts(own: Project, capsys: pytest.CaptureFixture[str]) -> None:
    own.write_params()
    assert cli.main([*FAST, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["device"] == "cpu"
    assert 1 <= found["num_images"] <= 8
    assert found["num_crops"] % (4 * found["num_images"]) == 0
    assert found["crops_per_second"] == pytest.approx(found["num_crops"] / found["wall_seconds"])
    ratio = found["crops_per_second"] / found["bare_crops_per_second"]
    assert found["share_of_bare"] == pytest.approx(ratio)
    assert {"read", "decode", "crop", "forward", "keep", "write"} <= set(found["seconds"])
    forward = found["seconds"]["forward"]
    assert 0 < forward < found["wall_seconds"], "the teacher runs in one thread"
    assert found["bytes_per_crop"] > 10


def test_all_crops_of_the_images_are_labelled_and_written(own: Project) -> None:
    """As many as fit into the time: with plenty of it, the whole shard."""
    values = own.params()
    config = values.typed("infer", Config)
    inputs = open_inputs(config, own.source())(0)
    found = measuring.measure(config, inputs, 20.0 if len(inputs.images) < 3 else 3.0)
    assert found.num_images == len(inputs.images)
    assert not list(Path(".ferkd/work").glob("measure-*"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--shard", "3"], "--shard 3: must be 0 to 2"),
        (["--seconds", "0"], "--seconds"),
    ],
)
def test_wrong_arguments(
    shared: Project, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "infer", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_without_crops_it_names_the_stage(own: Project, capsys: pytest.CaptureFixture[str]) -> None:
    own.write_params()
    for file in Path("labels/crops").iterdir():
        file.unlink()
    assert cli.main(FAST) == 3
    assert "ferkd-pipeline stage sample" in capsys.readouterr().err
