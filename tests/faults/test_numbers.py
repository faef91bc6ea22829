"""Numbers at their limits: labels are those of a dense float64 computation, or one line says why.

Shapes: N images, M crops an image, C classes.
"""

import contextlib
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ferkd_pipeline import cli
from stages.infer.forward import Labeller
from stages.shared.contract import NoProgress
from stages.shared.training.loss import distillation_loss
from store.check.verify import verify
from store.view.build import plan_view
from tests.faults.choice import without
from tests.faults.soak import rounds
from tests.world import (
    CLASSES,
    NETWORK,
    Project,
    Tree,
    copy_project,
    merged,
    write_images,
)
from tests.world import write_teacher as write_random_teacher

F64 = NDArray[np.float64]
Said = Callable[[torch.Tensor], torch.Tensor]
KINDS = ("hard", "smoothing", "marginal_smoothing", "marginal_renorm", "full")
TRAIN: dict[str, Any] = {
    "model": {**NETWORK, "input_size": 16},
    "evaluation": "images",
    "lr": 0.01,
    "batch_size": 8,
    "crops_per_image": 2,
    "steps": 2,
    "device": "cpu",
}
SMALL: dict[str, Any] = {
    "store": {"num_shards": 1},
    "sample": {"num_crops": 3},
    "compress": {"precision": "float16"},
    "calibrate": None,
    "train": TRAIN,
    "evaluate": {"sets": {"again": "images"}, "device": "cpu"},
}
LABELLING = ("index", "sample", "infer", "compress")


def listen(monkeypatch: pytest.MonkeyPatch, change: Said | None = None) -> list[torch.Tensor]:
    """Return where the teacher's logits (B, C) of every forward of infer will stand, in order.

    They are ``change`` of those that it has computed.
    """
    found: list[torch.Tensor] = []
    forward = Labeller._forward

    def listened(self: Labeller, *arguments: Any) -> list[torch.Tensor]:
        said = forward(self, *arguments)
        if change is not None:
            said = [change(logits) for logits in said]
        found.extend(said)
        return said

    monkeypatch.setattr(Labeller, "_forward", listened)
    return found


def small_project(
    folder: Path, num_classes: int = 2, num_images: int = 2, **changes: Any
) -> Project:
    """Images, teacher and params.yaml in the current folder; nothing of it has run."""
    write_images(Path("images"), CLASSES[:num_classes], num_images)
    write_random_teacher(Path("models/teacher"), num_classes=num_classes)
    project = Project(folder)
    project.write_params(**merged(SMALL, changes))
    return project


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """Run a command; returns what it said, or of an error its one line."""
    capsys.readouterr()
    found = cli.main([*arguments])
    said = capsys.readouterr()
    assert (found, "Traceback" in said.err) == (code, False), said.err
    if code:
        (line,) = said.err.splitlines()[-1:]
        assert line.startswith("Error: ")
        return line
    return said.out + said.err


def label_of(kind: str, k: int, logits: F64, temperature: float = 1.0) -> F64:
    """The label (N, C) that a kind stands for, of logits (N, C)."""
    scaled = (logits - logits.max(axis=1, keepdims=True)) / temperature
    p = np.exp(scaled) / np.exp(scaled).sum(axis=1, keepdims=True)
    num_classes = p.shape[1]
    order = np.argsort(-logits, axis=1, kind="stable")
    kept = {"hard": 1, "smoothing": 1, "full": num_classes}.get(kind, min(k, num_classes))
    named = np.zeros_like(p, dtype=bool)
    np.put_along_axis(named, order[:, :kept], True, axis=1)
    top = np.where(named, p, 0.0)
    if kind == "hard":
        return named.astype(np.float64)
    if kind == "marginal_renorm":
        return np.asarray(top / top.sum(axis=1, keepdims=True))
    rest = np.maximum(1 - top.sum(axis=1), 0) / max(num_classes - kept, 1)
    return np.asarray(np.where(named, p, rest[:, None]))


