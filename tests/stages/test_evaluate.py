"""Sets of every kind that stage evaluate measures on, against counts by hand."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from stages.evaluate import run as evaluate
from stages.evaluate.config import Config
from stages.shared import models
from stages.shared.contract import Json, NoProgress
from stages.shared.model_config import ModelConfig, PixelSpec
from stages.shared.training.evaluation import EvaluationSet, Evaluator
from stages.shared.training.evaluation_sets import is_numbered
from store.errors import DataError
from tests.stages.training_world import CLASS_NAMES, NETWORK, write_images

ALL_NAMES = (*CLASS_NAMES, "yellow")


class Notes(NoProgress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.started: list[tuple[str, int, str]] = []
        self.advanced = 0

    def start(self, label: str, total: int, unit: str) -> None:
        self.started.append((label, total, unit))

    def advance(self, amount: int = 1) -> None:
        self.advanced += amount

    def note(self, message: str) -> None:
        self.notes.append(message)


class Brightest(nn.Module):
    """Says the brightest channel's class of ALL_NAMES, yellow last."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        channels = pixels.mean((2, 3)).flip(1)
        return torch.cat([channels, torch.full((len(pixels), 1), -1e2)], dim=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of four classes; tests that count put `Brightest` in its place."""
    folder = tmp_path_factory.mktemp("model") / "student"
    config = ModelConfig(**NETWORK)
    built = models.build(config, 4, seed=0)
    models.save_model(folder, built.module, models.card_of(config, built.spec, ALL_NAMES))
    return folder


@pytest.fixture
def brightest(monkeypatch: pytest.MonkeyPatch) -> list[PixelSpec]:
    """Replace the network by `Brightest`; what each evaluation was fed is in the list."""
    seen: list[PixelSpec] = []

    class Watched(Evaluator):
        def __init__(self, images: EvaluationSet, spec: PixelSpec, **given: Any) -> None:
            super().__init__(images, spec, **given)
            seen.append(spec)

        def __call__(self, module: nn.Module, *given: Any) -> Any:
            return super().__call__(Brightest(), *given)

    monkeypatch.setattr(evaluate, "Evaluator", Watched)
    return seen


def measure(
    model: Path, tmp_path: Path, progress: NoProgress | None = None, **fields: Any
) -> dict[str, Any]:
    config = Config(**{"device": "cpu", "batch_size": 5, **fields})
    inputs = evaluate.Inputs(
        model,
        {name: Path(folder) for name, folder in config.folders().items()},
        {name: Path(file) for name, file in config.label_files().items()},
    )
    report = evaluate.run(config, inputs, tmp_path / "out", progress or NoProgress())
    found: dict[str, Any] = json.loads((tmp_path / "out/summary.json").read_bytes())
    assert found == report.numbers
    found["lines"] = report.lines
    return found


def by_class(tmp_path: Path, name: str) -> dict[str, tuple[str, str]]:
    with (tmp_path / "out/classes.csv").open(newline="") as file:
        return {
            row["class"]: (row["num_images"], row["top1"])
            for row in csv.DictReader(file)
            if row["set"] == name
        }


@pytest.fixture
def val(tmp_path: Path) -> Path:
    """Three folders of four images, one of them blue in the folder green."""
    write_images(tmp_path / "val", num_per_class=4)
    shutil.copy(tmp_path / "val/blue/0.jpg", tmp_path / "val/green/0.jpg")
    return tmp_path / "val"


def renamed(val: Path, **names: str) -> str:
    for before, after in names.items():
        (val / before).rename(val / after)
    return str(val)


def write_json(path: Path, value: Json) -> str:
    path.write_text(json.dumps(value))
    return str(path)


def test_folders_by_number(val: Path, model: Path, tmp_path: Path, brightest: object) -> None:
    by_name = measure(model, tmp_path, sets={"v": str(val)})
    assert by_name["v"] == {"top1": 0.916667, "top5": 1.0, "num_images": 12}
    classes = by_class(tmp_path, "v")
    assert classes["green"] == ("4", "0.750000")
    folder = renamed(val, blue="0", green="01", red="2")
    notes = Notes()
    numbered = {"v": {"folder": folder, "classes": "numbers"}}
    for sets in (numbered, {"v": folder}, {"v": {"folder": folder}}):
        assert measure(model, tmp_path, notes, sets=sets) == by_name
        assert by_class(tmp_path, "v") == classes
    assert (
        notes.notes
        == ["v: class folders are taken as numbers of classes: 0 is blue, 3 is yellow"] * 2
    )


def test_names_are_names_where_one_fits(val: Path, model: Path, tmp_path: Path) -> None:
    folder = renamed(val, blue="0", green="1")
    with pytest.raises(DataError, match=r"val/0: training knows no class of this name"):
        measure(model, tmp_path, sets={"v": folder})
    renamed(val, red="2")
    with pytest.raises(DataError, match=r"val/0: training knows no class of this name"):
        measure(model, tmp_path, sets={"v": {"folder": folder, "classes": "names"}})


@pytest.mark.parametrize(
    ("red", "message"),
    [
        ("4", r"val/4: not the number of a class of the training, allowed: 0 to 3"),
        ("red", r"val/red: not the number of a class"),
        ("-1", r"val/-1: not the number of a class"),
        ("²", r"not the number of a class"),
        ("01", r"val/1: class 1 has the folder 01 too"),
    ],
)
def test_folders_that_are_no_numbers_are_named(
    val: Path, model: Path, tmp_path: Path, red: str, message: str
) -> None:
    folder = renamed(val, blue="0", green="1", red=red)
    with pytest.raises(DataError, match=message):
        measure(model, tmp_path, sets={"v": {"folder": folder, "classes": "numbers"}})
    assert not (tmp_path / "out").exists()


def test_any_label_of_an_image_is_right(
    val: Path, model: Path, tmp_path: Path, brightest: object
) -> None:
    labels: dict[str, Json] = {
        path.relative_to(val).as_posix(): [3] for path in sorted(val.glob("*/*"))
    }
    labels |= {"blue/0.jpg": [3, 0], "blue/1.png": [], "green/0.jpg": [1, 0], "red/2.jpg": [2]}
    own = {"folder": str(val), "real": write_json(tmp_path / "own.json", labels)}
    notes = Notes()
    found = measure(model, tmp_path, notes, sets={"val": str(val), "own": own})
    assert found["own"] == {"top1": round(3 / 11, 6), "num_images": 11}
    assert found["val"]["num_images"] == 12
    assert found["lines"][1] == (
        "own: top-1 27.3 % (any of an image's labels) of 11 images that have labels"
    )
    assert by_class(tmp_path, "own") == {
        "blue": ("3", "0.333333"),
        "green": ("4", "0.250000"),
        "red": ("4", "0.250000"),
        "yellow": ("0", ""),
    }
    assert notes.started == [("evaluate val", 12, "images"), ("evaluate own", 11, "images")]
    assert notes.advanced == 23


@pytest.mark.parametrize("num_workers", [0, 1])
def test_labels_stay_with_their_images(val: Path, num_workers: int) -> None:
    """However a set is cut into batches, and however many labels its images have."""
    paths = tuple(sorted(map(str, val.glob("*/*"))))
    labels = tuple((3, 1, 0, 2)[: 1 + place % 4] for place in range(12))
    ids = (0,) * 4 + (1,) * 4 + (2,) * 4
    spec = models.build(ModelConfig(**NETWORK), 4, seed=0).spec
    predicted = (0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2)
    for batch_size in (1, 5, 12):
        found = Evaluator(
            EvaluationSet("own", paths, ids, 4, labels),
            spec,
            batch_size=batch_size,
            num_workers=num_workers,
        )(Brightest(), torch.device("cpu"))
        hits = [one in each for one, each in zip(predicted, labels, strict=True)]
        assert found.top1 == sum(hits) / 12
        assert found.class_correct == tuple(
            sum(hit for hit, own in zip(hits, ids, strict=True) if own == class_id)
            for class_id in range(4)
        )
        assert found.top5 == 1.0  # of four classes


def test_a_set_has_its_own_size_and_crop(
    val: Path, model: Path, tmp_path: Path, brightest: list[PixelSpec]
) -> None:
    own = {"folder": str(val), "input_size": 12, "crop_ratio": 1.0}
    part = {"folder": str(val), "crop_ratio": 0.7}
    measure(model, tmp_path, sets={"a": str(val), "b": own, "c": part}, input_size=(20, 18))
    usual = models.load_card(model).pixels.crop_ratio
    assert [(spec.size, spec.crop_ratio) for spec in brightest] == [
        ((20, 18), usual),
        ((12, 12), 1.0),
        ((20, 18), 0.7),
    ]


def test_a_list_of_imagenets_size(tmp_path: Path, brightest: object) -> None:
    """A thousand class folders of one image each, numbered across classes as ImageNet's are."""
    names = tuple(f"n{number:08d}" for number in range(1000))
    config = ModelConfig(**NETWORK)
    built = models.build(config, 1000, seed=0)
    card = models.card_of(config, built.spec, names)
    models.save_model(tmp_path / "model", built.module, card)
    blank = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    for class_id, name in enumerate(names):
        (tmp_path / "val" / name).mkdir(parents=True)
        number = class_id * 7 % 1000 + 1  # 7 and 1000 have no common factor
        blank.save(tmp_path / "val" / name / f"ILSVRC2012_val_{number:08d}.png")
    entries: list[Json] = [[] for _ in names]
    for class_id in range(1000):
        entries[class_id * 7 % 1000] = [class_id, 0] if class_id % 10 else []
    real = {"folder": str(tmp_path / "val"), "real": write_json(tmp_path / "real.json", entries)}
    found = measure(tmp_path / "model", tmp_path, sets={"real": real}, batch_size=256)
    assert found["real"] == {"top1": 1.0, "num_images": 900}  # black is class 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"own\.json: this file of labels cannot be read \(No such file"),
        ("{", r"own\.json: not JSON of labels \("),
        ("\udcff", r"own\.json: not JSON of labels \("),
        ("[" * 100_000, r"own\.json: not JSON of labels \(nested too deeply\)"),
        ('{"0.jpg": [1], "0.jpg": [2]}', r"own\.json: .*'0\.jpg' stands twice"),
        ("{}", r"own\.json: has no entry for blue/0\.jpg"),
        ("[]", r"own\.json: a list stands for ImageNet's 1000 classes"),
        ("7", r"own\.json: holds 7, needed"),
    ],
)
def test_a_bad_file_of_labels_is_told(
    val: Path, model: Path, tmp_path: Path, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / "own.json").write_bytes(text.encode(errors="surrogateescape"))
    own = {"folder": str(val), "real": str(tmp_path / "own.json")}
    with pytest.raises(DataError, match=message) as caught:
        measure(model, tmp_path, sets={"val": str(val), "own": own})
    assert "\n" not in str(caught.value)


