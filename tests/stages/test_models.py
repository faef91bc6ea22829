"""Models are built as named, take only weights that fit, and run nobody's code."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydantic
import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from stages.shared.model_config import ModelConfig, PixelSpec
from stages.shared.models import (
    build,
    card_of,
    load_card,
    load_model,
    save_model,
    weights_digest,
)
from store.errors import DataError, ParamsError, RetryError

NAME = "test_resnet"
CLASSES = ("ant", "bee", "cat")


def model(name: str = NAME, **fields: Any) -> ModelConfig:
    return ModelConfig.model_validate({"name": name, **fields})


def state(num_classes: int = 3, seed: int = 1) -> dict[str, torch.Tensor]:
    return build(model(), num_classes, seed=seed).module.state_dict()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved model of three classes."""
    built = build(model(), 3, seed=5)
    save_model(tmp_path / "saved", built.module, card_of(model(), built.spec, CLASSES, epochs=7))
    return tmp_path / "saved"


def test_the_config_imports_no_heavy_library() -> None:
    code = (
        "import sys, stages.shared.model_config, stages.shared.model_card\n"
        "print(sorted({'torch', 'timm', 'numpy', 'pyarrow'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"pretrained": True, "weights": "x"}, "one of them"),
        ({"model_kwargs": {"checkpoint_path": "x"}}, "model_kwargs has checkpoint_path"),
        ({"model_kwargs": {"num_classes": 3}}, "model_kwargs has num_classes"),
        ({"input_size": 0}, "allowed: 1 to 16384"),
        ({"std": (0, 1, 1)}, "std"),
        ({"mean": (0, float("nan"), 1)}, "mean"),
        ({"interpolation": "nearest"}, "bilinear"),
        ({"crop_ratio": 1.1}, "less than or equal to 1"),
        ({"wieghts": "x"}, "Extra inputs"),
    ],
)
def test_impossible_configs_are_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=says):
        model(**fields)


def test_pixels_follow_timm_unless_the_config_says_otherwise() -> None:
    spec = build(model(), 3, seed=0).spec
    assert spec == PixelSpec((160, 160), "bilinear", (0.5,) * 3, (0.5,) * 3, 0.95, "center")
    own: dict[str, Any] = {"input_size": 96, "interpolation": "bicubic", "mean": (0.1, 0.2, 0.3)}
    own |= {"std": (1, 2, 3), "crop_ratio": 0.5, "crop_mode": "squash"}
    spec = build(model(**own), 3, seed=0).spec
    assert spec == PixelSpec((96, 96), "bicubic", (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), 0.5, "squash")
    assert PixelSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize("fields", [{"input_size": 96}, {"model_kwargs": {"img_size": 96}}])
def test_models_of_one_size_are_built_for_the_size_asked(fields: dict[str, Any]) -> None:
    built = build(model("test_vit", **fields), 3, seed=0)
    assert built.spec.size == (96, 96)
    assert built.module(torch.zeros(1, 3, 96, 96)).shape == (1, 3)


def test_two_sizes_for_one_model_are_refused() -> None:
    with pytest.raises(ParamsError, match=r"input_size is \[96, 96\].*img_size is 64"):
        build(model("test_vit", input_size=96, model_kwargs={"img_size": 64}), 3)


def test_a_resize_that_we_do_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def describe(module: nn.Module) -> dict[str, Any]:
        return {
            "input_size": (3, 8, 8),
            "interpolation": "lanczos",
            "mean": (0, 0, 0),
            "std": (1, 1, 1),
            "crop_pct": 1,
            "crop_mode": "center",
        }

    monkeypatch.setattr("timm.data.config.resolve_model_data_config", describe)
    with pytest.raises(ParamsError, match="interpolation: test_resnet was trained with 'lanczos'"):
        build(model(), 3)
    assert build(model(interpolation="bicubic"), 3).spec.interpolation == "bicubic"


