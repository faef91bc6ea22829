"""Models of torchvision, and of functions of one's own."""

import json
import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from timm.layers.drop import DropPath
from torch import nn
from torchvision.ops import StochasticDepth

from stages.shared.classifiers import classifier_layers
from stages.shared.model_config import ModelConfig, PixelSpec, library_of
from stages.shared.model_sources import torchvision_kwargs
from stages.shared.models import (
    build,
    card_of,
    classifier_parameters,
    load_card,
    load_model,
    save_model,
)
from stages.shared.pixel_spec import builder_kwargs
from store.errors import DataError, ParamsError, RetryError
from tests.stages.test_models import Bomb

OWN = "tests.stages.own_models"
TINY = "torchvision:mnasnet0_5"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def model(name: str, **fields: Any) -> ModelConfig:
    return ModelConfig.model_validate({"name": name, **fields})


@pytest.fixture(autouse=True)
def fresh_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test imports from its working folder is forgotten after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("mine"):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("resnet50.a1_in1k", "timm"),
        ("hf-hub:someone/something", "timm"),
        ("torchvision:resnet50", "torchvision"),
        ("torchvision:", "torchvision"),
        ("package.module:function", "own"),
        ("m:Network.small", "own"),
        ("m/n.py:f", "timm"),
        ("m:f()", "timm"),
    ],
)
def test_a_name_says_its_library(name: str, library: str) -> None:
    assert library_of(name) == library


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": "a:b", "pretrained": True}, "pretrained is true, which a:b cannot have"),
        ({"name": "a:b", "model_kwargs": {"num_classes": 3}}, "model_kwargs has num_classes"),
        ({"name": TINY, "model_kwargs": {"weights": "DEFAULT"}}, "model_kwargs has weights"),
        ({"name": TINY, "model_kwargs": {"pretrained": True}}, "model_kwargs has pretrained"),
    ],
)
def test_impossible_configs_are_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=says):
        ModelConfig.model_validate(fields)


@pytest.mark.parametrize("name", [TINY, "torchvision:squeezenet1_1", f"{OWN}:small"])
def test_a_seed_fixes_the_weights_and_leaves_the_global_generator_alone(name: str) -> None:
    before = torch.get_rng_state()
    one, two, other = (build(model(name), 3, seed=seed).digest for seed in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), before)
    assert one == two != other


def test_pixels_of_torchvision_are_those_of_its_weights() -> None:
    spec = build(model("torchvision:resnet18"), 3, seed=0).spec
    assert spec == PixelSpec((224, 224), "bilinear", *IMAGENET, 224 / 256, "center")
    assert build(model(TINY, input_size=64, std=(1, 1, 1)), 3).spec.size == (64, 64)


def families() -> list[str]:
    """One model of each family; the initialisation of regnets does not work without memory."""
    names = torchvision.models.list_models(module=torchvision.models)
    return list({name[:5]: name for name in reversed(names) if name[:3] != "reg"}.values())


@pytest.mark.parametrize("name", families())
def test_the_classifier_of_every_family_of_torchvision_is_found(name: str) -> None:
    options = torchvision_kwargs(name, {})
    with torch.device("meta"):
        module = torchvision.models.get_model(name, num_classes=17, **options)
    (layer,) = classifier_layers(module, 17)
    assert next(module.get_submodule(layer).parameters()).shape[0] == 17


