"""Every recipe: it is valid, its networks exist, its settings train, and `init` takes it.

Shapes: C classes of the small world (3), or D outputs of a projection head.
"""

import dataclasses
import functools
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from numpy.typing import NDArray
from torch import nn

from ferkd_pipeline import cli, params, recipes, scaffold, stage_table
from ferkd_pipeline.commands.root import root
from ferkd_pipeline.own_code import networks
from stages.linear.config import Config as LinearConfig
from stages.score.config import Config as ScoreConfig
from stages.shared import models
from stages.shared.contract import NoProgress
from stages.shared.fresh_crops import fresh_crops
from stages.shared.model_config import ModelConfig
from stages.shared.model_sources import create, find_builder
from stages.shared.pixel_spec import builder_kwargs, pixel_spec
from stages.shared.training.batches import CropSource, StoredCrops
from stages.shared.training.checks import check_loss, check_temperature
from stages.shared.training.config import LearnerConfig, TrainingConfig
from stages.shared.training.fit import fit
from stages.shared.training.online_teacher import OnlineTeacher
from stages.shared.weights import weights_digest
from store.batch import LabelBatch
from store.codecs import Kind, LabelSpec
from store.images import ImageTable
from store.view.reader import ViewMeta
from tests.stages.training_world import FakeView, image_table, write_images

NAMES = recipes.names()

# What DESIGN's recipes fix: epochs, batch, m, optimizer, lr, weight decay.
FIXED: dict[str, tuple[float, int, int, str, float, float]] = {
    "fkd_resnet50": (300, 1024, 4, "momentum", 0.1, 1e-4),
    "fkd_resnet101": (300, 1024, 4, "momentum", 0.1, 1e-4),
    "fkd_vit_tiny": (300, 1024, 4, "adamw", 2e-3, 0.05),
    "fkd_sret_lt": (300, 1024, 4, "adamw", 2e-3, 0.05),
    "fkd_resnet50_adamw": (300, 1024, 4, "adamw", 2e-3, 0.05),
    "ferkd_resnet50": (300, 1024, 4, "adamw", 2e-3, 0.05),
    "ferkd_vit_small": (300, 1024, 4, "adamw", 2e-3, 0.05),
    "ferkd_finetune_vit_g14": (15, 512, 2, "adamw", 3e-5, 0.05),
    "ferkd_finetune_regy128": (15, 512, 2, "adamw", 3e-5, 0.05),
    "fast_meal_v2": (200, 512, 8, "momentum", 0.01, 0),
}

OTHERS = {"quick", "label_revision_cifar100", "fkd_selfsup", "online_kd"}
"""Recipes whose optimizer no paper fixes, or another than FKD's and FerKD's."""

SHRUNK: dict[str, dict[str, Any]] = {
    "resnet50": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]},
    "resnet101": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]},
    "resnet18": {"layers": [1, 1, 1, 0], "channels": [8, 8, 16, 16]},
    "resnet10t": {},
    "mobilenetv3_small_050": {},
    "deit_tiny_patch16_224": {"embed_dim": 32, "depth": 2, "num_heads": 2},
    "deit_small_patch16_224": {"embed_dim": 32, "depth": 2, "num_heads": 2},
    "eva_giant_patch14_336": {"embed_dim": 32, "depth": 2, "num_heads": 2},
    # The widths of RegNetY-200MF: the family's rule must come to four stages.
    "regnety_1280": {"depth": 13, "w0": 24, "wa": 36.44, "wm": 2.49, "group_size": 8},
    "resnetv2_50x1_bit": {},  # takes no other width or depth
    "resnetv2_152x2_bit": {},  # a teacher; replaced by a student's network, see `small`
}
"""Arguments that make a network of the same family small."""

OWN = """
from torch import nn

def small(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3, 4), nn.BatchNorm2d(4), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))
"""
"""Stands for networks that users bring themselves (SReT, MoCo v2)."""

