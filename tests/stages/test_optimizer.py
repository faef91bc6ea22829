"""Optimizers are timm's; layers can learn at rates of their own."""

from typing import Any

import pytest
import torch
from torch import nn

from stages.shared.model_config import ModelConfig
from stages.shared.models import build
from stages.shared.training.optimizer import make_optimizer
from stages.shared.training.optimizer_config import OptimizerConfig
from store.errors import ParamsError


def config(**fields: Any) -> OptimizerConfig:
    return OptimizerConfig.model_validate({"lr": 0.1, **fields})


def network(name: str) -> nn.Module:
    return build(ModelConfig(name=name), 3, seed=0).module


def test_every_parameter_is_in_one_group_and_vectors_do_not_decay() -> None:
    module = network("test_resnet")
    optimizer = make_optimizer(module, config(weight_decay=0.1))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert ids(optimizer) == sorted(id(parameter) for parameter in module.parameters())
    for group in optimizer.param_groups:
        assert {parameter.ndim > 1 for parameter in group["params"]} == {group["weight_decay"] > 0}
        assert group.get("lr_scale", 1.0) == 1.0


# From the first layer to the last: the layers' names as they stand in their modules.
LAYERS = {
    "test_vit": ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.1.attn.qkv.weight"),
    "test_resnet": ("conv1.0.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_learning_rate_falls_by_layer(name: str) -> None:
    module = network(name)
    optimizer = make_optimizer(module, config(layer_decay=0.5, weight_decay=0.1))
    assert ids(optimizer) == sorted(id(parameter) for parameter in module.parameters())
    scale = {
        id(parameter): group["lr_scale"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    named = dict(module.named_parameters())
    head = "head.weight" if name == "test_vit" else "fc.weight"
    found = [scale[id(named[layer])] for layer in (*LAYERS[name], head)]
    assert found == sorted(found) and len(set(found)) == len(found)
    assert found[-1] == 1.0
    steps = sorted(set(scale.values()), reverse=True)
    assert steps == [0.5**number for number in range(len(steps))], "one for each layer, no gap"
    decays = {group["weight_decay"] for group in optimizer.param_groups}
    assert decays == {0.0, 0.1}


def test_layer_decay_of_one_changes_no_step() -> None:
    def after_a_step(layer_decay: float | None) -> list[torch.Tensor]:
        module = network("test_resnet")
        optimizer = make_optimizer(module, config(optimizer="sgd", layer_decay=layer_decay))
        module.eval()(torch.ones(1, 3, 32, 32)).sum().backward()
        optimizer.step()
        return [parameter.detach() for parameter in module.parameters()]

    for plain, grouped in zip(after_a_step(None), after_a_step(1.0), strict=True):
        assert torch.equal(plain, grouped)


def test_frozen_parameters_are_left_out() -> None:
    module = network("test_resnet")
    for name, parameter in module.named_parameters():
        parameter.requires_grad = name.startswith("fc.")
    for fields in ({}, {"layer_decay": 0.5}):
        optimizer = make_optimizer(module, config(**fields))
        assert sum(len(group["params"]) for group in optimizer.param_groups) == 2


@pytest.mark.parametrize("name", ["torchvision:resnet18", "tests.stages.own_models:small"])
def test_layers_that_nobody_knows_are_told(name: str) -> None:
    with pytest.raises(
        ParamsError, match=r"layer_decay is 0.5, but \w+ does not say .*leave layer"
    ):
        make_optimizer(network(name), config(layer_decay=0.5))


def ids(optimizer: torch.optim.Optimizer) -> list[int]:
    return sorted(id(p) for group in optimizer.param_groups for p in group["params"])
