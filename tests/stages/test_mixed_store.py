"""Recorded mixing through the whole store: drawn, labelled after mixing, verified, and replayed."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from stages.infer.clock import NoClock
from stages.infer.config import Config
from stages.infer.core import crop_keys
from stages.infer.device_crops import DeviceCrops
from stages.infer.feed import CropFeed, CropList, Crops, pixel_key
from stages.infer.inputs import open_inputs
from stages.infer.mixed import Mixed
from stages.shared.contract import NoProgress
from stages.shared.model_card import find_card
from stages.shared.models import load_model
from stages.shared.pixels import crop_resize, normalise
from stages.shared.recorded import replay
from stages.shared.training.batches import StepPlan, StoredCrops
from stages.shared.training.loader import StepBatches
from stages.shared.training.loss import distillation_loss
from stages.shared.training.passes import Passes
from store import images, mixing, tables
from store.batch import RecordedMix, RecordedOps
from store.check import verify
from store.errors import DataError, ParamsError, ShardError
from store.inspection.info import info
from store.inspection.row_difference import compare_rows
from store.layout import part_name
from store.mixing import MixKind
from store.parts import PartWriter
from store.view.build import plan_view
from store.view.reader import TrainingView
from tests.world import (
    NETWORK,
    NUM_CROPS,
    NUM_IMAGES,
    Project,
    copy_project,
    forget_predictions,
    merged,
    write_images,
)

MIX: dict[str, Any] = {
    "sample": {
        "mix": {"probability": 0.8, "crops_per_partner": 2},
        "augment": {"colour_jitter": {"brightness": 0.5, "probability": 0.5}},
    },
    "calibrate": {
        "ferkd": None,
        "shares": None,
        "drops": [{"step": "ferkd", "preset": "custom", "drop_below": 0.3}],
    },
}
STAGES = ("sample", "infer", "compress", "calibrate")


@pytest.fixture(scope="module")
def prepared(made: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny project with mixing, made out of the one without. Nobody changes it."""
    project = copy_project(made, tmp_path_factory.mktemp("mixed"))
    with contextlib.chdir(project.folder):
        project.run(*STAGES, **MIX)
    return project


