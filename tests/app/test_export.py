"""`export`: what other programs can load, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import timm
import torch
import torchvision
from torch import nn

from ferkd_pipeline import cli
from stages.shared.model_config import ModelConfig
from stages.shared.models import build, card_of, load_model, save_model

CLASSES = ("ant", "bee", "cat")
STUDENT = Path("models/student")
NAMES: dict[str, Any] = {
    "safetensors": safetensors,
    "timm": timm,
    "torch": torch,
    "torchvision": torchvision,
}
"""What a line that loads weights may speak of."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def save(name: str, folder: Path = STUDENT, **fields: Any) -> dict[str, torch.Tensor]:
    """Save a model and return its weights."""
    # Code of one's own is run for a card only where params.yaml names it.
    Path("params.yaml").write_text(json.dumps({"infer": {"teacher": {"name": name}}}))
    config = ModelConfig.model_validate({"name": name, **fields})
    built = build(config, 3, seed=1)
    save_model(folder, built.module, card_of(config, built.spec, CLASSES, stage="train"))
    return built.module.state_dict()


def loaded(shown: str) -> nn.Module:
    """The model that the printed line makes."""
    line = shown.splitlines()[-1]
    names = dict(NAMES)
    call, _, load = line.partition(".load_state_dict(")
    exec(f"model = {call}\nmodel.load_state_dict({load}", names)
    model: nn.Module = names["model"]
    return model.eval()


