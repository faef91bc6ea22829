"""Several teachers that label together: the average, its key, and what is refused."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ferkd_pipeline import cli, dvc_file, params
from stages.infer.config import Config
from stages.infer.decoded import DecodedImages
from stages.infer.run import open_inputs
from stages.infer.teachers import Teacher, averaged
from stages.shared.contract import NoProgress
from stages.shared.images import ImageError, decode
from stages.shared.models import build
from stages.shared.pixels import crop_resize
from store.check.verify import verify
from store.errors import DataError, ParamsError, ShardError
from tests.world import NETWORK, Project, copy_project, forget_predictions, write_teacher

F64 = NDArray[np.float64]
Member = dict[str, Any]

ONE: Member = {**NETWORK, "weights": "models/teacher"}
OTHER: Member = {
    **NETWORK,
    "weights": "models/other",
    "input_size": 40,
    "interpolation": "bilinear",
    "mean": [0.5, 0.5, 0.5],
}
BOTH = [ONE, OTHER]


@pytest.fixture(scope="module")
def several(made: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A second teacher beside the first, as the current folder of this module."""
    project = copy_project(made, tmp_path_factory.mktemp("several"))
    with contextlib.chdir(project.folder):
        write_teacher(Path("models/other"), seed=1)
        yield project


@pytest.fixture
def lone(several: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of it, as the current folder, to change."""
    copied = copy_project(several, tmp_path / "lone")
    monkeypatch.chdir(copied.folder)
    return copied


def ask(teacher: Any, **more: Any) -> dict[str, Any]:
    return {"infer": {"teacher": teacher, **more}}


def logits(project: Project, teacher: Any, **more: Any) -> F64:
    """(N, M, C) of what `infer` stores, in float64: z up to float16's rounding."""
    project.run("infer", **ask(teacher, **more))
    said = project.predictions()
    return np.asarray(said["logp"].astype(np.float64) + said["logsumexp"][..., :1])


def softmax(z: F64) -> F64:
    p = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(p / p.sum(axis=-1, keepdims=True))


@pytest.mark.parametrize(
    "teacher",
    [
        [ONE],
        [{**ONE, "share": 7.5}],
        {**ONE, "share": 2.0},
        [ONE, ONE],
        [{**ONE, "share": 0.3}, ONE, {**ONE, "input_size": 32, "crop_ratio": 0.5}],
    ],
)
@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_an_ensemble_of_one_teacher_is_that_teacher(
    several: Project, teacher: Any, average: str
) -> None:
    """The same key: not a bit can differ, and no forward is paid for it."""
    plain = several.params().section("infer").model_dump(mode="json")["teacher"]
    dumped = several.params(**ask(teacher)).section("infer").model_dump(mode="json")["teacher"]
    assert dumped == plain == {"name": NETWORK["name"], "model_kwargs": NETWORK["model_kwargs"]}
    assert several.why("infer", **ask(teacher, average=average)) == ["complete"] * 3


def test_copied_weights_are_the_same_teacher(several: Project) -> None:
    shutil.copytree("models/teacher", "models/copy", dirs_exist_ok=True)
    copy = {**ONE, "weights": "models/copy"}
    assert several.why("infer", **ask([copy, ONE])) == ["complete"] * 3


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("shares", [(1.0, 1.0), (0.5, 1.5)])
def test_it_is_the_average_by_share(
    lone: Project, average: str, shares: tuple[float, float]
) -> None:
    z = [logits(lone, member) for member in BOTH]
    a, b = np.array(shares) / sum(shares)
    members = [{**m, "share": share} for m, share in zip(BOTH, shares, strict=True)]
    found = logits(lone, members, average=average)
    assert np.abs(softmax(z[0]) - softmax(z[1])).max() > 0.2, "two that agree average to anything"
    if average == "probabilities":
        wanted = a * softmax(z[0]) + b * softmax(z[1])
        np.testing.assert_allclose(lone.predictions()["logsumexp"], 0, atol=1e-5)
    else:
        wanted = softmax(a * z[0] + b * z[1])
        np.testing.assert_allclose(found, a * z[0] + b * z[1], rtol=2e-3, atol=1e-2)
    np.testing.assert_allclose(softmax(found), wanted, atol=1.5e-3)
    other = {"probabilities": "logits", "logits": "probabilities"}[average]
    assert lone.why("infer", **ask(members, average=other)) == ["parameters or inputs changed"] * 3
    # what follows knows nothing of it
    lone.run("compress", "calibrate", **ask(members, average=average))
    assert verify(Path("labels"), NoProgress()).damages == []


def test_temperatures_act_on_the_average(lone: Project) -> None:
    z = logits(lone, BOTH, temperatures=[3.0])
    expected = np.log(np.exp(z / 3).sum(axis=-1))
    np.testing.assert_allclose(lone.predictions()["logsumexp"][..., 1], expected, atol=2e-3)


def test_order_has_no_part_in_it(lone: Project) -> None:
    a, b = {**ONE, "share": 0.2}, {**OTHER, "share": 0.7}
    lone.run("infer", **ask([a, b]))
    expected = lone.tree("labels/predictions")
    assert lone.why("infer", **ask([b, a])) == ["complete"] * 3
    forget_predictions()
    lone.run("infer", **ask([b, a]))
    assert lone.tree("labels/predictions") == expected
    split = [{**b, "share": 0.3}, a, {**b, "share": 0.4}]
    forget_predictions()
    lone.run("infer", **ask(split))
    assert lone.tree("labels/predictions") == expected
    same = [{**a, "share": 2.0}, {**b, "share": 7.0}]
    assert lone.why("infer", **ask(same)) == ["complete"] * 3, "only ratios count"
    swapped = [{**a, "share": 0.7}, {**b, "share": 0.2}]
    assert lone.why("infer", **ask(swapped)) == ["parameters or inputs changed"] * 3


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "models/teacher"},
        {"interpolation": "bicubic"},
        {"input_size": 32},
        {"mean": [0.4, 0.5, 0.5]},
        {"share": 1.1},
    ],
)
def test_what_changes_a_member_changes_the_key(lone: Project, change: Member) -> None:
    lone.run("infer", **ask(BOTH))
    changed = ask([ONE, {**OTHER, **change}])
    assert lone.why("infer", **changed) == ["parameters or inputs changed"] * 3