def test_models_that_depend_on_their_size_are_built_for_it() -> None:
    vit = "torchvision:vit_b_16"
    assert builder_kwargs(model(vit, input_size=64)) == {"image_size": 64}
    assert builder_kwargs(model("torchvision:maxvit_t", input_size=64)) == {"input_size": [64, 64]}
    assert builder_kwargs(model(TINY, input_size=64)) == {}
    with pytest.raises(ParamsError, match=r"input_size is \[64, 32\], allowed .*: a square"):
        builder_kwargs(model(vit, input_size=[64, 32]))
    with pytest.raises(ParamsError, match=r"input_size is \[64, 64\].*image_size is 32"):
        builder_kwargs(model(vit, input_size=64, model_kwargs={"image_size": 32}))
    built = build(model(vit, model_kwargs={"image_size": 32}), 3, seed=0)
    assert built.spec.size == (32, 32)
    assert built.module.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_models_with_auxiliary_outputs_have_one() -> None:
    built = build(model("torchvision:googlenet"), 3, seed=0)
    out = built.module.train()(torch.zeros(2, 3, 64, 64))
    assert isinstance(out, torch.Tensor) and out.shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("torchvision:resnet5O", "torchvision has no model 'resnet5O'; did you mean resnet50"),
        ("torchvision:fasterrcnn_resnet50_fpn", "torchvision has no model 'fasterrcnn_resnet50_f"),
        ("torchvision:", "torchvision has no model ''; see torchvision.models.list_models"),
        ("tests.stages.own_modles:small", "there is no module 'tests.stages.own_modles', neither"),
        ("nowhere.at.all:small", "there is no module 'nowhere', neither installed nor"),
        (f"{OWN}:smal", r"tests/stages/own_models.py has no 'smal'; did you mean small"),
        (f"{OWN}:Small.x", r"has no 'Small.x'; did you mean Small"),
        (f"{OWN}:NUMBER", "takes no argument called num_classes"),
        (f"{OWN}:anything", "takes no argument called num_classes"),
        ("torch.hub:load", "takes no argument called num_classes"),
        (f"{OWN}:no_module", "returned list, allowed: a torch.nn.Module"),
        (f"{OWN}:fails", r"cannot be built with \{\} \(KeyError: .*layer.*\); change"),
        (f"{OWN}:odd_pixels", "a pretrained_cfg that cannot be read .*write it as timm does"),
    ],
)
def test_what_cannot_be_had_is_told_in_one_line(name: str, says: str) -> None:
    with pytest.raises(ParamsError, match=says) as e:
        build(model(name), 3)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", [TINY, f"{OWN}:small"])
def test_arguments_that_the_model_does_not_take_are_refused(name: str) -> None:
    with pytest.raises(ParamsError, match=rf"model_kwargs: {name} cannot .*depht"):
        build(model(name, model_kwargs={"depht": 3}), 3)


def test_drop_path_rate_is_the_probability_of_a_path_to_be_dropped() -> None:
    def rates(**kwargs: Any) -> list[float]:
        built = build(model("resnet18", model_kwargs=kwargs), 3, seed=0)
        return [m.drop_prob for m in built.module.modules() if isinstance(m, DropPath)]

    assert rates() == []
    found = rates(drop_path_rate=0.7)
    assert found == pytest.approx([0.1 * n for n in range(1, 8)])
    kwargs = {"stochastic_depth_prob": 0.8}
    built = build(model("torchvision:efficientnet_b0", model_kwargs=kwargs), 3, seed=0)
    drops = [m.p for m in built.module.modules() if isinstance(m, StochasticDepth)]
    assert max(drops) == pytest.approx(0.8 * 15 / 16)


def test_one_s_own_is_found_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "drawn = torch.rand(3)\n"
        "def net(num_classes, width=2):\n"
        "    from mine_too import layer\n"
        "    return layer(width, num_classes)\n"
    )
    (tmp_path / "mine_too.py").write_text("from torch.nn import Linear as layer\n")
    monkeypatch.chdir(tmp_path)
    before = torch.get_rng_state()
    built = build(model("mine:net", model_kwargs={"width": 5}), 3, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(built.module, nn.Linear) and built.module.in_features == 5
    assert built.digest == build(model("mine:net", model_kwargs={"width": 5}), 3, seed=1).digest


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("1 +", r"importing mine_bad raised SyntaxError \(invalid syntax"),
        ("import mine_missing", r"importing mine_bad raised ModuleNotFoundError .*mine_missing"),
        ("raise SystemExit(3)", r"importing mine_bad raised SystemExit \(3\)"),
        ("raise ValueError('a\\nb')", r"importing mine_bad raised ValueError \(a b\)"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told(
    code: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_bad.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParamsError, match=says) as e:
        build(model("mine_bad:net"), 3)
    assert "\n" not in str(e.value)


def test_pixels_of_one_s_own_are_what_it_says() -> None:
    plain = build(model(f"{OWN}:small"), 3).spec
    assert plain == PixelSpec((224, 224), "bilinear", *IMAGENET, 0.875, "center")
    said = build(model(f"{OWN}:described"), 3).spec
    assert (said.size, said.mean, said.std) == ((40, 48), (0.1, 0.2, 0.3), IMAGENET[1])
    asked = build(model(f"{OWN}:described", input_size=32, mean=(0, 0, 0)), 3).spec
    assert (asked.size, asked.mean) == ((32, 32), (0, 0, 0))


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("test_resnet", {"fc.weight", "fc.bias"}),
        (
            "deit_tiny_distilled_patch16_224",
            {f"{h}.{p}" for h in ("head", "head_dist") for p in ("weight", "bias")},
        ),
        ("torchvision:resnet18", {"fc.weight", "fc.bias"}),
        ("torchvision:squeezenet1_1", {"classifier.1.weight", "classifier.1.bias"}),
        (f"{OWN}:small", {"head.weight", "head.bias"}),
        (f"{OWN}:described", {"head.weight", "head.bias"}),
        (f"{OWN}:Wrapped", {"top.weight", "top.bias"}),
    ],
)
def test_classifying_layers_are_found(name: str, names: set[str]) -> None:
    module = build(model(name), 3, seed=0).module
    assert classifier_parameters(module) == names
    assert names <= dict(module.named_parameters()).keys()


