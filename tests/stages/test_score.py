"""Scores of images: planted wrong labels, shared proxies, bad images, kills."""

import functools
import importlib.util
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
import torch
from numpy.typing import NDArray

from stages.score import core, gradients, influence, proxies
from stages.score import run as stage
from stages.score.config import Config, Loss, Proxy, TracIn
from stages.score.images import Crops, Files
from stages.score.run import Inputs
from stages.shared import models
from stages.shared.contract import NoProgress, Report
from stages.shared.pixels import normalise
from store import entries, scores
from store.errors import DataError, ParamsError, ShardError
from store.images import ImageTable
from store.layout import Layout
from tests.stages.training_world import CLASS_NAMES, NETWORK, image_table, write_images

NUM_PER_CLASS = 12
WRONG = np.array([3, 17, 30])
"""One image of each class is listed as another class."""
PROXY: dict[str, Any] = {
    "model": {**NETWORK, "input_size": [16, 16]},
    "scale": [0.5, 1],
    "batch_size": 12,
    "crops_per_image": 1,
    "steps": 30,
    "lr": 0.01,
    "device": "cpu",
}


LOSS: dict[str, Any] = {"estimator": "loss", "proxy": PROXY}
CROPS: dict[str, Any] = {"batch_size": 5, "num_workers": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("images")
    write_images(top / "train", num_per_class=NUM_PER_CLASS)
    write_images(top / "val", num_per_class=4, seed=1)
    return top


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """Images that a test may spoil."""
    shutil.copytree(folder, tmp_path / "images")
    return tmp_path / "images"


def listed(folder: Path) -> ImageTable:
    """The training images, some of a wrong class."""
    table = image_table(folder / "train")
    table.class_ids = table.class_ids.copy()
    table.class_ids[WRONG] = (table.class_ids[WRONG] + 1) % len(CLASS_NAMES)
    return table


def config(**by_name: Any) -> Config:
    return Config.model_validate(by_name)


def inputs(folder: Path, **changes: Any) -> Inputs:
    return replace(Inputs(listed(folder), folder / "train"), **changes)


def score(
    folder: Path, root: Path, *, force: bool = False, **by_name: Any
) -> tuple[dict[str, NDArray[np.float32]], Report]:
    layout = Layout.beside(root / "labels")
    given = inputs(folder)
    report = stage.run(config(**by_name), given, layout, NoProgress(), force=force)
    return {name: scores.read(layout, given.images, name)[1] for name in by_name}, report


def share_above(values: NDArray[np.float32]) -> float:
    """Share of pairs in which the wrong image is above the right one."""
    right = np.delete(values, WRONG)
    return float((values[WRONG][:, None] > right[None, :]).mean())


@pytest.fixture(scope="module")
def made(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[dict[str, NDArray[np.float32]], Report, list[int]]]:
    """Every estimator at once, and the seeds of the proxies that were trained."""
    trained = []
    with pytest.MonkeyPatch.context() as patch:
        build = models.build

        def watched(*args: Any, **kwargs: Any) -> Any:
            trained.append(kwargs["seed"])
            return build(*args, **kwargs)

        patch.setattr(models, "build", watched)
        found, report = score(
            folder,
            tmp_path_factory.mktemp("made"),
            helpful={"estimator": "influence", "evaluation": str(folder / "val"), "proxy": PROXY},
            itself={"estimator": "influence", "proxy": PROXY, "batch_size": 7},
            gradients={
                "estimator": "tracin",
                "evaluation": str(folder / "val"),
                "proxy": PROXY,
                "checkpoints": 2,
            },
            el2n={"estimator": "el2n", "proxy": PROXY, "proxies": 2, "at_step": 12},
            forgetting={"estimator": "forgetting", "proxy": PROXY, "look_every": 2},
            loss={"estimator": "loss", "proxy": {**PROXY, "num_workers": 0}},
            random={"estimator": "random", "seed": 3},
        )
        yield found, report, trained


@pytest.mark.parametrize(
    ("name", "is_high"),
    [
        ("helpful", False),
        ("itself", True),
        ("gradients", False),
        ("el2n", True),
        ("forgetting", True),
        ("loss", True),
    ],
)
def test_wrong_labels_rank_where_they_must(made: Any, name: str, is_high: bool) -> None:
    above = share_above(made[0][name])
    assert above > 0.9 if is_high else above < 0.1


def test_equal_proxies_are_trained_once(made: Any) -> None:
    assert made[2] == [0, 1]


def test_a_look_changes_nothing(made: Any, folder: Path, tmp_path: Path) -> None:
    alone, _ = score(folder, tmp_path, loss=LOSS)
    np.testing.assert_array_equal(alone["loss"], made[0]["loss"])
    again, _ = score(folder, tmp_path, force=True, loss=LOSS)
    np.testing.assert_array_equal(alone["loss"], again["loss"])


def test_a_look_leaves_the_random_stream_of_the_training(folder: Path, tmp_path: Path) -> None:
    """kronfluence draws random numbers, and so does dropout."""
    kwargs = {**NETWORK["model_kwargs"], "drop_rate": 0.5}
    proxy = {**PROXY, "model": {**PROXY["model"], "model_kwargs": kwargs}, "steps": 6}
    loss = {"estimator": "loss", "proxy": proxy}
    alone, _ = score(folder, tmp_path / "alone", loss=loss)
    beside = {"estimator": "tracin", "proxy": proxy, "checkpoints": 1}
    both, _ = score(folder, tmp_path / "both", beside=beside, loss=loss)
    np.testing.assert_array_equal(both["loss"], alone["loss"])


def test_influence_is_reproducible(made: Any, folder: Path, tmp_path: Path) -> None:
    helpful = {"estimator": "influence", "evaluation": str(folder / "val"), "proxy": PROXY}
    alone, _ = score(folder, tmp_path, helpful=helpful)
    np.testing.assert_array_equal(alone["helpful"], made[0]["helpful"])
    assert not [path for path in (tmp_path / ".ferkd").rglob("*") if "factors" in path.name]
    few, _ = score(folder, tmp_path, few={**helpful, "fit_images": 9})
    assert not np.array_equal(few["few"], alone["helpful"])


def test_influence_is_the_gradient_product_where_there_is_no_curvature(folder: Path) -> None:
    """TracIn of one network against gradients that torch computes image by image."""
    given = inputs(folder)
    settings = TracIn.model_validate({"estimator": "tracin", "proxy": PROXY, "checkpoints": 1})
    layout = Layout.beside(folder / "none")
    watcher = influence.Influences(
        settings, len(given.images), None, layout.resumable("score", "x")
    )
    model = models.build(settings.proxy.model, 3, seed=0)
    module = model.module.eval()
    crops = Crops(Files.of_table(given.images, given.images_folder), model.spec, **CROPS)
    crops.look(NoProgress(), "images")
    watcher.network(
        proxies.Look(1, 0.5, module, model.spec, torch.device("cpu"), crops), NoProgress()
    )
    counted = [module.get_submodule(name) for name in gradients.layers(module)]
    weights = [p for part in counted for p in part.parameters()]
    for row in (0, 20):
        pixels, target = crops[row]
        logits = module(normalise(pixels[None], model.spec.mean, model.spec.std))
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor([target]))
        found = sum(float((g**2).sum()) for g in torch.autograd.grad(loss, weights))
        assert watcher.scores()[row] == pytest.approx(0.5 * found, rel=1e-4)