def test_shards_blocks_and_workers_change_no_bit(lone: Project) -> None:
    lone.run("infer", **ask(BOTH))
    before = lone.predictions()
    forget_predictions()
    change: dict[str, Any] = ask(BOTH, block_images=100, num_workers=1)
    lone.run("sample", "infer", store={"num_shards": 1}, **change)
    after = lone.predictions(1)
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values, err_msg=name)


def test_moved_borders_cost_no_forward(lone: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    lone.run("infer", **ask(BOTH))
    before = lone.predictions()
    monkeypatch.setattr("stages.infer.forward.Labeller._launch", None)
    lone.run("sample", "infer", store={"num_shards": 2}, **ask([OTHER, ONE]))
    for name, values in lone.predictions(2).items():
        np.testing.assert_array_equal(values, before[name], err_msg=name)


@pytest.mark.parametrize(
    ("members", "num_ways"),
    [
        (BOTH, 2),
        ([ONE, {**OTHER, "input_size": 32}], 2),
        ([ONE, {**OTHER, "input_size": 32, "interpolation": "bicubic"}], 1),
    ],
)
def test_crops_are_made_once_for_each_size_and_interpolation(
    lone: Project, members: list[Member], num_ways: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, Any]] = []

    def counted(*arguments: Any, **options: Any) -> Any:
        made.append((len(arguments[1]), arguments[3:]))
        return crop_resize(*arguments, **options)

    monkeypatch.setattr("stages.infer.feed.crop_resize", counted)
    lone.run("infer", shards=(0,), **ask(members, block_images=100))
    assert sum(count for count, _ in made) == 8 * 4 * num_ways
    assert len({size for _, size in made}) == num_ways


