"""docs/detection.md: its commands and its Python, in order, on a student without training."""

import contextlib
import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from ferkd_pipeline import cli
from stages.shared.model_config import ModelConfig
from stages.shared.models import build, card_of, save_model

PAGE = Path(__file__).resolve().parents[2] / "docs/detection.md"
BLOCK = re.compile(r"```(console|python)\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)


def test_the_detection_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse_download)
    config = ModelConfig(name="resnet18", input_size=(64, 64), mean=(0.5, 0.4, 0.3))
    student = build(config, 5, seed=0)
    card = card_of(config, student.spec, ("a", "b", "c", "d", "e"))
    save_model(Path("models/student"), student.module, card)
    names: dict[str, Any] = {}
    for kind, code, printed in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if kind == "console":
            for line in code.splitlines():
                assert cli.main(shlex.split(line.removeprefix("$ ferkd-pipeline "))) == 0
            continue
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, "docs/detection.md", "exec"), names)
        assert out.getvalue() == printed

    state = student.module.state_dict()
    assert not names["left_over"]
    for body in (names["detector"].backbone.body, names["second"].backbone.body):
        own = body.state_dict()
        shared = own.keys() & state.keys()
        assert all(torch.equal(own[name], state[name]) for name in shared)
        assert shared >= {name for name in state if "num_batches" not in name} - {
            "fc.weight",
            "fc.bias",
        }
    assert names["detector"].transform.image_mean == [0.5, 0.4, 0.3]


def refuse_download(*words: object, **options: object) -> None:
    raise AssertionError("the page must not download")