@pytest.mark.parametrize(
    ("name", "fields", "words", "file"),
    [
        ("test_resnet", {}, (), "new/folder/s.safetensors"),
        ("test_vit", {"input_size": 96}, ("--to", "timm"), "s.pth"),
        ("resnet18", {"model_kwargs": {"drop_path_rate": 0.1}}, ("--to", "torchvision"), "s.pth"),
        ("torchvision:mnasnet0_5", {"input_size": 64}, ("--to", "torchvision"), "s.pth"),
        ("torchvision:resnet18", {"input_size": 64}, ("--to", "timm"), "s.safetensors"),
        ("torchvision:googlenet", {"input_size": 64}, (), "s.safetensors"),
    ],
)
def test_the_printed_line_loads_the_same_model(
    name: str,
    fields: dict[str, Any],
    words: tuple[str, ...],
    file: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save(name, **fields)
    assert cli.main(["export", file, *words]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{file}: ") and captured.err == ""
    if words:
        assert f"{words[1]}." in captured.out.splitlines()[1]
    model = load_model(STUDENT)
    pixels = torch.rand(2, 3, *model.spec.size)
    with torch.inference_mode():
        ours, theirs = model.module.eval()(pixels), loaded(captured.out)(pixels)
    assert torch.allclose(ours, theirs, atol=1e-5 * float(ours.abs().max()))


def test_weights_are_those_of_the_model_and_say_where_they_are_from() -> None:
    state = save("test_resnet", model_kwargs={"drop_rate": 0.1})
    assert cli.main(["export", "s.safetensors"]) == 0
    assert cli.main(["export", "s.pth"]) == 0
    for found in (
        safetensors.torch.load_file("s.safetensors"),
        torch.load("s.pth", weights_only=True),
    ):
        assert found.keys() == state.keys()
        assert all(torch.equal(found[name], state[name]) for name in state)
    with safetensors.safe_open("s.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata == {
        "format": "pt",
        "name": "test_resnet",
        "model_kwargs": '{"drop_rate": 0.1}',
        "num_classes": "3",
        "part": "whole",
        "digest": json.loads((STUDENT / "model.json").read_text())["digest"],
        "made_from": '{"stage": "train"}',
    }
    for file_name in ("s.safetensors", "s.pth"):
        first = Path(file_name).read_bytes()
        assert cli.main(["export", file_name, "--force"]) == 0
        assert Path(file_name).read_bytes() == first, "the same model gives the same bytes"
        assert Path(file_name).stat().st_mode & 0o044 == (STUDENT / "model.json").stat().st_mode & (
            0o044
        )


@pytest.mark.parametrize(
    ("name", "gone", "says"),
    [
        ("test_resnet", {"fc.weight", "fc.bias"}, 'create_model("test_resnet", num_classes=0)'),
        ("test_vit", {"head.weight", "head.bias"}, "num_classes=0"),
        ("torchvision:resnet18", {"fc.weight", "fc.bias"}, "strict=False"),
        ("tests.stages.own_models:small", {"head.weight", "head.bias"}, "strict=False"),
    ],
)
def test_a_backbone_lacks_the_classifier_alone(
    name: str, gone: set[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    state = save(name)
    assert cli.main(["export", "b.safetensors", "--backbone"]) == 0
    shown = capsys.readouterr().out
    assert says in shown
    assert state.keys() - safetensors.torch.load_file("b.safetensors").keys() == gone
    if not name.startswith("tests."):
        own = loaded(shown).state_dict()
        assert all(torch.equal(own[key], state[key]) for key in state.keys() - gone)


def test_one_s_own_model_is_loaded_by_its_function(capsys: pytest.CaptureFixture[str]) -> None:
    save("tests.stages.own_models:small", model_kwargs={"width": 5})
    assert cli.main(["export", "s.pth"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == (
        "tests.stages.own_models.small(num_classes=3, width=5)"
        '.load_state_dict(torch.load("s.pth", weights_only=True))'
    )


def test_json_is_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    save("test_resnet", Path("models/teacher"))
    words = ["export", "s.safetensors", "--model", "models/teacher", "--json"]
    assert cli.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["file"] == "s.safetensors" and found["name"] == "test_resnet"
    assert found["num_bytes"] == Path("s.safetensors").stat().st_size
    assert found["how_to_load"].endswith(
        '.load_state_dict(safetensors.torch.load_file("s.safetensors"))'
    )


@pytest.mark.parametrize(
    ("name", "fields", "words", "says"),
    [
        ("test_resnet", {}, ("s.bin",), "s.bin: must end with .safetensors or .pth"),
        ("test_resnet", {}, ("models/student/s.pth",), "lies inside the model's folder models/st"),
        ("test_resnet", {}, ("taken.pth",), "taken.pth exists; --force replaces it"),
        ("test_resnet", {}, ("folder.pth",), "folder.pth is a folder"),
        (
            "test_resnet",
            {},
            ("s.pth", "--to", "torchvision"),
            "torchvision has no model 'test_resnet'; leave --to out",
        ),
        (
            "tests.stages.own_models:small",
            {},
            ("s.pth", "--to", "timm"),
            "timm has no model 'tests.stages.own_models:small'",
        ),
        ("torchvision:mnasnet0_5", {}, ("s.pth", "--to", "timm"), "timm has no model 'mnasnet0_5'"),
        ("torchvision:mnasnet0_5", {}, ("s.safetensors",), "(version should be set to 1 or 2"),
        (
            "resnet18",
            {"model_kwargs": {"stem_type": "deep"}},
            ("s.pth", "--to", "torchvision"),
            'do not load into torchvision.models.get_model("resnet18", num_classes=3) (Error',
        ),
        (
            "resnet18",
            {"model_kwargs": {"global_pool": "max"}},
            ("s.pth", "--to", "torchvision"),
            "but computes something else",
        ),
    ],
)
def test_what_cannot_be_exported_is_told(
    name: str,
    fields: dict[str, Any],
    words: tuple[str, ...],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save(name, **fields)
    Path("taken.pth").write_bytes(b"mine")
    Path("folder.pth").mkdir()
    before = sorted(Path().rglob("*"))
    assert cli.main(["export", *words]) == 2
    captured = capsys.readouterr()
    assert says in captured.err and len(captured.err.splitlines()) == 1
    assert sorted(Path().rglob("*")) == before and Path("taken.pth").read_bytes() == b"mine"


def test_a_model_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "s.pth"]) == 3
    assert "model.json: missing, so models/student is no saved model" in capsys.readouterr().err


def test_a_write_that_fails_leaves_the_old_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save("test_resnet")
    Path("s.pth").write_bytes(b"old")

    def fail(*paths: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    assert cli.main(["export", "s.pth", "--force"]) == 1
    assert Path("s.pth").read_bytes() == b"old"
    assert sorted(path.name for path in Path().iterdir()) == ["models", "params.yaml", "s.pth"]