def served(num_shards: int = 1, calibration: str | None = None) -> tuple[F64, NDArray[np.int64]]:
    """Labels (N, M, C) and targets (N,) that training gets."""
    layout = Project(Path()).layout
    view = plan_view(layout, num_shards, Path("images"), calibration).open()
    rows = np.arange(view.num_images)
    batch = view.gather(rows, np.tile(np.arange(view.num_crops), (len(rows), 1)))
    if batch.dense is not None:
        return batch.dense.astype(np.float64), batch.targets
    dense = np.repeat(batch.tail[..., None].astype(np.float64), view.num_classes, axis=2)
    for entry in range(batch.class_ids.shape[2]):
        place, weight = batch.class_ids[..., entry, None], batch.weights[..., entry, None]
        added = np.take_along_axis(dense, place, axis=2) + weight
        np.put_along_axis(dense, place, added, axis=2)
    return dense, batch.targets


def check_served(
    kind: str, k: int, heard: list[torch.Tensor], temperature: float = 1.0, num_shards: int = 1
) -> None:
    found, _ = served(num_shards)
    logits = torch.cat(heard).double().numpy()
    expected = label_of(kind, k, logits, temperature).reshape(found.shape)
    np.testing.assert_allclose(found.sum(axis=2), 1, atol=1e-5)
    assert found.min() > -1e-6
    np.testing.assert_allclose(found, expected, atol=2.5e-3)


# The teacher.


def scaled_to(largest: float) -> Said:
    def change(logits: torch.Tensor) -> torch.Tensor:
        return logits * (largest / logits.abs().max())

    return change


def on_top_of(offset: float) -> Said:
    """What a softmax does not see, but what takes bits of a float32."""
    return lambda logits: logits / 4 + offset