class Told:
    """Tasks with their units, and what was counted of each."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, int, str]] = []
        self.done: list[int] = []

    def start(self, label: str, total: int, unit: str) -> None:
        self.tasks.append((label, total, unit))
        self.done.append(0)

    def advance(self, amount: int = 1) -> None:
        self.done[-1] += amount

    def note(self, message: str) -> None:
        pass


@pytest.mark.parametrize("estimator", ["influence", "tracin"])
@pytest.mark.parametrize("has_queries", [True, False])
def test_each_phase_of_influence_is_a_task(
    estimator: str, has_queries: bool, folder: Path, tmp_path: Path
) -> None:
    told = Told()
    more: dict[str, Any] = {"evaluation": str(folder / "val")} if has_queries else {}
    more |= {"fit_images": 20} if estimator == "influence" else {"checkpoints": 1}
    named = config(x={"estimator": estimator, "proxy": {**PROXY, "steps": 2}, **more})
    stage.run(named, inputs(folder), Layout.beside(tmp_path / "labels"), told)
    step = 2 if estimator == "influence" else 1
    label = f"{estimator} at step {step}: "
    found = [(name[len(label) :], *rest) for name, *rest in told.tasks if name.startswith(label)]
    network = models.build(Proxy.model_validate(PROXY).model, 3, seed=0).module
    fitting = [
        ("covariances", 20, "images"),
        ("eigenvectors", len(gradients.layers(network)), "layers"),
        ("eigenvalues", 20, "images"),
    ]
    queries = [("validation images", 12, "images")] if has_queries else []
    fitted = fitting if estimator == "influence" else []
    assert found == [*fitted, *queries, ("scores", 36, "images")]
    assert told.done == [total for _, total, _ in told.tasks]


def test_the_report_counts_and_says_quantiles(made: Any) -> None:
    found, report, _ = made
    numbers = report.numbers["loss"]
    assert numbers["num_images"] == numbers["num_scored"] == 3 * NUM_PER_CLASS
    assert numbers["quantiles"]["1"] == pytest.approx(float(found["loss"].max()), rel=1e-5)
    assert any(line.startswith("loss: loss of 36 images, median ") for line in report.lines)


def test_images_that_cannot_be_read_have_no_score(own: Path, tmp_path: Path) -> None:
    table = image_table(own / "train")
    given = Inputs(table, own / "train")
    (own / "train" / table.paths[5]).write_bytes(b"\xff\xd8 no picture")
    (own / "train" / table.paths[9]).unlink()
    shutil.copy(own / "train" / table.paths[0], own / "train" / table.paths[20])
    layout = Layout.beside(tmp_path / "labels")
    named = config(
        loss=LOSS,
        helpful={"estimator": "influence", "evaluation": str(own / "val"), "proxy": PROXY},
        forgetting={"estimator": "forgetting", "proxy": PROXY},
    )
    report = stage.run(named, given, layout, NoProgress())
    for name in named.root:
        _, found = scores.read(layout, table, name)
        assert np.flatnonzero(np.isnan(found)).tolist() == [5, 9, 20]
        assert report.numbers[name]["num_scored"] == 33  # type: ignore[index, call-overload]
    assert report.warnings[0].startswith("3 images could not be read and have no score; the first")
    for path in (own / "train").rglob("*.*"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 36 images can be read, such as .*: empty file"):
        stage.run(named, given, Layout.beside(tmp_path / "other/labels"), NoProgress())


def test_large_sets_are_read_again_and_give_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Files.of_table(listed(folder), folder / "train")
    spec = models.build(Loss.model_validate(LOSS).proxy.model, 3, seed=0).spec
    kept, read = Crops(files, spec, **CROPS), Crops(files, spec, **CROPS)
    kept.look(NoProgress(), "images")
    monkeypatch.setattr("stages.score.images.KEPT_BYTES", 0)
    read.look(NoProgress(), "images")
    for one, other in zip(kept.batches(), read.batches(), strict=True):
        assert one.rows.tolist() == other.rows.tolist() and torch.equal(one.pixels, other.pixels)
    assert torch.equal(kept[7][0], read[7][0]) and kept[7][1] == read[7][1]


def test_what_is_complete_is_left_alone_and_old_names_go(folder: Path, tmp_path: Path) -> None:
    layout = Layout.beside(tmp_path / "labels")
    two: dict[str, Any] = {"a": {"estimator": "random"}, "b": {"estimator": "random", "seed": 1}}
    score(folder, tmp_path, **two)
    before = layout.table("scores", "a").stat().st_mtime_ns
    _, report = score(folder, tmp_path, a=two["a"], c={"estimator": "random", "seed": 2})
    assert layout.table("scores", "a").stat().st_mtime_ns == before
    assert any("complete already" in line for line in report.lines if line.startswith("a:"))
    names = {path.name for path in layout.folder("scores").iterdir()}
    assert names == {"a.parquet", "_a.json", "c.parquet", "_c.json", "_manifest.json"}
    assert {entry.stem for entry in entries.read_manifest(layout.manifest("scores"))} == {"a", "c"}


def test_a_killed_run_goes_on_after_what_it_published(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, given = Layout.beside(tmp_path / "labels"), inputs(folder)
    named = config(
        a={"estimator": "random"},
        b=LOSS,
        c={"estimator": "loss", "proxy": {**PROXY, "seed": 1}},
    )
    publish = stage._Making._publish
    published: list[str] = []

    def stop_after_two(self: Any, name: str, found: Any) -> None:
        if len(published) == 2:
            raise KeyboardInterrupt
        published.append(name)
        publish(self, name, found)

    with monkeypatch.context() as patch:
        patch.setattr(stage._Making, "_publish", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            stage.run(named, given, layout, NoProgress())
    whole = {name: layout.table("scores", name).read_bytes() for name in published}
    with pytest.raises(DataError, match=r"_c\.json is missing"):
        scores.find(layout, "c")
    seeds = []

    def watched(proxy: Proxy, *others: Any) -> dict[int, str]:
        seeds.append(proxy.seed)
        return proxies.train(proxy, *others)

    monkeypatch.setattr(stage, "train", watched)
    stage.run(named, given, layout, NoProgress())
    assert seeds == [1]
    assert whole == {name: layout.table("scores", name).read_bytes() for name in published}


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 15},
        {"seed": 1},
        {"scale": [0.4, 1]},
        {"model": {**PROXY["model"], "mean": [0] * 3}},
    ],
)
def test_the_key_has_what_changes_scores_and_nothing_else(
    folder: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    layout = Layout.beside(tmp_path)

    def key(given: Inputs | None = None, **more: Any) -> str:
        named = config(x={"estimator": "loss", "proxy": {**PROXY, **more}})
        return stage.writers(named, given or inputs(folder), layout)["x"].key

    assert key() == key(num_workers=3) != key(**change)
    assert key() != key(inputs(folder, read={"x": {"weights": "other"}}))
    table = listed(folder)
    table.class_ids[0] = 2
    assert key() != key(inputs(folder, images=table))


def test_no_path_stands_in_an_entry(folder: Path, tmp_path: Path) -> None:
    layout, given = Layout.beside(tmp_path), inputs(folder)
    named = config(
        x={"estimator": "influence", "evaluation": str(folder / "val"), "proxy": PROXY},
    )
    assert str(folder) not in str(stage.writers(named, given, layout)["x"].lineage)


def test_the_library_is_asked_for_before_any_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(stage, "train", lambda *_: pytest.fail("trained"))
    named: dict[str, Any] = {
        "a": LOSS,
        "b": {"estimator": "influence", "proxy": PROXY},
    }
    with pytest.raises(ParamsError, match=r"score\.b needs .* pip install 'ferkd-pipeline\[infl"):
        score(folder, tmp_path, **named)


def test_training_that_diverges_is_told(folder: Path, tmp_path: Path) -> None:
    wild = {**PROXY, "optimizer": "sgd", "lr": 1e30, "weight_decay": 0}
    with pytest.raises(ShardError, match="diverged"):
        score(folder, tmp_path, x={"estimator": "loss", "proxy": wild})
    assert not (tmp_path / "labels/scores/x.parquet").exists()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "names no scores"),
        ({"part-00001": {"estimator": "random"}}, "is no name of scores"),
        ({"fit": {"estimator": "random"}}, "is no name of scores"),
        ({"a/b": {"estimator": "random"}}, "is no name of scores"),
        ({"a": {"estimator": "guess"}}, "guess"),
        ({"a": {"estimator": "loss"}}, "proxy"),
        ({"a": {"estimator": "loss", "proxy": {**PROXY, "temperature": 2}}}, "nobody teaches"),
        ({"a": {"estimator": "loss", "proxy": {**PROXY, "eval_every": 2}}}, "eval_every has no"),
        ({"a": {"estimator": "loss", "proxy": {**PROXY, "scale": [0.5, 0.1]}}}, "scale is"),
        ({"a": {"estimator": "influence", "proxy": PROXY, "damping": 0}}, "greater than 0"),
    ],
)
def test_wrong_parameters_are_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        Config.model_validate(section)


def test_core_on_fixed_numbers() -> None:
    """They change with REVISION only."""
    assert stage.REVISION == 1
    fixed = functools.partial(np.testing.assert_allclose, rtol=1e-5)
    logits = np.array([[2, 0, 0], [0, 1, -1], [0.5, 0.5, 0.5]], np.float32)
    targets = np.array([0, 2, 1])
    fixed(core.loss(logits, targets), [0.239545, 2.407606, 1.098612])
    fixed(core.el2n(logits, targets), [0.260888, 1.153465, 0.816497])
    labels = np.exp(core.log_softmax(logits))
    np.testing.assert_allclose(core.disagreement(logits, labels, 1.0), 0, atol=1e-12)
    sharp = np.array([[1, 0, 0], [np.nan] * 3, [0, 0.5, 0.5]])
    fixed(core.disagreement(logits, sharp, 1.0), [0.239545, np.nan, np.log(3 / 2)])
    warm = np.exp(core.log_softmax(logits, 2.0))
    np.testing.assert_allclose(core.disagreement(logits, warm, 2.0), 0, atol=1e-12)
    assert (core.disagreement(logits, warm, 1.0)[:2] > 0.01).all()
    assert core.random_scores(3, 7).round(6).tolist() == [0.14738, 0.884682, 0.149888]
    assert core.middles(12, 3) == (2, 6, 10) and core.middles(1, 4) == (1,)


def test_forgetting_counts_events_and_ranks_the_never_learned_first() -> None:
    counts = core.Forgotten(4)
    rows = np.arange(4)
    for look in ([1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 0, 0], [0, 1, 1, 0]):
        counts.look(rows, np.array(look, dtype=np.bool_))
    assert counts.scores(4).tolist() == [2, 0, 1, 4]


def test_mean_labels_are_those_of_dense_labels() -> None:
    rng = np.random.default_rng(0)
    ids = np.stack([rng.permutation(6)[:2] for _ in range(12)]).astype(np.int32)
    weights, tail = rng.random((12, 2)).astype(np.float32), rng.random(12).astype(np.float32)
    ids[4], weights[4], tail[4] = -1, np.nan, np.nan
    dense = np.repeat(tail[:, None], 6, axis=1).astype(np.float64)
    for row in range(12):
        dense[row, ids[row]] += weights[row]
    dense[4] = np.nan
    found = core.mean_labels(ids, weights, tail, 3, 6)
    np.testing.assert_allclose(found, dense.reshape(4, 3, 6).mean(axis=1))
    assert np.isnan(found).any(axis=1).tolist() == [False, True, False, False]