def test_images_are_decoded_once_for_all_members(
    lone: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []

    def counted(data: bytes, **options: Any) -> Any:
        decoded.append(len(data))
        return decode(data, **options)

    monkeypatch.setattr("stages.infer.decoded.decode", counted)
    lone.run("infer", shards=(0,), **ask(BOTH, block_images=100, batch_size=3))
    assert len(decoded) == 8, "batches of 3 cut through the 4 crops of an image"


def test_an_image_that_cannot_be_read_is_rejected_for_all(
    lone: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_read = DecodedImages._read

    def read(self: DecodedImages, image: int) -> torch.Tensor:
        if image == 1:
            raise ImageError("gone")
        return true_read(self, image)

    monkeypatch.setattr(DecodedImages, "_read", read)
    lone.run("infer", shards=(0,), **ask(BOTH, max_reject_share=0.5, block_images=100))
    assert lone.entry("predictions", 0).numbers["num_rejected_images"] == 1


def test_the_lineage_tells_every_member(lone: Project, capsys: pytest.CaptureFixture[str]) -> None:
    lone.run("infer", **ask([{**OTHER, "share": 3.0}, ONE], average="logits"))
    inputs = lone.entry("predictions", 0).lineage["inputs"]
    assert inputs["ensemble"]["average"] == "logits"
    members = inputs["ensemble"]["members"]
    teachers = open_inputs(lone.params(**ask(BOTH)).typed("infer", Config), lone.source())
    digests = [teacher.model.digest for teacher in teachers(0).teachers]
    assert [member["weights"] for member in members] == sorted(digests)
    assert sorted(member["share"] for member in members) == [0.25, 0.75]
    assert {tuple(member["pixels"]["size"]) for member in members} == {(32, 32), (40, 40)}
    assert len(inputs["teacher"]) == 64 and inputs["teacher"] not in digests
    assert b"models/" not in b"".join(lone.tree("labels/predictions").values())
    assert cli.main(["store", "info"]) == 0
    assert "resnet18 + resnet18, weights SHA-256" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("member", "error", "complaint"),
    [
        (
            {**OTHER, "weights": "models/six"},
            DataError,
            r"infer\.teacher\[1\] \(resnet18\): models/six.*6 classes.* has 5",
        ),
        (
            {**OTHER, "weights": None},
            ParamsError,
            r"infer\.teacher\[1\]: resnet18 has neither weights nor pretrained",
        ),
        ({**OTHER, "new_classifier": True}, ParamsError, r"infer\.teacher\[1\]\.new_classifier"),
        ({**OTHER, "name": "resnet1888"}, ParamsError, r"infer\.teacher\[1\]\.name: .*resnet1888"),
        ({**OTHER, "weights": "nowhere"}, DataError, r"infer\.teacher\[1\] \(resnet18\): nowhere"),
    ],
)
def test_a_wrong_member_is_named(
    several: Project, member: Member, error: type[Exception], complaint: str
) -> None:
    write_teacher(Path("models/six"), num_classes=6)
    with pytest.raises(error, match=complaint):
        several.why("infer", **ask([ONE, member]))


def test_a_member_that_gives_nan_is_named(lone: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    config = lone.params(**ask(BOTH)).typed("infer", Config)
    wide = build(config.members[1].model_copy(update={"name": "resnet18"}), 5)
    with torch.no_grad():
        dict(wide.module.named_parameters())["fc.bias"][2] = float("inf")

    def built(member: Any, num_outputs: int) -> Any:
        return wide if member.weights == "models/other" else build(member, num_outputs)

    monkeypatch.setattr("stages.infer.teachers.build", built)
    with pytest.raises(ShardError, match=r"NaN or infinity for crop 0 of ant/0\.jpg"):
        lone.run("infer", **ask(BOTH))


@pytest.mark.parametrize(
    ("infer", "complaint"),
    [
        ({"teacher": []}, "infer.teacher = []: must have at least 1 values"),
        ({"teacher": [{"name": "x", "shar": 1}]}, "infer.teacher[0].shar: unknown key; did you m"),
        ({"teacher": [{"name": "x", "share": 0}]}, "infer.teacher[0].share = 0: must be more than"),
        ({"teacher": [{}]}, "infer.teacher[0].name: missing, and it has no default"),
        ({"teacher": "x"}, 'infer.teacher = "x": must be a mapping of keys'),
        ({"teacher": {"name": "x"}, "average": "mean"}, 'infer.average = "mean": must be'),
        (
            {"teacher": {"name": "x"}, "num_outputs": 3},
            "infer: num_outputs is 3, allowed with outputs classes: none",
        ),
        (
            {"teacher": {"name": "x"}, "outputs": "projection"},
            "infer: num_outputs is missing, needed with outputs projection",
        ),
        (
            {"teacher": [{"name": "x"}] * 2, "outputs": "projection", "num_outputs": 3},
            "infer: teacher has 2 members, allowed with outputs projection: 1",
        ),
        (
            {
                **{"teacher": {"name": "x"}, "outputs": "projection", "num_outputs": 3},
                "temperatures": [2],
            },
            "infer: temperatures is [1.0, 2.0], allowed with outputs projection: [1]",
        ),
        (
            {
                **{"teacher": {"name": "x"}, "outputs": "projection", "num_outputs": 3},
                "keep": "topk",
            },
            "infer: keep is topk, allowed with outputs projection: auto, dense",
        ),
    ],
)
def test_wrong_parameters_are_named(infer: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ParamsError) as caught:
        params.check(Path("params.yaml"), {"infer": infer})
    assert f"params.yaml: {complaint}" in str(caught.value)


def test_dvc_watches_the_weights_of_every_member() -> None:
    infer = {"teacher": [{"name": "x", "weights": "./a.pth"}, {"name": "y", "weights": "b"}]}
    values = params.check(Path("params.yaml"), {"infer": infer})
    assert dvc_file.image_folders(values.sections)["infer"] == ["a.pth", "b"]


@given(
    st.integers(0, 2**20),
    st.lists(st.floats(0.01, 100), min_size=1, max_size=4),
    st.sampled_from(["probabilities", "logits"]),
)
def test_an_average_lies_between_and_has_no_order(
    seed: int, shares: list[float], average: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    said = [30 * torch.randn(3, 6, generator=generator) for _ in shares]
    said.append(said[0])
    config = Config.model_validate({"teacher": {"name": "x"}, "average": average})
    teachers = [
        Teacher("", "", {}, None, share / sum(shares))  # type: ignore[arg-type]
        for share in shares
    ]
    found = averaged(config, teachers, said[:-1])
    assert found.dtype == torch.float32 and torch.isfinite(found).all()
    turned = averaged(config, teachers[::-1], said[-2::-1])
    torch.testing.assert_close(found.softmax(1), turned.softmax(1), rtol=1e-4, atol=1e-6)
    kind = torch.softmax if average == "probabilities" else (lambda z, dim: z)
    parts = torch.stack([kind(z, 1) for z in said[:-1]])
    value = kind(found, 1)
    slack = 1e-4 * parts.abs().max()
    assert (value <= parts.amax(0) + slack).all() and (value >= parts.amin(0) - slack).all()
    if len(shares) == 1:
        assert torch.equal(found, said[0])
    halves = [Teacher("", "", {}, None, 0.5)] * 2  # type: ignore[arg-type]
    both = averaged(config, halves, [said[0], said[0]]).softmax(1)
    torch.testing.assert_close(both, said[0].softmax(1), rtol=1e-5, atol=1e-7)