def test_a_classifier_that_nobody_knows_is_told() -> None:
    with pytest.raises(ParamsError, match="no classifying layer is known in Sequential"):
        classifier_parameters(nn.Sequential(nn.Linear(2, 4)))


EACH = ["test_resnet", TINY, f"{OWN}:small"]


@pytest.mark.parametrize("name", [*EACH, "torchvision:squeezenet1_1", f"{OWN}:Wrapped"])
@pytest.mark.parametrize("form", ["pth", "safetensors", "folder"])
def test_weights_and_new_classifiers(name: str, form: str, tmp_path: Path) -> None:
    built = build(model(name), 7, seed=1)
    path, theirs = tmp_path / f"w.{form}", built.module.state_dict()
    if form == "folder":
        save_model(path, built.module, card_of(model(name), built.spec, tuple("abcdefg")))
    elif form == "pth":
        torch.save(theirs, path)
    else:
        safetensors.torch.save_file(theirs, path)
    assert build(model(name, weights=str(path)), 7, seed=2).digest == built.digest
    with pytest.raises(DataError, match=r"tell 7 classes apart, the data has 3"):
        build(model(name, weights=str(path)), 3)
    tuned = build(model(name, weights=str(path), new_classifier=True), 3, seed=2).module
    own, fresh = tuned.state_dict(), build(model(name), 3, seed=2).module.state_dict()
    anew = classifier_parameters(tuned)
    for key, value in own.items():
        assert torch.equal(value, fresh[key] if key in anew else theirs[key]), key


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("form", ["zip", "nested", "pickle"])
def test_a_hostile_pickle_is_refused_and_never_run(name: str, form: str, tmp_path: Path) -> None:
    bomb, path = Bomb(tmp_path / "exploded"), tmp_path / "bomb.pth"
    if form == "pickle":
        path.write_bytes(pickle.dumps(bomb, protocol=2))
    else:
        content = {"model": build(model(name), 3).module.state_dict(), "args": bomb}
        torch.save(content if form == "nested" else bomb, path)
    with pytest.raises(DataError, match=r"bomb.pth: refused, its pickle asks for \w+.mkdir"):
        build(model(name, weights=str(path)), 3)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", EACH)
def test_saved_models_come_back_whole(name: str, tmp_path: Path) -> None:
    config = model(name, input_size=96, mean=(0.1, 0.2, 0.3), crop_ratio=0.5)
    built = build(config, 3, seed=5)
    save_model(tmp_path / "m", built.module, card_of(config, built.spec, ("a", "b", "c")))
    loaded = load_model(tmp_path / "m")
    assert (loaded.digest, loaded.spec) == (built.digest, built.spec)
    pixels = torch.rand(2, 3, 96, 96)
    with torch.inference_mode():
        assert torch.equal(loaded.module.eval()(pixels), built.module.eval()(pixels))


def test_a_card_that_names_what_is_not_here_is_told(tmp_path: Path) -> None:
    built = build(model(f"{OWN}:small"), 3)
    config = model("mine_gone.nets:small")
    save_model(tmp_path / "m", built.module, card_of(config, built.spec, ("a", "b", "c")))
    with pytest.raises(ParamsError, match="there is no module 'mine_gone'"):
        load_model(tmp_path / "m")
    assert load_card(tmp_path / "m").name == "mine_gone.nets:small"


