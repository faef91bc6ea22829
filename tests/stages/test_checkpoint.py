"""Checkpoints: what is saved comes back, bit for bit, and an optimizer goes on with it."""

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from torch import nn

from stages.shared.training.checkpoint import Checkpoints
from tests.stages.checkpoints import KEY, STATE, is_same, only_save

DTYPES = [
    *(torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
]


@st.composite
def any_tensor(draw: st.DrawFn) -> torch.Tensor:
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=4))
    seed = draw(st.integers(0, 1000))
    count = int(np.prod(shape))
    data = np.random.default_rng(seed).integers(0, 256, count * dtype.itemsize, dtype=np.uint8)
    if dtype is torch.bool:
        data %= 2
    # torch cannot view an empty array as wider values
    plain = torch.from_numpy(data).view(dtype) if count else torch.empty(0, dtype=dtype)
    plain = plain.reshape(shape)
    return plain.transpose(0, -1) if draw(st.booleans()) and plain.ndim > 1 else plain


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | any_tensor()
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


@hypothesis.given(st.dictionaries(st.text() | st.integers(), VALUES, max_size=4))
@hypothesis.settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_what_is_saved_comes_back(tmp_path: Path, state: dict[Any, Any]) -> None:
    checkpoints = Checkpoints(tmp_path / "some", KEY)
    checkpoints.save(state)
    assert is_same(checkpoints.load(), state)


def test_tensors_that_share_memory_come_back_apart(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    weight = nn.Parameter(torch.ones(2))
    state = {"base": base, "again": base, "row": base[1], "turned": base.T, "own": weight}
    Checkpoints(tmp_path / "some", KEY).save(state)
    found = Checkpoints(tmp_path / "some", KEY).load()
    assert found is not None
    found["base"] += 1
    assert torch.equal(found["again"], base)
    assert torch.equal(found["row"], base[1])
    assert torch.equal(found["turned"], base.T)
    assert type(found["own"]) is torch.Tensor and not found["own"].requires_grad


def test_the_order_in_memory_stays(tmp_path: Path) -> None:
    pixels = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    Checkpoints(tmp_path / "some", KEY).save({"pixels": pixels})
    found = Checkpoints(tmp_path / "some", KEY).load()
    assert found is not None
    assert found["pixels"].stride() == pixels.stride()
    assert torch.equal(found["pixels"], pixels)


def test_an_ordered_dict_comes_back_as_a_dict(tmp_path: Path) -> None:
    module = nn.Linear(2, 3)
    assert isinstance(module.state_dict(), OrderedDict)
    Checkpoints(tmp_path / "some", KEY).save({"module": module.state_dict()})
    found = Checkpoints(tmp_path / "some", KEY).load()
    assert found is not None and type(found["module"]) is dict
    assert is_same(found["module"], dict(module.state_dict()))


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (object(), "state['a'][1] is a object"),
        (np.float64(1), "state['a'][1] is a float64"),
        (np.zeros(2), "state['a'][1] is a ndarray"),
        ({True: 1}, "state['a'][1] has the key True"),
        ({(1, 2): 1}, "state['a'][1] has the key (1, 2)"),
        (torch.zeros(2, dtype=torch.complex128), "a tensor of torch.complex128"),
        (torch.eye(2).to_sparse(), "torch.sparse_coo"),
        ({1, 2}, "state['a'][1] is a set"),
        (b"bytes", "state['a'][1] is a bytes"),
        (torch.Size([1]), "state['a'][1] is a Size"),
        ("\ud800", "state holds what JSON cannot"),
    ],
)
def test_what_cannot_be_held_is_an_error_of_the_program(
    tmp_path: Path, value: object, named: str
) -> None:
    checkpoints = Checkpoints(tmp_path / "some", KEY)
    checkpoints.save(STATE)
    with pytest.raises(TypeError) as caught:
        checkpoints.save({"a": [1, value]})
    assert named in str(caught.value)
    assert is_same(checkpoints.load(), STATE)
    assert only_save(tmp_path / "some").name == "save-000000001"


def make_net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 16, 8), nn.Linear(8, 3)
    ).to(memory_format=torch.channels_last)


def take_steps(module: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        pixels = torch.randn(6, 3, 6, 6).to(memory_format=torch.channels_last)
        nn.functional.cross_entropy(module(pixels), torch.arange(6) % 3).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize(
    "name",
    ["sgd", "momentum", "adamw", "lamb", "adamp", "lion", "nadamw", "muon", "lookahead_adamw"],
)
@pytest.mark.filterwarnings("ignore::UserWarning:timm")
def test_optimizers_go_on_bitwise(tmp_path: Path, name: str) -> None:
    def make(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        module = make_net(seed)
        return module, create_optimizer_v2(module, opt=name, lr=0.01, weight_decay=0.05)

    straight, optimizer = make(0)
    take_steps(straight, optimizer, range(9))
    module, optimizer = make(0)
    take_steps(module, optimizer, range(4))
    saved = {"module": module.state_dict(), "optimizer": optimizer.state_dict()}
    Checkpoints(tmp_path / "some", KEY).save(saved)
    found = Checkpoints(tmp_path / "some", KEY).load()
    assert found is not None
    other, optimizer = make(1)
    other.load_state_dict(found["module"])
    optimizer.load_state_dict(found["optimizer"])
    take_steps(other, optimizer, range(4, 9))
    assert is_same(dict(other.state_dict()), dict(straight.state_dict()))


def test_the_state_of_a_scaler(tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], 0.1)
    for _ in range(2):
        scaler.scale(weight.sum()).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
    Checkpoints(tmp_path / "some", KEY).save({"scaler": scaler.state_dict()})
    found = Checkpoints(tmp_path / "some", KEY).load()
    assert found is not None and is_same(found["scaler"], scaler.state_dict())


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for name in ("one", "other"):
        Checkpoints(tmp_path / name, KEY).save(STATE)
        written.append([p.read_bytes() for p in sorted(only_save(tmp_path / name).iterdir())])
    assert written[0] == written[1]
    said = json.loads(written[0][0])
    assert set(said["software"]) == {"ferkd-pipeline", "torch", "timm"}