def test_a_seed_fixes_the_weights_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    one, two, other = (build(model(), 3, seed=seed).digest for seed in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), before)
    assert one == two != other
    torch.manual_seed(4)
    unseeded = build(model(), 3).digest
    assert not torch.equal(torch.get_rng_state(), before)
    assert unseeded == one


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet5O", "resnet50"),
        ("test_resent", "test_resnet"),
        ("resnet50.a1_in1x", "resnet50.a1_in1k"),
        ("hf-hub:someone/something", ""),
        ("local-dir:/tmp", ""),
    ],
)
def test_an_unknown_name_is_refused_with_close_ones(name: str, hint: str) -> None:
    with pytest.raises(ParamsError, match=rf"timm has no model '{name}'.*{hint}"):
        build(model(name), 3)


def test_arguments_that_the_model_does_not_take_are_refused() -> None:
    with pytest.raises(ParamsError, match=r"model_kwargs: test_resnet .*depht"):
        build(model(model_kwargs={"depht": 3}), 3)
    built = build(model(model_kwargs={"drop_path_rate": 0.1}), 3)
    assert isinstance(built.module, nn.Module)


CONTAINERS: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "plain": lambda weights: weights,
    "model": lambda weights: {"model": weights, "epoch": 3},
    "state_dict": lambda weights: {"state_dict": weights, "arch": "x"},
    "averaged first": lambda weights: {
        "state_dict": {name: value + 1 for name, value in weights.items()},
        "state_dict_ema": weights,
    },
    "distributed": lambda weights: {f"module.{name}": value for name, value in weights.items()},
    "compiled, distributed and nested": lambda weights: {
        "model": {f"_orig_mod.module.{name}": value for name, value in weights.items()}
    },
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_digest_is_of_the_weights_and_not_of_their_container(
    container: str, tmp_path: Path
) -> None:
    weights = state()
    torch.save(CONTAINERS[container](weights), tmp_path / "w.pth")
    built = build(model(weights=str(tmp_path / "w.pth")), 3, seed=99)
    assert built.digest == build(model(), 3, seed=1).digest
    assert all(torch.equal(built.module.state_dict()[name], weights[name]) for name in weights)


@pytest.mark.parametrize("name", ["w.safetensors", "no_suffix"])
def test_safetensors_are_read_whatever_their_name(name: str, tmp_path: Path) -> None:
    safetensors.torch.save_file(state(), tmp_path / name)
    built = build(model(weights=str(tmp_path / name)), 3)
    assert built.digest == build(model(), 3, seed=1).digest


def test_the_digest_sees_names_dtypes_shapes_and_values() -> None:
    def digest(**tensors: torch.Tensor) -> str:
        module = nn.Module()
        for name, tensor in tensors.items():
            module.register_buffer(name, tensor)
        return weights_digest(module)

    zeros = torch.zeros(2, 3)
    different = [
        digest(a=zeros),
        digest(b=zeros),
        digest(a=zeros.reshape(3, 2)),
        digest(a=zeros.to(torch.int32)),
        digest(a=zeros + 1),
        digest(a=zeros, b=torch.zeros(())),
        digest(a=zeros.to(torch.bfloat16)),
        digest(a=-zeros),
    ]
    assert len(set(different)) == len(different)
    assert digest(a=zeros, b=zeros) == digest(b=zeros, a=zeros)
    strided = torch.zeros(3, 2).t()
    assert digest(a=strided) == digest(a=zeros)


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "nested"])
def test_a_hostile_pickle_is_refused_and_never_run(form: str, tmp_path: Path) -> None:
    bomb, path = Bomb(tmp_path / "exploded"), tmp_path / "bomb.pth"
    if form == "pickle":
        path.write_bytes(pickle.dumps(bomb, protocol=2))
    else:
        content = {"model": state(), "args": bomb} if form == "nested" else bomb
        torch.save(content, path, _use_new_zipfile_serialization=form != "legacy")
    with pytest.raises(DataError, match=r"bomb.pth: refused, its pickle asks for \w+.mkdir") as e:
        build(model(weights=str(path)), 3)
    assert not (tmp_path / "exploded").exists()
    assert "\n" not in str(e.value)