class Published:
    """Stands in for torchvision's download: weights of a model of 1000 classes."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(77)
        options = {"init_weights": False} if name == "inception_v3" else {}
        self.state = torchvision.models.get_model(name, weights=None, **options).state_dict()
        self.asked: dict[str, Any] = {}

    def __call__(self, weights: object, **options: Any) -> dict[str, torch.Tensor]:
        self.asked = options
        return dict(self.state)


def publish(monkeypatch: pytest.MonkeyPatch, name: str) -> Published:
    published = Published(name)
    target = "torchvision.models._api.WeightsEnum.get_state_dict"
    monkeypatch.setattr(target, lambda weights, **options: published(weights, **options))
    return published


def test_weights_that_torchvision_publishes(monkeypatch: pytest.MonkeyPatch) -> None:
    published = publish(monkeypatch, "mnasnet0_5")
    with pytest.raises(DataError, match=rf"{TINY}: these weights tell 1000 classes apart"):
        build(model(TINY, pretrained=True), 3)
    assert not published.asked, "nothing is downloaded in vain"
    whole = build(model(TINY, pretrained=True), 1000, seed=1).module.state_dict()
    assert all(torch.equal(whole[name], value) for name, value in published.state.items())
    assert published.asked["weights_only"] and published.asked["check_hash"]
    tuned = build(model(TINY, pretrained=True, new_classifier=True), 3, seed=2).module
    fresh = build(model(TINY), 3, seed=2).module.state_dict()
    anew = classifier_parameters(tuned)
    for name, value in tuned.state_dict().items():
        assert torch.equal(value, fresh[name] if name in anew else published.state[name])


def test_published_names_that_torchvision_changes_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    published = publish(monkeypatch, "densenet121")
    dots = re.compile(r"(denselayer\d+\.(?:norm|conv))([12])")
    state = published.state
    published.state = {dots.sub(r"\1.\2", name): value for name, value in state.items()}
    assert published.state.keys() != state.keys()
    built = build(model("torchvision:densenet121", pretrained=True), 1000, seed=1)
    assert all(torch.equal(built.module.state_dict()[name], state[name]) for name in state)


def test_published_auxiliary_outputs_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    published = publish(monkeypatch, "inception_v3")
    built = build(model("torchvision:inception_v3", pretrained=True), 1000, seed=1)
    assert built.spec.size == (299, 299)
    own = built.module.state_dict()
    assert all(torch.equal(own[name], published.state[name]) for name in own)
    assert len(own) < len(published.state)
    published.state["other.weight"] = torch.zeros(1)
    with pytest.raises(DataError, match=r"inception_v3: .*other.weight is not in the model"):
        build(model("torchvision:inception_v3", pretrained=True), 1000)


def test_a_failed_download_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(weights: object, **options: Any) -> None:
        raise OSError("no\nnetwork")

    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", fail)
    with pytest.raises(RetryError, match=r"mnasnet0_5 could not .*\(no network\)") as e:
        build(model(TINY, pretrained=True), 1000)
    assert "\n" not in str(e.value)


def test_a_hostile_file_in_torch_s_cache_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    weights = torchvision.models.get_model_weights("mnasnet0_5").DEFAULT
    path = tmp_path / "checkpoints" / weights.url.rsplit("/", 1)[-1]
    path.parent.mkdir()
    torch.save(Bomb(tmp_path / "exploded"), path)
    with pytest.raises(DataError, match=rf"{path.name} in torch's cache .* was refused"):
        build(model(TINY, pretrained=True), 1000)
    assert not (tmp_path / "exploded").exists()


def test_timm_and_json_agree_on_what_a_card_says(tmp_path: Path) -> None:
    kwargs = {"drop_path_rate": 0.2}
    config = model("resnet18", model_kwargs=kwargs)
    built = build(config, 3, seed=0)
    save_model(tmp_path / "m", built.module, card_of(config, built.spec, ("a", "b", "c")))
    assert json.loads((tmp_path / "m/model.json").read_text())["model_kwargs"] == kwargs
    again = load_model(tmp_path / "m").module
    assert max(m.drop_prob for m in again.modules() if isinstance(m, DropPath)) == pytest.approx(
        0.2
    )
    assert isinstance(again, timm.models.ResNet)