OWN_NAMES = {"SReT": "SReT_LT", "moco": "moco_v2"}


@pytest.fixture(scope="module", autouse=True)
def own_networks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The modules that recipes name, with a small network in each."""
    folder = tmp_path_factory.mktemp("own")
    for module, function in OWN_NAMES.items():
        (folder / f"{module}.py").write_text(f"{OWN}\n{function} = small\n")
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    for module in OWN_NAMES:
        sys.modules.pop(module, None)


@functools.cache
def values_of(name: str) -> params.Params:
    return params.check(Path(name), yaml.safe_load(recipes.fill(name, "images", "val")))


def section(name: str, stage: str) -> Any:
    return values_of(name).section(stage)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_valid_and_says_what_it_is(name: str) -> None:
    assert {"index", "train"} <= set(values_of(name).sections)
    text = recipes.fill(name, "images", "val")
    lines = text.split("store:")[0].splitlines()
    header = " ".join(line.removeprefix("#").strip() for line in lines)
    assert f"ferkd-pipeline init DIR --recipe {name} " in header
    assert "Time:" in header
    if name != "quick":
        assert "Expected:" in header
        assert "not yet run with this tool" in header


@pytest.mark.parametrize("name", sorted(FIXED))
def test_its_numbers_are_those_of_its_paper(name: str) -> None:
    train = section(name, "train")
    found = (
        train.epochs,
        train.batch_size,
        train.crops_per_image,
        train.optimizer,
        train.lr,
        train.weight_decay,
    )
    assert found == FIXED[name]


def test_no_recipe_is_forgotten() -> None:
    assert set(NAMES) == FIXED.keys() | OTHERS


def test_what_sets_recipes_apart() -> None:
    tuned = section("ferkd_finetune_vit_g14", "train")
    assert tuned.model.model_kwargs == {"drop_path_rate": 0.4}
    other = section("ferkd_finetune_regy128", "train")
    for each in (tuned, other):
        assert (each.layer_decay, each.ema_decay, each.warmup_epochs) == (0.95, 0.9999, 2)
        assert (each.mix, each.cutmix_alpha, each.augment) == (
            "selfmix",
            1.0,
            "rand-m9-mstd0.5-inc1",
        )
        assert each.model.input_size == (336, 336)
        assert each.model.crop_ratio == 1.0
    small = section("ferkd_vit_small", "train")
    assert (small.mix, small.mixup_alpha, small.cutmix_alpha) == ("mixup_cutmix", 0.8, 1.0)
    meal = section("fast_meal_v2", "train")
    assert [share * meal.epochs for share in meal.decay_at] == [100, 180]
    assert len(section("fast_meal_v2", "infer").members) == 2
    revise, select = section("label_revision_cifar100", "calibrate").root["revision"]
    assert (revise.eta, select.share) == (0.8, 0.8)
    for stage in ("sample", "teacher"):
        crops = section("label_revision_cifar100", stage)
        assert (crops.kind, crops.size, crops.padding) == ("random_crop", 32, 4)
    for name in ("fkd_vit_tiny", "fkd_resnet50_adamw", "ferkd_vit_small"):
        assert section(name, "train").model.model_kwargs == {"drop_path_rate": 0.1}
    efficient = [name for name in NAMES if "fkd_" in name and name != "fkd_selfsup"]
    for name in [*efficient, "ferkd_resnet50"]:
        assert section(name, "sample").scale == (0.08, 0.936)
        assert section(name, "infer").teacher.name == "tf_efficientnet_l2.ns_jft_in1k_475"


@functools.cache
def at_full_size(text: str, num_outputs: int) -> nn.Module:
    """Build a network without memory for its weights."""
    config = ModelConfig.model_validate_json(text)
    with torch.device("meta"):
        return create(config, find_builder(config), num_outputs, builder_kwargs(config))


@pytest.mark.parametrize("name", NAMES)
def test_its_networks_can_be_built_at_full_size(name: str) -> None:
    for stage, value in values_of(name).sections.items():
        for config in networks(value):
            fields = config.model_dump(include=set(ModelConfig.model_fields))
            module = at_full_size(ModelConfig(**fields).model_dump_json(), 1000)
            assert all(part.is_meta for part in module.parameters()), (stage, config.name)
            spec = pixel_spec(config, module, None)
            assert config.input_size in (None, spec.size)
            if config.pretrained:
                assert config.name in timm.list_pretrained(config.name)
                listed = timm.get_pretrained_cfg(config.name)
                assert listed is not None
                assert listed.num_classes == 1000


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ImageTable]:
    folder = tmp_path_factory.mktemp("images")
    write_images(folder, num_per_class=6)
    return folder, image_table(folder)


@dataclasses.dataclass(frozen=True)
class RecipeView(FakeView):
    """The small world with labels of the kind that a recipe stores."""

    kind: Kind = "marginal_smoothing"
    num_outputs: int | None = None

    @property
    def num_classes(self) -> int:
        return self.num_outputs or self.images.num_classes

    @property
    def meta(self) -> ViewMeta:
        meta = super().meta
        label = LabelSpec(self.kind, 2, self.num_classes, "float16", self.temperature)
        return dataclasses.replace(meta, label=label)

    def gather(self, rows: NDArray[np.int64], crops: NDArray[np.int64]) -> LabelBatch:
        batch = super().gather(rows, crops)
        if self.kind not in ("full", "logits"):
            return batch
        dense = np.random.default_rng(0).random((*crops.shape, self.num_classes), np.float32)
        return dataclasses.replace(
            batch,
            class_ids=batch.class_ids[..., :0],
            weights=batch.weights[..., :0],
            tail=np.zeros_like(batch.tail),
            dense=dense / dense.sum(-1, keepdims=True),
        )


def small(config: ModelConfig) -> ModelConfig:
    """The same family at 32 px (28 for patches of 14), random weights, all other arguments kept."""
    name = config.name.split(".")[0]
    side = 28 if "patch14" in name else 32
    if config.library == "own":
        return ModelConfig(name=config.name, input_size=(side, side))
    name = name.replace("152x2", "50x1")
    kept = {**config.model_kwargs, **SHRUNK[name]}
    return ModelConfig(name=name, model_kwargs=kept, input_size=(side, side))


def short(config: Any) -> Any:
    """Two steps of two images; optimizer, schedule, mixing, loss and all else as they are."""
    m = config.crops_per_image
    return config.model_copy(
        update={
            "model": small(config.model),
            "batch_size": 2 * m,
            "accumulate": min(2, config.accumulate),
            "steps": 2,
            "epochs": None,
            "eval_every": None,
            "num_workers": 0,
            "device": "cpu",
            "precision": "float32",
            "checkpoint_minutes": None,
        }
    )


def trainings(name: str) -> Iterator[tuple[str, Any]]:
    """All configs of a recipe by which a network is trained, shortened."""
    for stage, value in values_of(name).sections.items():
        if isinstance(value, LearnerConfig):
            yield stage, short(value)
        elif isinstance(value, LinearConfig):
            yield stage, short(value.with_model(section(name, "train").model))
        elif isinstance(value, ScoreConfig):
            for each in value.root.values():
                if isinstance(proxy := getattr(each, "proxy", None), TrainingConfig):
                    yield stage, short(proxy)


def source_of(name: str, stage: str, config: Any, images: tuple[Path, ImageTable]) -> CropSource:
    folder, table = images
    crops = {"teacher": config, "score": config, "train": getattr(config, "crops", None)}
    fresh = section(name, stage) if stage == "linear" else crops[stage]
    if fresh is not None:
        return fresh_crops(fresh, config, table, folder)
    stored = section(name, "compress")
    outputs = 4 if stored.kind == "logits" else None
    view = RecipeView(
        folder,
        table,
        calibration=config.calibration,
        temperature=stored.temperature,
        kind=stored.kind,
        num_outputs=outputs,
    )
    check_temperature(config, view)
    check_loss(config, view)
    return StoredCrops(view, config.seed)


@pytest.mark.parametrize("name", NAMES)
def test_its_settings_train(name: str, images: tuple[Path, ImageTable]) -> None:
    found = list(trainings(name))
    assert found
    for stage, config in found:
        source = source_of(name, stage, config, images)
        online = getattr(config, "online_teacher", None)
        teacher = None
        if online is not None:
            teacher = OnlineTeacher(models.build(small(online), source.num_classes, seed=1))
        model = models.build(config.model, source.num_classes, seed=config.seed)
        history = fit(
            model.module,
            model.spec,
            source,
            config,
            progress=NoProgress(),
            label=stage,
            teacher=teacher,
            classifier_only=stage == "linear",
        )
        assert len(history.losses) == 2, stage
        assert all(map(math.isfinite, history.losses)), stage
        assert weights_digest(model.module) != model.digest, stage


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with class folders; DVC, which takes seconds, is not set up."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scaffold, "set_up_dvc", lambda folder: [])
    for split in ("train", "val"):
        (tmp_path / "photos" / split / "cat").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_init_makes_a_project_of_it(name: str, here: Path) -> None:
    folders = ["--images", "photos/train", "--val", "photos/val"]
    assert cli.main(["init", "mine", "--recipe", name, *folders]) == 0
    values = params.load(here / "mine/params.yaml")
    stages = yaml.safe_load((here / "mine/dvc.yaml").read_text())["stages"]
    expected = [each for each in stage_table.STAGE_NAMES if each in values.sections]
    assert list(stages) == [*expected, "report"]
    assert stages["index"]["deps"] == ["../photos/train"]
    made = {out for stage in stages.values() for out in _outputs(stage)}
    for stage in stages.values():
        for dep in stage.get("deps", []):
            assert dep in made or not dep.startswith(("labels/", "models/", "metrics/")), dep
    assert made & set(stages["train"]["deps"]), "train waits for what it learns from"


def _outputs(stage: dict[str, Any]) -> Iterator[str]:
    for out in (each for kind in ("outs", "metrics", "plots") for each in stage.get(kind, [])):
        yield next(iter(out)) if isinstance(out, dict) else out


PAGE = Path(__file__).parents[2] / "docs/training.md"


def test_the_page_on_training_shows_valid_params() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(blocks) > 5
    base = yaml.safe_load(recipes.fill("ferkd_resnet50", "images", "val"))
    for block in blocks:
        raw = {stage: {**base.get(stage, {}), **value} for stage, value in _parsed(block).items()}
        params.check(Path(f"{PAGE.name}: {block}"), raw)


def _parsed(block: str) -> dict[str, Any]:
    found = yaml.safe_load(block)
    assert isinstance(found, dict)
    return found


def test_the_page_on_training_names_commands_and_recipes_that_exist() -> None:
    text = PAGE.read_text(encoding="utf-8")
    commands = set(root.commands)
    for command in re.findall(r"ferkd[-_]pipeline ([a-z]+)", text):
        assert command in commands, command
    for stage in re.findall(r"ferkd[-_]pipeline stage ([a-z]+)", text):
        assert stage in stage_table.STAGE_NAMES, stage
    for recipe in re.findall(r"\bf(?:er)?kd_[a-z][a-z0-9_]*\b", text):
        assert recipe in (*NAMES, "ferkd_share", "ferkd_pipeline"), recipe
    for name in NAMES:
        assert f"`{name}`" in text, name
    for link in re.findall(r"\]\(([a-z/_.0-9-]+\.md)", text):
        assert (PAGE.parent / link).is_file(), link
