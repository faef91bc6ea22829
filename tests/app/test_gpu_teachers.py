"""`teacher check` and `plan` on a GPU. Skipped where there is none."""

import json
import sys
from pathlib import Path

import pytest
import torch

from ferkd_pipeline import cli
from tests.painted import write_project

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_a_teacher_is_checked_and_planned_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("palette", None)
    write_project(tmp_path, infer={"device": "cuda", "precision": "bf16"})
    assert cli.main(["teacher", "check", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["device"] == "cuda" and found["average"]["top1"] > 0.95
    assert cli.main(["stage", "index"]) == 0
    capsys.readouterr()
    assert cli.main(["plan", "--seconds", "2", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    [infer] = [each for each in plan["stages"] if each["stage"] == "infer"]
    assert infer["unit"] == "GPU" and plan["gpu_hours"] > 0
    sys.modules.pop("palette", None)