def test_a_set_without_labels_is_told(val: Path, model: Path, tmp_path: Path) -> None:
    labels: Json = {path.relative_to(val).as_posix(): [] for path in val.glob("*/*")}
    own = {"folder": str(val), "real": write_json(tmp_path / "own.json", labels)}
    with pytest.raises(DataError, match=r"own\.json: no image has a label"):
        measure(model, tmp_path, sets={"own": own})


def test_what_is_read_is_listed() -> None:
    config = Config(sets={"a": "x", "b": {"folder": "y", "real": "z"}, "c": {"folder": "x"}})
    assert config.folders() == {"a": "x", "b": "y", "c": "x"}
    assert config.label_files() == {"b": "z"}
    assert [each.classes for each in config.image_sets().values()] == ["auto"] * 3


def test_a_folder_alone_is_kept_as_it_was_written() -> None:
    """Else every project would be measured anew: this is what the stage's key is made from."""
    assert Config(sets={"val": "a"}, num_workers=3).model_dump(mode="json") == {
        "sets": {"val": "a"},
        "input_size": None,
        "crop_ratio": None,
        "batch_size": 256,
        "num_workers": 3,
        "device": "auto",
    }


@pytest.mark.parametrize(
    ("folders", "classes", "expected"),
    [
        (("0", "2"), ("ant", "bee", "cat"), True),
        (("0", "3"), ("ant", "bee", "cat"), False),
        (("0", "bug"), ("ant", "bee", "cat"), False),
        (("0", "bee"), ("ant", "bee", "cat"), False),
        (("0", "1"), ("0", "1", "10", "2"), False),  # names that happen to be numbers
        (("0", "3"), ("0", "1", "10", "2"), False),
    ],
)
def test_numbers_are_told_from_names(
    tmp_path: Path, folders: tuple[str, ...], classes: tuple[str, ...], expected: bool
) -> None:
    for name in folders:
        (tmp_path / name).mkdir()
    assert is_numbered(tmp_path, classes) is expected