def damaged_files(folder: Path) -> dict[str, Path]:
    torch.save(state(), folder / "whole.pth")
    safetensors.torch.save_file(state(), folder / "whole.safetensors")
    contents = {
        "empty.pth": b"",
        "text.pth": b"this is no file of weights",
        "newer.pth": pickle.dumps({"a": 1}, protocol=5),
        "cut.pth": (folder / "whole.pth").read_bytes()[:-300],
        "empty.safetensors": b"",
        "cut.safetensors": (folder / "whole.safetensors").read_bytes()[:-300],
        "text.safetensors": b"this is no file of weights",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents}


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    for name, path in damaged_files(tmp_path).items():
        with pytest.raises(DataError, match=rf"{name}: .*(not a readable|holds no state dict)"):
            build(model(weights=str(path)), 3)
    for content in ([1, 2], {"epoch": 3}, {}, {"model": {"a": 1}}):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(DataError, match="holds no state dict"):
            build(model(weights=str(tmp_path / "other.pth")), 3)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{tmp_path}/w.pth: no such file"):
        build(model(weights=str(tmp_path / "w.pth")), 3)
    with pytest.raises(DataError, match=rf"{tmp_path}/model.safetensors: no such file"):
        build(model(weights=str(tmp_path)), 3)


def test_weights_of_another_model_name_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"

    def refuses(weights: dict[str, torch.Tensor], says: str) -> None:
        torch.save(weights, path)
        with pytest.raises(DataError, match=says):
            build(model(weights=str(path)), 3)

    weights = state()
    first, last = next(iter(weights)), list(weights)[-2]
    refuses(
        {n: v for n, v in weights.items() if n not in (first, last)},
        rf"w.pth: .*{first} is missing \(and 1 more\); check",
    )
    refuses({**weights, "extra.weight": torch.ones(1)}, r"extra.weight is not in the model; check")
    wrong = {**weights, first: torch.ones(2, 2)}
    refuses(wrong, rf"{first} has shape \(2, 2\), the model \(16, 3, 3, 3\); check")


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_another_number_of_classes_is_refused_at_once(name: str, tmp_path: Path) -> None:
    torch.save(build(model(name), 7, seed=1).module.state_dict(), tmp_path / "w.pth")
    fields = {"name": name, "weights": str(tmp_path / "w.pth")}
    with pytest.raises(DataError, match=r"tell 7 classes apart, the data has 3"):
        build(model(**fields), 3)
    tuned = build(model(**fields, new_classifier=True), 3, seed=0)
    assert tuned.module.eval()(torch.zeros(1, 3, *tuned.spec.size)).shape == (1, 3)
    own = tuned.module.state_dict()
    theirs = build(model(name), 7, seed=1).module.state_dict()
    kept = [key for key in own if own[key].shape == theirs[key].shape]
    assert len(own) - len(kept) == 2
    assert all(torch.equal(own[key], theirs[key]) for key in kept)