def always(class_id: int, certainty: float) -> Said:
    def change(logits: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros_like(logits)
        logits[:, class_id] = certainty
        return logits

    return change


TEACHERS: dict[str, Said] = {
    "70000": scaled_to(70_000.0),
    "largest float32": scaled_to(3.4e38),
    "tiny": scaled_to(1e-30),
    "on top of 70000": on_top_of(70_000.0),
    "on top of -1000000": on_top_of(-1e6),
    "constant": torch.zeros_like,
    "constant 70000": lambda logits: torch.full_like(logits, 70_000.0),
    "always one class": always(2, 3.0),
    "sure of one class": always(2, 1e4),
    "never one class": always(2, -1e4),
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project of five images of five classes whose crops are drawn; nobody changes it."""
    folder = tmp_path_factory.mktemp("drawn")
    with contextlib.chdir(folder):
        project = small_project(folder, num_classes=5, num_images=1)
        project.run("index", "sample", **SMALL)
    return project


@pytest.fixture
def tiny(drawn: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of it, as the current folder."""
    copied = copy_project(drawn, tmp_path / "tiny")
    monkeypatch.chdir(copied.folder)
    return copied


def nothing(value: float, call: int, row: int, class_id: int) -> Said:
    """What gives ``value`` for one class of one crop: a row of the forward of this number."""
    calls = iter(range(1000))

    def change(logits: torch.Tensor) -> torch.Tensor:
        if next(calls) == call:
            logits[row, class_id] = value
        return logits

    return change


def test_a_value_that_is_none_stops_at_its_crop(
    tiny: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """NaN and infinity of one class of any crop: named, nothing published, mended by a rerun."""
    paths = [f"{name}/0.jpg" for name in CLASSES]
    chosen = random.Random(0)
    trees: dict[str, Tree] = {}
    for number in range(rounds(4)):
        keep = ("dense", "topk")[number % 2]
        tiny.write_params(**merged(SMALL, {"infer": {"keep": keep}}))
        place = chosen.randrange(3 * len(paths))
        block, inside = divmod(place, 9)  # three images of three crops, in forwards of eight
        value = chosen.choice((torch.nan, torch.inf, -torch.inf))
        broken = nothing(value, 2 * block + inside // 8, inside % 8, chosen.randrange(5))
        for folder in ("labels/predictions", ".ferkd/work"):
            shutil.rmtree(folder, ignore_errors=True)
        with monkeypatch.context() as patch:
            listen(patch, broken)
            said = run(capsys, "stage", "infer", code=42)
        image, crop = divmod(place, 3)
        assert f"NaN or infinity for crop {crop} of {paths[image]};" in said, (number, value)
        assert not list(Path("labels").glob("predictions/*part*"))
        run(capsys, "stage", "infer")
        if number < 2:
            trees[keep] = tiny.tree("labels/predictions")
        assert tiny.tree("labels/predictions") == trees[keep], number


LARGE = ("70000", "largest float32", "on top of 70000")
LEFT = ("tiny", "on top of -1000000", "constant 70000", "always one class", "never one class")


@pytest.mark.parametrize("name", without(TEACHERS, *LEFT, "sure of one class"))
def test_labels_are_those_of_float64(
    tiny: Project, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the teacher says; of every kind, and at a temperature."""
    said = listen(monkeypatch, TEACHERS[name])
    for keep, kinds in (("topk", KINDS[:-1]), ("dense", KINDS[-1:])):
        said.clear()
        infer = {"keep": keep, "temperatures": [4.0], "top_r": 3}
        changes = merged(SMALL, {"infer": infer})
        tiny.run("infer", **changes)
        stored = tiny.predictions(1)
        assert all(np.isfinite(stored[n]).all() for n in stored if n.endswith(("logp", "exp")))
        asked_for = [*((kind, 1.0) for kind in kinds), (kinds[-1], 4.0)]
        for kind, temperature in asked_for:
            asked = {"kind": kind, "k": 2, "temperature": temperature}
            tiny.run("compress", **merged(changes, {"compress": asked}))
            check_served(kind, 2, said, temperature)
    assert verify(Path("labels"), NoProgress(), deep=True).damages == []


def test_an_average_of_large_logits_is_that_of_float64(
    tiny: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two teachers, one of them far beyond float16."""
    write_random_teacher(Path("models/other"), seed=1)
    teacher = {**NETWORK, "weights": "models/teacher"}
    said = listen(monkeypatch, scaled_to(70_000.0))
    both = [teacher, {**teacher, "weights": "models/other"}]
    changes = merged(SMALL, {"infer": {"teacher": both}, "compress": {"kind": "full"}})
    tiny.run("infer", "compress", **changes)
    found, _ = served()
    parts = [label_of("full", 1, torch.cat(said[n::2]).double().numpy()) for n in (0, 1)]
    np.testing.assert_allclose(found, np.mean(parts, axis=0).reshape(found.shape), atol=2.5e-3)


@pytest.mark.parametrize("name", without(TEACHERS, *LEFT, *LARGE))
def test_extreme_labels_are_calibrated_and_trained_on(
    tiny: Project,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Probabilities of exactly 0 and 1, or all alike: every sum is 1 and every loss is finite."""
    listen(monkeypatch, TEACHERS[name])
    recipes: dict[str, Any] = {
        "auto": [{"step": "ferkd", "preset": "auto"}],
        "parts": [{"step": "ferkd", "preset": "ferkd_share"}],
        "revised": [{"step": "revise", "where": "all"}, {"step": "truth"}],
    }
    calibrate = {"ferkd": None, "shares": None, **recipes}
    tiny.write_params(
        **{**SMALL, "calibrate": calibrate, "train": {**TRAIN, "calibration": "revised"}}
    )
    for stage in ("infer", "compress", "calibrate"):
        run(capsys, "stage", stage)
    for recipe in recipes:
        labels, targets = served(calibration=recipe)
        np.testing.assert_allclose(labels.sum(axis=2), 1, atol=1e-5)
        assert np.isfinite(labels).all()
        assert labels.min() > -1e-6
    assert (labels.argmax(axis=2) == targets[:, None]).all()
    run(capsys, "stage", "train")


# Counts.

NOT_MANY: dict[str, tuple[int, int, dict[str, Any]]] = {
    "one class": (1, 3, {}),
    "one image": (1, 1, {}),
    "two classes": (2, 2, {}),
    "more stored classes than there are": (3, 1, {"compress": {"k": 50}}),
    "as many stored classes as there are": (3, 1, {"compress": {"k": 3}}),
    "one crop": (2, 1, {"sample": {"num_crops": 1}, "train": {"crops_per_image": 1}}),
    "a thousand crops": (1, 1, {"sample": {"num_crops": 1000}, "infer": {"batch_size": 250}}),
    "as many shards as images": (2, 2, {"store": {"num_shards": 4}}),
    "crops of one pixel": (2, 1, {"sample": {"kind": "random_crop", "size": 1}}),
    "crops of almost nothing": (2, 1, {"sample": {"scale": [1e-9, 1e-8]}}),
    "crops larger than the image": (2, 1, {"sample": {"kind": "random_crop", "size": 200}}),
    "a batch larger than all": (2, 1, {"train": {"batch_size": 512}, "infer": {"batch_size": 999}}),
    "one step": (2, 1, {"train": {"steps": 1}}),
    "more crops a step than an image has": (2, 1, {"train": {"crops_per_image": 8}}),
    "more workers than images": (
        1,
        1,
        {"index": {"num_workers": 9}, "infer": {"num_workers": 9}, "train": {"num_workers": 2}},
    ),
}


@pytest.mark.parametrize(
    "name",
    without(
        NOT_MANY,
        "one image",
        "two classes",
        "as many shards as images",
        "as many stored classes as there are",
        "crops of almost nothing",
        "one step",
    ),
)
def test_works_with_few_and_with_many(
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Through the command line, with labels equal to the dense computation."""
    monkeypatch.chdir(tmp_path)
    num_classes, num_images, changes = NOT_MANY[name]
    small_project(tmp_path, num_classes, num_images, **changes)
    said = listen(monkeypatch)
    for stage in LABELLING:
        run(capsys, "stage", stage)
    k = changes.get("compress", {}).get("k", 2)
    num_shards = changes.get("store", {}).get("num_shards", 1)
    check_served("marginal_smoothing", k, said, num_shards=num_shards)
    if changes.keys() & {"train", "store"} or not changes:
        run(capsys, "stage", "train")
        run(capsys, "stage", "evaluate")


@pytest.mark.parametrize("kind", without(KINDS, "hard"))
@pytest.mark.parametrize("num_classes", without([1, 2], 2))
def test_every_kind_of_label_of_few_classes(
    tmp_path: Path, kind: str, num_classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(C - K) and (C - 1) divide; calibrations too."""
    monkeypatch.chdir(tmp_path)
    recipes: dict[str, Any] = {
        "soft": [{"step": "ferkd", "preset": "custom", "soften_to": 1.0}],
        "revised": [{"step": "revise", "where": "all"}],
    }
    changes: dict[str, Any] = {"compress": {"kind": kind, "k": 5}, "calibrate": recipes}
    project = small_project(tmp_path, num_classes, **changes)
    said = listen(monkeypatch)
    project.run(*LABELLING, "calibrate", **merged(SMALL, changes))
    check_served(kind, 5, said)
    soft, targets = served(calibration="soft")
    own = np.take_along_axis(soft, targets[:, None, None], axis=2)
    np.testing.assert_allclose(own, 0.9 if num_classes > 1 else 1.0, atol=1e-6)
    np.testing.assert_allclose(soft.sum(axis=2), 1, atol=1e-6)
    revised, _ = served(calibration="revised")
    np.testing.assert_allclose(revised.sum(axis=2), 1, atol=1e-5)


def test_a_class_whose_images_cannot_be_used_keeps_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three classes the second: labels have three places, nothing is moved."""
    monkeypatch.chdir(tmp_path)
    small_project(tmp_path, num_classes=3)
    for path in Path("images/bee").iterdir():
        path.write_bytes(b"")
    said = listen(monkeypatch)
    assert "classes without a usable image: bee" in run(capsys, "stage", "index")
    for stage in LABELLING[1:]:
        run(capsys, "stage", stage)
    check_served("marginal_smoothing", 2, said)
    labels, targets = served()
    assert (labels.shape[2], targets.tolist()) == (3, [0, 0, 2, 2])
    run(capsys, "stage", "train", code=3)  # the set to measure on has files that are no images
    shutil.rmtree("images/bee")
    Path("images/bee").mkdir()
    assert "images/bee: a class folder without images" in run(capsys, "stage", "index", code=3)


def test_an_image_all_of_whose_crops_are_dropped(
    tiny: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It stays, as softened ground truth, and that is told; of all images it is refused."""

    calls = iter(range(100))

    def sure(logits: torch.Tensor) -> torch.Tensor:
        logits = logits / logits.abs().max()
        if next(calls) == 0:
            logits[:3, 4] = 50.0  # the first image of three crops
        return logits

    listen(monkeypatch, sure)
    step: dict[str, Any] = {"step": "ferkd", "preset": "custom", "drop_from": 0.99}
    changes = merged(SMALL, {"calibrate": {"one": [step]}, "train": {"calibration": "one"}})
    tiny.write_params(**changes)
    for stage in ("infer", "compress"):
        run(capsys, "stage", stage)
    assert "1 image" in run(capsys, "stage", "calibrate")
    labels, targets = served(calibration="one")
    np.testing.assert_allclose(labels[0, :, targets[0]], 0.9, atol=1e-6)
    np.testing.assert_allclose(labels.sum(axis=2), 1, atol=1e-5)
    run(capsys, "stage", "train")
    tiny.write_params(**merged(changes, {"calibrate": {"one": [{**step, "drop_from": 1e-6}]}}))
    said = run(capsys, "stage", "calibrate", code=2)
    assert "calibrate.one: the step ferkd drops every one of 15 crops" in said


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "more shards than images": (
        {"store": {"num_shards": 6}},
        "sample",
        "store.num_shards is 6, but there are only 5 images; allowed: 1 to 5",
    ),
    "a batch that no image divides": (
        {"train": {"batch_size": 3}},
        "index",
        "batch_size is 3, allowed: a multiple of crops_per_image (2)",
    ),
    "no crops": ({"sample": {"num_crops": 0}}, "index", "sample.num_crops = 0"),
    "no classes stored": ({"compress": {"k": 0}}, "index", "compress.k = 0"),
    "no steps": ({"train": {"steps": 0}}, "index", "train.steps = 0"),
    "more ranks than are kept": (
        {"infer": {"top_r": 2, "keep": "topk"}, "compress": {"k": 3}},
        "compress",
        "compress.k is 3, but the predictions rank 2 classes",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused(
    tiny: Project, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, stage, why = REFUSED[name]
    tiny.write_params(**merged(SMALL, changes))
    if stage == "compress":
        run(capsys, "stage", "infer")
    before = tiny.tree()
    assert why in run(capsys, "stage", stage, code=2)
    assert tiny.tree() == before


@pytest.mark.parametrize("step", [0, 3])
def test_a_loss_that_is_no_number_is_told_with_its_step(
    tiny: Project, step: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing of the training is published, and a rerun without the fault works."""
    tiny.write_params(**merged(SMALL, {"train": {"steps": 5}}))
    for stage in ("infer", "compress"):
        run(capsys, "stage", stage)
    calls, loss = iter(range(100)), distillation_loss

    def broken(*arguments: Any, **options: Any) -> torch.Tensor:
        found = loss(*arguments, **options)
        return found * torch.nan if next(calls) == step else found

    with monkeypatch.context() as patch:
        patch.setattr("stages.shared.training.trainer.distillation_loss", broken)
        said = run(capsys, "stage", "train", code=42)
    assert f"the loss of step {step} is nan: training diverged" in said
    assert "lower lr (0.01)" in said
    assert not Path("models/student").exists()
    assert not Path("metrics/train").exists()
    run(capsys, "stage", "train")


def test_a_training_that_diverges_by_itself_is_told(
    tiny: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    train = {"lr": 1e6, "steps": 60, "optimizer": "sgd", "checkpoint_minutes": None}
    tiny.write_params(**merged(SMALL, {"train": train}))
    for stage in ("infer", "compress"):
        run(capsys, "stage", stage)
    assert re.search(r"the loss of step \d+ is (nan|inf)", run(capsys, "stage", "train", code=42))