@pytest.fixture
def mixed(prepared: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """The project itself, as the current folder, to look at."""
    monkeypatch.chdir(prepared.folder)
    yield prepared


@pytest.fixture
def changed(prepared: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of it, as the current folder, to change."""
    copied = copy_project(prepared, tmp_path / "changed")
    monkeypatch.chdir(copied.folder)
    return copied


def crops_of(project: Project, num_shards: int = 3) -> pa.Table:
    """What pandas would see, of all shards."""
    files = [project.layout.table("crops", part_name(shard)) for shard in range(num_shards)]
    return pa.concat_tables([pq.read_table(file) for file in files])


def recorded(project: Project, num_shards: int = 3) -> RecordedMix:
    """(N, M)."""
    table = crops_of(project, num_shards)
    columns = {name: tables.column(table, name) for name in mixing.column_names()}
    return mixing.from_columns(columns).reshape(NUM_IMAGES, -1)


def decoded(path: str) -> NDArray[np.uint8]:
    with Image.open(Path("images") / path) as image:
        return np.array(image.convert("RGB"))


def by_hand(project: Project, size: tuple[int, int], interpolation: Any) -> NDArray[np.uint8]:
    """Pixels (N, M, h, w, 3) of every crop, from the columns and docs/format.md alone."""
    rows = crops_of(project).to_pylist()
    paths = images.load(project.layout).paths
    found = []
    for row in rows:
        box = [[row[name] for name in ("top", "left", "height", "width")]]
        how = (size, interpolation)
        crop = crop_resize(decoded(paths[row["image_id"]]), box, [row["flip"]], *how)[0]
        pixels = crop.permute(1, 2, 0).numpy().copy()
        if row["mix"]:
            partner = ("partner_top", "partner_left", "partner_height", "partner_width")
            image = decoded(paths[row["partner_id"]])
            box, flip = [[row[name] for name in partner]], [row["partner_flip"]]
            other = crop_resize(image, box, flip, *how)[0].permute(1, 2, 0).numpy()
        if row["mix"] == 1:
            blend = row["share"] * pixels.astype(np.float64) + (1 - row["share"]) * other
            pixels = np.floor(blend + 0.5).astype(np.uint8)
        elif row["mix"] == 2:
            edges = [
                [int(edge * side / 256 + 0.5) for edge in (row[start], row[start] + row[extent])]
                for start, extent, side in (
                    ("cut_top", "cut_height", size[0]),
                    ("cut_left", "cut_width", size[1]),
                )
            ]
            cut = tuple(slice(*each) for each in edges)
            pixels[cut] = other[cut]
        names = [name for name in row if name.startswith("op_")]
        ops = RecordedOps(
            np.array([[row[name] for name in names]], np.uint8),
            np.array([[row[name.replace("op", "level")] for name in names]], np.float32),
        )
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        found.append(replay(tensor, ops)[0].permute(1, 2, 0).numpy())
    return np.stack(found).reshape(NUM_IMAGES, NUM_CROPS, *size, 3)


def test_columns_stand_behind_the_others(mixed: Project) -> None:
    names = crops_of(mixed).column_names
    assert names[-len(mixing.column_names()) :] == mixing.column_names()
    assert mixed.entry("crops", 1).attributes["has_mix"] is True
    mix = recorded(mixed)
    assert {0, 1, 2} == set(np.unique(mix.kinds).tolist())
    shards = np.digitize(mix.partner_ids[mix.kinds > 0], [8, 16])
    assert set(shards.tolist()) == {0, 1, 2}
    head = info(Path("labels"))
    shares = [(mix.kinds == kind).mean() for kind in (MixKind.MIXUP, MixKind.CUTMIX)]
    assert list(head["mixed"].values()) == [pytest.approx(share, abs=1e-4) for share in shares]
    assert verify.verify(mixed.layout.root, NoProgress(), deep=True).damages == []


def test_without_it_not_a_byte_changes(own: Project) -> None:
    before = own.tree("labels/crops")
    assert own.why("sample", sample={"mix": None}) == ["complete"] * 3
    plain = crops_of(own)
    own.run("sample", sample={"mix": {}})
    found = crops_of(own).select(plain.column_names)
    assert found.replace_schema_metadata() == plain.replace_schema_metadata()
    own.run("sample")
    assert own.tree("labels/crops") == before
    assert "has_mix" not in own.entry("crops", 0).attributes
    assert "partners" not in own.entry("crops", 0).lineage["inputs"]


def test_a_label_is_what_the_teacher_says_of_the_mixture(mixed: Project) -> None:
    card = find_card(Path("models/teacher"))
    assert card is not None
    teacher = load_model(Path("models/teacher"))
    spec = teacher.spec
    pixels = by_hand(mixed, spec.size, spec.interpolation)
    flat = torch.from_numpy(pixels.reshape(-1, *pixels.shape[2:])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        inputs = normalise(flat, spec.mean, spec.std).contiguous(memory_format=torch.channels_last)
        said = teacher.module.eval()(inputs).log_softmax(1).numpy()
    found = mixed.predictions()["logp"].astype(np.float32).reshape(said.shape)
    np.testing.assert_allclose(found, said, atol=2e-3, rtol=2e-3)


def feed_of(project: Project, values: dict[str, Any], shard: int) -> CropFeed:
    """What decodes a shard's images, for crops to be cut out on a device."""
    config = project.params(**values).typed("infer", Config)
    inputs = open_inputs(config, project.source(**values))(shard)
    crops = Crops(*inputs.read_crops())
    keys = [pixel_key(teacher.model.spec) for teacher in inputs.teachers]
    folder, images_of = inputs.images_folder, inputs.images
    clock = NoClock()
    return CropFeed(folder, images_of, crops, keys, 12, num_workers=2, whole=True, clock=clock)


def test_infer_cuts_the_same_pixels_out_on_a_device(mixed: Project) -> None:
    spec = load_model(Path("models/teacher")).spec
    feed, key = feed_of(mixed, MIX, shard=1), pixel_key(spec)
    crops = feed._crops
    rows = np.argwhere(np.ones_like(crops.flips))
    maker = DeviceCrops(crops, [key], 12, torch.device("cpu"), NoClock())
    batches = feed.batches([CropList(0, rows)])
    pixels = torch.cat([maker.make(each)[key][: len(each.rows)] for each in batches])
    wanted = by_hand(mixed, spec.size, spec.interpolation)[8:16].reshape(-1, *spec.size, 3)
    assert crops.ops is not None
    alike = ~crops.ops.codes.any(axis=2).reshape(-1)
    found = pixels.permute(0, 2, 3, 1).numpy()
    assert np.abs(found[alike].astype(int) - wanted[alike]).max() <= 3
    assert crops.mixed is not None
    table, mix = images.load(mixed.layout), crops.mixed.mix
    for image, crop in rows[::3]:
        share, partner = mix.shares[image, crop], mix.partner_ids[image, crop]
        main = partner if share < 0.5 else 8 + image
        assert crops.mixed.main_classes(0, 8)[image, crop] == table.class_ids[main]


@pytest.mark.parametrize("resize", ["cpu", "device"])
def test_training_sees_the_same_pixels(mixed: Project, resize: Any) -> None:
    view = plan_view(mixed.layout, 3, Path("images")).open()
    spec = load_model(Path("models/teacher")).spec
    expected = by_hand(mixed, spec.size, spec.interpolation)
    source = StoredCrops(view, seed=4)
    plan = StepPlan(Passes.equal(view.num_images, 20, 2, 10), 4)
    batches = StepBatches(source, plan, spec, resize=resize)
    seen = 0
    for step in range(4):
        batch = batches.make(step).to(torch.device("cpu"))
        places = [
            (row, crop)
            for turn, rows in plan.rows(step)
            for row, crops in zip(rows, view.draw(rows, turn.first, turn.m, 4), strict=True)
            for crop in crops
        ]
        wanted = np.stack([expected[view.image_ids[row], crop] for row, crop in places])
        found = batch.pixels.permute(0, 2, 3, 1).numpy()
        if resize == "cpu":
            np.testing.assert_array_equal(found, wanted)
        else:
            ops = recorded_ops(view, places)
            assert np.abs(found[~ops].astype(int) - wanted[~ops]).max() <= 3
        seen += len(places)
        kinds = [int(recorded(mixed).kinds[view.image_ids[row], crop]) for row, crop in places]
        assert {1, 2} <= set(kinds)
    assert seen == 80


def recorded_ops(view: TrainingView, places: list[tuple[int, int]]) -> NDArray[np.bool_]:
    """Which of these crops an operation changes: it may widen a difference of a level."""
    rows, crops = (np.array(each) for each in zip(*places, strict=True))
    ops = view.fetch(rows, crops[:, None]).ops
    assert ops is not None
    return np.asarray(ops.codes.any(axis=(1, 2)))


def test_the_view_has_the_columns_of_the_file(mixed: Project) -> None:
    view = plan_view(mixed.layout, 3, Path("images"), "drops").open()
    table, mix = images.load(mixed.layout), recorded(mixed)
    rows = np.array([2, 0, view.num_images - 1])
    crops = view.draw(rows, 1, 3, seed=1)
    ids = view.image_ids[rows][:, None]
    for found in (view.gather(rows, crops), view.fetch(rows, crops)):
        assert found.mix is not None
        for name in RecordedMix.__slots__:
            wanted = getattr(mix, name)[ids, crops]
            np.testing.assert_array_equal(getattr(found.mix, name), wanted, name)
    partners = mix.partner_ids[ids, crops]
    classes = np.where(partners >= 0, table.class_ids[partners], table.class_ids[ids])
    np.testing.assert_array_equal(view.gather(rows, crops).partner_targets, classes)
    assert view.stored is not None
    files = view.stored.files(np.array([24, 0, 7]))
    assert files.paths == [f"{Path('images').absolute()}/{table.paths[i]}" for i in (24, 0, 7)]
    assert files.heights.tolist() == table.heights[[24, 0, 7]].tolist()
    hashes = [f"{high:016x}{low:016x}" for high, low in files.content_hashes.tolist()]
    assert hashes == table.content_hashes[[24, 0, 7]].tolist()


def test_the_ground_truth_is_of_both_images(mixed: Project) -> None:
    view = plan_view(mixed.layout, 3, Path("images")).open()
    mix, table = recorded(mixed), images.load(mixed.layout)
    plan = StepPlan(Passes.equal(view.num_images, 20, 2, 10), 4)
    spec = load_model(Path("models/teacher")).spec
    truth = StepBatches(StoredCrops(view, 4, "truth"), plan, spec)
    labels = truth.make(0).labels.expand(5).numpy()
    ((turn, rows),) = plan.rows(0)
    crops = view.draw(rows, turn.first, turn.m, 4)
    place = 0
    for row, own in zip(rows, crops, strict=True):
        for crop in own:
            image = view.image_ids[row]
            share, partner = mix.shares[image, crop], mix.partner_ids[image, crop]
            wanted = np.zeros(5)
            wanted[table.class_ids[image]] += share
            wanted[table.class_ids[partner]] += 1 - share
            np.testing.assert_allclose(labels[place], wanted, atol=1e-6)
            place += 1
    soft = StepBatches(StoredCrops(view, 4), plan, spec).make(0).labels
    assert not torch.equal(soft.expand(5), truth.make(0).labels.expand(5))
    logits = torch.randn(len(labels), 5, generator=torch.Generator().manual_seed(0))
    wanted_loss = -(torch.from_numpy(labels) * logits.double().log_softmax(1)).sum(1).mean()
    found = distillation_loss(logits, soft, truth_weight=1.0)
    assert float(found) == pytest.approx(float(wanted_loss), rel=1e-5)
    part = distillation_loss(logits[5:9], soft.cut(5, 9), truth_weight=1.0)
    own = -(torch.from_numpy(labels[5:9]) * logits[5:9].double().log_softmax(1)).sum(1).mean()
    assert float(part) == pytest.approx(float(own), rel=1e-5)


@pytest.mark.parametrize("num_shards", [1, 7])
def test_shards_move_nothing(changed: Project, num_shards: int) -> None:
    before, said = recorded(changed), changed.predictions()
    forget_predictions()
    store = {"store": {"num_shards": num_shards}}
    changed.run("sample", "infer", **merged(MIX, store))
    for name in RecordedMix.__slots__:
        found = getattr(recorded(changed, num_shards), name)
        np.testing.assert_array_equal(found, getattr(before, name))
    for name, values in changed.predictions(num_shards).items():
        np.testing.assert_array_equal(values, said[name], name)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many crops are forwarded, run by run."""
    from stages.infer.forward import Labeller

    true_launch, found = Labeller._launch, [0]

    def launch(self: Labeller, batch: Any) -> Any:
        found[0] += len(batch.rows)
        return true_launch(self, batch)

    monkeypatch.setattr(Labeller, "_launch", launch)
    return found


def test_a_partner_that_changes_costs_its_crops_alone(
    changed: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every shard that shows it, and in no other."""
    mix, ids = recorded(changed), np.arange(NUM_IMAGES)
    counts = [
        len(set(np.digitize(np.flatnonzero((mix.partner_ids == i).any(axis=1)), [8, 16]).tolist()))
        for i in ids
    ]
    image = int(np.argmin([count if count > 1 else 9 for count in counts]))
    shows = (mix.partner_ids == image).any(axis=1)
    path = Path("images") / str(images.load(changed.layout).paths[image])
    with Image.open(path) as shown:
        turned = shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turned.save(path)
    changed.run("index", "sample", **MIX)
    outdated = {np.digitize(i, [8, 16]).item() for i in [*ids[shows], image]}
    why = changed.why("infer", **MIX)
    assert [each != "complete" for each in why] == [shard in outdated for shard in range(3)]
    view_error = pytest.raises(DataError, match="run `ferkd-pipeline stage infer")
    with view_error:
        plan_view(changed.layout, 3, Path("images")).open()
    kinds = [each.kind for each in verify.verify(changed.layout.root, NoProgress()).damages]
    others = outdated - {np.digitize(image, [8, 16]).item()}
    assert kinds.count("mixed with other images") == len(others) > 0
    for shard in others:
        with pytest.raises(
            DataError, match=rf"_part-0000{shard}\.json was made from other partners"
        ):
            changed.run("compress", shards=(shard,), **MIX)
    forwarded = counted(monkeypatch)
    changed.run("infer", **MIX)
    assert forwarded[0] == NUM_CROPS + int((mix.partner_ids == image).sum())
    again = changed.predictions()
    forget_predictions()
    changed.run("infer", **MIX)
    for name, values in changed.predictions().items():
        np.testing.assert_array_equal(values, again[name], name)


def test_images_that_are_added_change_few_crops(
    changed: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids move, and what is drawn of paths stays: nearly all is copied."""
    paths, before = images.load(changed.layout).paths, recorded(changed)
    write_images(Path("images"), classes=("ant",), num=6)
    changed.run("index", "sample", **MIX)
    now, new = images.load(changed.layout).paths, 5
    assert now[new] == "ant/5.png"
    assert list(np.delete(now, new)) == list(paths)
    partners = tables.column(crops_of(changed), "partner_id").reshape(-1, NUM_CROPS)
    partners = np.delete(partners, new, axis=0)
    names_then = np.where(before.partner_ids >= 0, paths[before.partner_ids], "")
    names_now = np.where(partners >= 0, now[partners], "")
    moved = names_then != names_now
    assert (names_now[moved] == now[new]).all()  # of 26 all others are candidates
    assert 0 < moved.mean() < 0.15
    forwarded = counted(monkeypatch)
    changed.run("infer", **MIX)
    assert forwarded[0] <= NUM_CROPS + int(moved.sum()) + NUM_CROPS
    assert verify.verify(changed.layout.root, NoProgress()).damages != []
    changed.run("compress", "calibrate", **MIX)
    assert verify.verify(changed.layout.root, NoProgress(), deep=True).damages == []


def test_parts_of_other_images_are_refused(changed: Project) -> None:
    """A shard whose own images are the same, and whose partners' ids moved."""
    write_images(Path("images"), classes=("elk",), num=6)
    changed.run("index")
    assert changed.why("sample", **MIX) == ["parameters or inputs changed"] * 3
    with pytest.raises(DataError, match=r"crops/_part-00000\.json was made from other partners"):
        changed.run("infer", shards=(0,), **MIX)


@pytest.mark.parametrize("resize", ["cpu", "device"])
def test_an_image_whose_partner_cannot_be_read_is_unusable(changed: Project, resize: str) -> None:
    forget_predictions()
    mix, table = recorded(changed), images.load(changed.layout)
    image = int(np.bincount(mix.partner_ids[mix.partner_ids >= 0]).argmax())
    path = Path("images") / str(table.paths[image])
    path.unlink()
    path.mkdir()
    infer = {"infer": {"max_reject_share": 1.0, "resize": resize}}
    values = merged(MIX, infer)
    changed.run("infer", "compress", "calibrate", **values)
    listed = pa.concat_tables(
        pq.read_table(changed.layout.table("predictions", f"_rejects-{shard:05d}"))
        for shard in range(3)
    ).to_pydict()
    hit = (mix.partner_ids == image).any(axis=1)
    hit[image] = True
    assert listed["image_id"] == np.flatnonzero(hit).tolist()
    reasons = dict(zip(listed["image_id"], listed["reason"], strict=True))
    assert reasons.pop(image) == "a folder, not an image file"
    told = f"a crop of it is mixed with {table.paths[image]}: a folder, not an image file"
    assert set(reasons.values()) == {told}
    feed = feed_of(changed, values, shard=1)
    for row in np.flatnonzero(hit[8:16] & (np.arange(8, 16) != image)).tolist():
        assert feed.is_unusable(row, told)  # so a block that is done stays so
        assert not feed.is_unusable(row, told + "?")
    predictions = changed.predictions()
    rejected = np.isnan(predictions["target_logp"])
    np.testing.assert_array_equal(rejected, np.repeat(hit[:, None], NUM_CROPS, axis=1))
    assert verify.verify(changed.layout.root, NoProgress(), deep=True).damages == []
    view = plan_view(changed.layout, 3, Path("images")).open()
    assert view.num_images == NUM_IMAGES - hit.sum()
    with pytest.raises(ShardError, match=r"is mixed with|a folder, not an image"):
        forget_predictions()
        changed.run("infer", **merged(values, {"infer": {"max_reject_share": 0.0}}))


def test_stores_are_compared_by_mixing_too(changed: Project) -> None:
    other = merged(MIX, {"store": {"root": "labels-other"}, "calibrate": None})
    changed.run("index", "sample", **merged(other, {"sample": {"mix": {"mixup": 2.0}}}))
    found = compare_rows(Path("labels"), Path("labels-other"), NoProgress()).crops
    assert found is not None
    assert (found.other_box, found.other_ops) == (0, 0)
    is_mixup = recorded(changed).kinds == MixKind.MIXUP
    assert 0.9 * is_mixup.sum() < found.other_mix <= is_mixup.sum() + 3
    changed.run("sample", **merged(other, {"sample": {"mix": None}}))
    found = compare_rows(Path("labels"), Path("labels-other"), NoProgress()).crops
    assert found is not None
    assert found.other_mix == (recorded(changed).kinds > 0).sum()


def rewrite(project: Project, name: str, row: int, value: Any, **attributes: Any) -> None:
    """Publish the crops of shard 1 with another value."""
    entry = project.entry("crops", 1)
    table = pq.read_table(project.layout.table("crops", entry.stem))
    values = tables.column(table, name).copy()
    values[row] = value
    place = table.column_names.index(name)
    table = table.set_column(place, name, pa.array(values, type=table.schema.field(name).type))
    part = PartWriter(project.layout, "crops", entry.stem, entry.stage, entry.key, entry.lineage)
    kept = {k: v for k, v in {**entry.attributes, **attributes}.items() if v is not None}
    part.publish_table(
        table.replace_schema_metadata(), entry.numbers, attributes=kept, rows_per_image=NUM_CROPS
    )


def test_what_cannot_be_replayed_names_the_file(changed: Project) -> None:
    rewrite(changed, "mix", 5, 9)
    with pytest.raises(DataError, match=r"crops/part-00001\.parquet has the kind of mixing 9"):
        changed.run("infer", shards=(1,), **MIX)
    damages = verify.verify(changed.layout.root, NoProgress(), deep=True).damages
    assert any(
        "the kind of mixing 9" in each.kind and "part-00001" in each.file for each in damages
    )
    rewrite(changed, "mix", 5, 0, has_mix=None)
    kinds = [each.kind for each in verify.verify(changed.layout.root, NoProgress()).damages]
    assert "has the column mix, its entry says nothing of mixing" in kinds


@pytest.mark.parametrize(
    ("step", "complaint"),
    [
        ({"step": "revise"}, "the step revise needs one ground-truth class"),
        ({"step": "truth"}, "the step truth needs"),
        ({"step": "noise"}, "the step noise needs"),
        ({"step": "ferkd"}, "the step ferkd with preset ferkd softens"),
        ({"step": "ferkd", "preset": "custom", "soften_to": 0.4}, "soften_to softens"),
        (
            {"step": "ferkd", "preset": "custom", "drop_below": 0.1, "on": "target"},
            "on: target compares",
        ),
        (
            {"step": "ferkd", "preset": "custom", "drop_below": 0.1, "eps": "auto"},
            "eps: auto counts",
        ),
    ],
)
def test_calibrations_that_write_ground_truth_are_refused(
    mixed: Project, step: dict[str, Any], complaint: str
) -> None:
    values = merged(MIX, {"calibrate": {"drops": None, "other": [step]}})
    for shards in (None, (1,)):
        with pytest.raises((ParamsError, DataError)) as caught:
            mixed.run("calibrate", shards=shards, **values)
        if shards is None:
            assert isinstance(caught.value, ParamsError)
            assert f"calibrate.other: {complaint}" in str(caught.value)


def test_an_image_that_would_lose_all_crops_keeps_the_teachers_labels(changed: Project) -> None:
    steps = [{"step": "ferkd", "preset": "custom", "drop_below": 0.97}]
    changed.run("calibrate", **merged(MIX, {"calibrate": {"drops": steps}}))
    rows = [
        pq.read_table(changed.layout.table("calibrated/drops", part_name(shard)))
        for shard in range(3)
    ]
    action = tables.column(pa.concat_tables(rows), "action").reshape(NUM_IMAGES, NUM_CROPS)
    assert set(np.unique(action).tolist()) == {0, 1}
    assert (action == 0).any(axis=1).all()


def test_the_score_of_disagreement_is_refused(mixed: Project) -> None:
    from stages.score.labels import TeacherLabels

    parts = [mixed.entry("soft", shard) for shard in range(3)]
    with pytest.raises(ParamsError, match=r"mixed with other images \(sample.mix\)"):
        TeacherLabels(mixed.layout, parts, NUM_IMAGES)


TRAIN: dict[str, Any] = {
    "model": {**NETWORK, "input_size": 24},
    "lr": 0.05,
    "crops_per_image": 2,
    "batch_size": 8,
    "steps": 3,
    "device": "cpu",
}


@pytest.mark.parametrize(
    "given",
    [
        {"calibration": "drops"},
        {"truth_weight": 0.5, "resize": "device"},
        {"labels": "truth", "loss": "kl"},
    ],
)
def test_students_train_from_it(changed: Project, given: dict[str, Any]) -> None:
    from ferkd_pipeline import whole_stages

    values = changed.params(**merged(MIX, {"train": {**TRAIN, **given}}))
    whole_stages.run(values, "train", progress=NoProgress())
    assert Path("metrics/train/summary.json").exists()


def test_mixing_twice_is_refused(mixed: Project) -> None:
    from ferkd_pipeline import whole_stages

    values = mixed.params(**merged(MIX, {"train": {**TRAIN, "mix": "cutmix"}}))
    with pytest.raises(ParamsError, match=r"train\.mix is cutmix, but the store's crops are"):
        whole_stages.run(values, "train", progress=NoProgress())


def test_one_image_has_no_partner(own: Project) -> None:
    for path in sorted(Path("images").iterdir())[1:]:
        shutil.rmtree(path)
    for path in sorted(Path("images/ant").iterdir())[1:]:
        path.unlink()
    one: dict[str, Any] = {"store": {"num_shards": 1}}
    own.run("index", **one)
    with pytest.raises(ParamsError, match="the store has one image"):
        own.run("sample", **merged(MIX, one))


def test_crop_keys_name_what_is_mixed_in(mixed: Project) -> None:
    table, mix = images.load(mixed.layout), recorded(mixed)
    boxes, flips = np.zeros((NUM_IMAGES, NUM_CROPS, 4), np.int32), np.zeros(mix.kinds.shape, bool)
    whole = Mixed.of(mix, 0, NUM_IMAGES, table)
    keys = crop_keys(table, boxes, flips, None, whole)
    alone = crop_keys(table, boxes, flips)
    np.testing.assert_array_equal(keys == alone, mix.kinds == 0)
    own = table.slice(8, 16)
    part = Mixed.of(mix.at(slice(8, 16)), 8, 16, table)
    assert len(part.images) > 8
    np.testing.assert_array_equal(crop_keys(own, boxes[8:16], flips[8:16], None, part), keys[8:16])
    image, crop = np.argwhere(mix.kinds == MixKind.CUTMIX)[0]
    for name in ("shares", "flips", "boxes", "cuts", "kinds"):
        values = getattr(mix, name).copy()
        values[image, crop] = np.abs(values[image, crop].astype(np.int64) - 1)
        other = Mixed.of(replaced(mix, name, values), 0, NUM_IMAGES, table)
        differs = crop_keys(table, boxes, flips, None, other) != keys
        assert np.argwhere(differs).tolist() == [[image, crop]], name


def replaced(mix: RecordedMix, name: str, values: Any) -> RecordedMix:
    fields = {each: getattr(mix, each) for each in RecordedMix.__slots__}
    return RecordedMix(**{**fields, name: values})