class Hub:
    """Stands in for timm.create_model where it would download."""

    def __init__(self, outcome: Exception | None) -> None:
        self.outcome = outcome
        self.real = timm.create_model

    def __call__(self, name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
        if pretrained and self.outcome:
            raise self.outcome
        if pretrained:
            torch.manual_seed(77)
        module: nn.Module = self.real(name, **kwargs)
        return module


def test_a_failed_download_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", Hub(FileNotFoundError("no\nnetwork")))
    with pytest.raises(RetryError, match=r"weights of test_resnet could not .*\(no network\)") as e:
        build(model(pretrained=True), 1000)
    assert "\n" not in str(e.value)


def test_pretrained_weights_must_have_the_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", Hub(None))
    with pytest.raises(DataError, match=r"test_resnet: .*1000 classes apart, the data has 3"):
        build(model(pretrained=True), 3)
    fresh = build(model(), 1000, seed=1).digest
    assert build(model(pretrained=True), 1000, seed=1).digest != fresh
    assert build(model(pretrained=True, new_classifier=True), 3).module is not None


def test_a_model_that_timm_has_no_weights_of_is_refused() -> None:
    with pytest.raises(ParamsError, match="timm has no weights for nf_resnet26"):
        build(model("nf_resnet26", pretrained=True), 1000)


def test_saved_models_come_back_whole(saved: Path) -> None:
    card = load_card(saved)
    built = build(model(), 3, seed=5)
    assert (card.name, card.model_kwargs, card.classes) == (NAME, {}, CLASSES)
    assert (card.pixels, card.digest, card.extra) == (built.spec, built.digest, {"epochs": 7})
    loaded = load_model(saved)
    assert (loaded.digest, loaded.spec) == (built.digest, built.spec)
    assert sorted(path.name for path in saved.iterdir()) == ["model.json", "model.safetensors"]
    text = (saved / "model.json").read_text()
    assert str(saved.parent) not in text, "no absolute path in any file"


def test_a_saved_model_keeps_its_size_and_pixels(tmp_path: Path) -> None:
    config = model("test_vit", input_size=96, mean=(0.1, 0.2, 0.3), crop_ratio=0.5)
    built = build(config, 3, seed=0)
    save_model(tmp_path / "m", built.module, card_of(config, built.spec, CLASSES))
    for weights in (tmp_path / "m", tmp_path / "m" / "model.safetensors"):
        again = build(model("test_vit", weights=str(weights)), 3)
        assert (again.spec, again.digest) == (built.spec, built.digest)
    assert load_model(tmp_path / "m").spec == built.spec
    other = build(model("test_vit", weights=str(tmp_path / "m"), mean=(0, 0, 0)), 3)
    assert other.spec.mean == (0, 0, 0)
    assert other.spec.crop_ratio == 0.5


def test_wrapped_and_tied_modules_are_saved_plainly(tmp_path: Path) -> None:
    built = build(model(), 3, seed=5)
    wrapped = nn.Module()
    wrapped.add_module("module", built.module)
    digest = save_model(tmp_path / "m", wrapped, card_of(model(), built.spec, CLASSES))
    assert digest == built.digest == load_model(tmp_path / "m").digest
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    save_model(tmp_path / "tied", tied, {})
    stored = safetensors.torch.load_file(tmp_path / "tied" / "model.safetensors")
    assert sorted(stored) == ["0.bias", "0.weight", "1.bias", "1.weight"]


def test_saving_again_never_writes_into_the_old_files(saved: Path, tmp_path: Path) -> None:
    names = ("model.safetensors", "model.json")
    for name in names:
        os.link(saved / name, tmp_path / name)
    before = [(tmp_path / name).read_bytes() for name in names]
    built = build(model(), 3, seed=6)
    save_model(saved, built.module, card_of(model(), built.spec, CLASSES))
    assert [(tmp_path / name).read_bytes() for name in names] == before
    assert load_model(saved).digest == built.digest


def test_a_save_that_fails_leaves_the_old_model(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = load_card(saved).digest

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    built = build(model(), 3, seed=6)
    with pytest.raises(OSError, match="disk full"):
        save_model(saved, built.module, card_of(model(), built.spec, CLASSES))
    monkeypatch.undo()
    assert load_model(saved).digest == digest
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]


def test_a_card_of_another_model_is_refused(saved: Path) -> None:
    with pytest.raises(DataError, match=r"of test_resnet, the parameters say test_vit"):
        build(model("test_vit", weights=str(saved)), 3)
    kwargs = {"global_pool": "max"}
    with pytest.raises(
        DataError, match=r'kwargs \{\}, the parameters say \{"global_pool": "max"\}'
    ):
        build(model(weights=str(saved / "model.safetensors"), model_kwargs=kwargs), 3)
    assert build(model(weights=str(saved), model_kwargs={"drop_path_rate": 0.1}), 3).digest


def test_an_unknown_name_beside_a_card_is_a_wrong_name(saved: Path) -> None:
    with pytest.raises(ParamsError, match=r"timm has no model 'test_resnett'; did you mean test_r"):
        build(model("test_resnett", weights=str(saved)), 3)


def test_weights_that_are_not_the_cards_are_refused(saved: Path) -> None:
    weights = state(seed=8)
    (saved / "model.safetensors").unlink()
    safetensors.torch.save_file(weights, saved / "model.safetensors")
    with pytest.raises(DataError, match=r"not those that model.json .* was written for"):
        load_model(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": 3}', '{"name": "x"}'])
def test_a_damaged_card_is_refused(saved: Path, text: str) -> None:
    (saved / "model.json").write_text(text)
    with pytest.raises(DataError, match=r"model.json: damaged"):
        load_card(saved)
    (saved / "model.json").unlink()
    with pytest.raises(DataError, match=r"model.json: missing"):
        load_model(saved)
