"""Pictures of images with their crops and labels, and the page that tours the notebook API."""

import contextlib
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from matplotlib.figure import Figure
from PIL import Image

from store import entries, tables
from store.errors import DataError, ParamsError
from store.notebook import picture_inputs, pictures
from store.notebook.label_store import LabelStore
from tests.store import small_store
from tests.store.small_store import (
    ALL_DROPPED,
    NAME,
    NUM_CROPS,
    REJECTED,
    SPEC,
    SmallStore,
    build,
    rewrite_table,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """A store whose images are there, in data/train beside it; no test may change it."""
    return with_images(build(tmp_path_factory.mktemp("shown") / "labels"))


def with_images(small: SmallStore) -> SmallStore:
    """Write a file for every image, as lossless noise, and put its digest into the store."""
    folder = small.root.parent / "data/train"
    rng, digests = np.random.default_rng(0), []
    for path, height, width in zip(
        small.table.paths, small.table.heights, small.table.widths, strict=True
    ):
        file = folder / str(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, format="PNG")
        digests.append(xxhash.xxh3_128_hexdigest(file.read_bytes()))
    set_hashes(small, digests)
    (small.root.parent / "params.yaml").write_text("index:\n  images: data/train\n")
    return small


def set_hashes(small: SmallStore, digests: list[str]) -> None:
    table = tables.read_table(small.layout.table("images", "images"))
    place = table.column_names.index("content_hash")
    table = table.set_column(place, "content_hash", pa.array(digests))
    rewrite_table(small.layout, "images", "images", table)


def gathered(small: SmallStore, image: int | str, crops: Any = 4, **other: Any) -> Any:
    opened = LabelStore(small.root)
    asked = {"calibration": None, "folder": None, "size": None, **other}
    return picture_inputs.gather(opened._tables, image, crops, **asked)


def texts(figure: Figure) -> list[str]:
    """All text of a figure's axes: titles, names of bars, numbers."""
    return [
        text.get_text()
        for axes in figure.axes
        for text in (axes.title, axes._left_title, *axes.texts, *axes.get_yticklabels())  # type: ignore[attr-defined]
        if text.get_text()
    ]


def test_a_picture_shows_every_crop_and_its_label(shown: SmallStore) -> None:
    figure = LabelStore(shown.root).show(1, calibration=NAME)
    assert len(figure.axes) == 1 + 2 * NUM_CROPS
    said = texts(figure)
    for crop, action in enumerate(("soften", "revise", "drop", "keep")):
        maximum = shown.probs[1, crop].max()
        assert any(
            text.startswith(f"crop {crop} · max {maximum:.2f}"[:-1]) and text.endswith(action)
            for text in said
        )
    assert {f" {crop} " for crop in range(NUM_CROPS)} <= set(said)
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    assert str(shown.table.paths[1]) in figure.get_suptitle()
    assert "calibration mixed" in figure.get_supxlabel()
    assert "grey: dropped" in figure.get_supxlabel()


def test_boxes_are_where_the_crops_are(shown: SmallStore) -> None:
    axes = LabelStore(shown.root).show(0, crops=[2, 0]).axes[0]
    drawn = [(p.get_y(), p.get_x(), p.get_height(), p.get_width()) for p in axes.patches[::2]]  # type: ignore[attr-defined]
    boxes = shown.boxes[0, [2, 0]]
    assert drawn == [(top - 0.5, left - 0.5, h, w) for top, left, h, w in boxes.tolist()]


def test_a_crop_is_shown_as_a_model_sees_it(shown: SmallStore) -> None:
    found = gathered(shown, 0, crops=[0, 1, 2, 3], size=(30, 20))
    whole = Image.open(shown.root.parent / "data/train" / str(shown.table.paths[0])).convert("RGB")
    for crop in range(NUM_CROPS):
        top, left, height, width = shown.boxes[0, crop].tolist()
        cut = whole.crop((left, top, left + width, top + height))
        expected = np.asarray(cut.resize((20, 30), Image.Resampling.BILINEAR))
        if shown.flips[0, crop]:
            expected = expected[:, ::-1]
        np.testing.assert_array_equal(found.seen[crop], expected)
    assert shown.flips[0].any()
    assert not shown.flips[0].all()


def test_crops_are_seen_at_the_size_that_predictions_record(
    own: SmallStore, shown: SmallStore
) -> None:
    with_images(own)
    assert gathered(own, 0).seen.shape == (4, 224, 224, 3)
    entry = entries.read_entry(own.layout.entry("predictions", "part-00000"))
    pixels = {"size": [12, 16], "interpolation": "bicubic"}
    inputs = {**entry.lineage["inputs"], "pixels": pixels}
    entries.publish(own.layout, replace(entry, lineage={**entry.lineage, "inputs": inputs}))
    assert gathered(own, 0).seen.shape == (4, 12, 16, 3)
    assert (gathered(own, 0).seen != gathered(shown, 0, size=(12, 16)).seen).any()


def test_crops_go_from_the_hardest_to_the_easiest() -> None:
    maxima = np.array([0.9, 0.1, 0.5, np.nan, 0.3, 0.7])
    assert picture_inputs.choose(maxima, 3).tolist() == [3, 4, 0]
    assert picture_inputs.choose(maxima, 99).tolist() == [3, 1, 4, 2, 5, 0]
    assert picture_inputs.choose(maxima, 1).tolist() == [3]


@pytest.mark.parametrize(("image", "stated"), [(ALL_DROPPED, "drop"), (REJECTED, "no label")])
def test_crops_without_a_label_say_so(shown: SmallStore, image: int, stated: str) -> None:
    figure = LabelStore(shown.root).show(image, calibration=NAME)
    headings = [text for text in texts(figure) if text.startswith("crop ")]
    assert len(headings) == NUM_CROPS
    assert all(text.endswith(stated) for text in headings)


def test_dense_labels_are_shown_as_the_others(tmp_path: Path, shown: SmallStore) -> None:
    dense = with_images(build(tmp_path / "labels", replace(SPEC, kind="full")))
    found = gathered(dense, 0, crops=[3, 1], calibration=NAME)
    np.testing.assert_allclose(found.teacher, dense.probs[0, [3, 1]], atol=1e-3)
    np.testing.assert_allclose(found.max_prob, dense.probs[0, [3, 1]].max(axis=1), atol=1e-3)
    assert found.actions == gathered(shown, 0, crops=[3, 1], calibration=NAME).actions
    pictures.draw(found).savefig(io.BytesIO())


def test_logits_are_shown_without_bars(own: SmallStore) -> None:
    with_images(own)
    entry = entries.read_entry(own.layout.entry("soft", "part-00000"))
    label = {**entry.attributes["label"], "kind": "logits"}
    entries.publish(own.layout, replace(entry, attributes={**entry.attributes, "label": label}))
    figure = LabelStore(own.root).show(0)
    assert "no class probabilities" in figure.get_supxlabel()
    assert not any(axes.patches for axes in figure.axes[2::2])


def test_bars_are_the_calibrated_label_and_lines_the_teachers(shown: SmallStore) -> None:
    figure = LabelStore(shown.root).show(1, crops=[0, 3], calibration=NAME)
    softened, kept = figure.axes[2], figure.axes[4]
    target = int(shown.table.class_ids[1])
    name = f"klasse {target}"
    for axes, wanted in ((softened, 0.875 + 0.125 / 5), (kept, None)):
        names = [text.get_text() for text in axes.get_yticklabels()]
        bar = axes.patches[names.index(name)]
        if wanted is not None:
            assert bar.get_width() == pytest.approx(wanted, abs=1e-6)  # type: ignore[attr-defined]
        assert bar.get_alpha() == 1
        assert axes.get_yticklabels()[names.index(name)].get_fontweight() == "bold"
        assert [bar.get_alpha() for bar in axes.patches].count(1) == 1
    assert len(softened.lines) > 0
    assert len(kept.lines) == 0


def test_bars_are_the_most_probable_the_truth_and_the_rest() -> None:
    shown = np.array([0.02, 0.5, 0.3, 0.1, 0.01, 0.07])
    assert pictures._bars(shown, shown, 4) == [(1,), (2,), (3,), (4,), (5, 0)]
    softened = np.array([0.9, *[0.02] * 5])  # the teacher orders what is equal
    assert pictures._bars(softened, shown, 0) == [(0,), (1,), (2,), (3,), (5, 4)]
    assert pictures._bars(shown[:2], shown[:2], 0) == [(1,), (0,)]


def test_many_crops_and_odd_names_are_drawn(shown: SmallStore) -> None:
    found = gathered(shown, 0, crops=[0, 1, 2, 3] * 6)
    names = ("$x$", "a" * 60, "b_c", "%", "d^e")
    figure = pictures.draw(replace(found, class_names=names, path="$/a_$.jpg"))
    figure.savefig(io.BytesIO(), format="png")
    assert len(figure.axes) == 1 + 2 * 24
    assert "a" * 19 + "…" in texts(figure)


def test_tags_of_equal_boxes_do_not_lie_on_each_other(shown: SmallStore) -> None:
    assert len(gathered(shown, 0, crops=np.int64(3)).crops) == 3
    found = gathered(shown, 0, crops=[1, 1, 1, 1])
    places = {place[:2] for place in pictures._tag_places(found)}
    assert len(places) == 4


def test_what_a_padded_crop_shows_outside_the_image_is_black(shown: SmallStore) -> None:
    found = gathered(shown, 0, crops=[0])
    boxes = np.array([[-30, -20, 60, 40]])
    whole = Image.fromarray(found.pixels)
    seen = picture_inputs._seen(whole, boxes, np.array([False]), (60, 40), "bilinear")
    assert not seen[0, :30].any()
    assert not seen[0, :, :20].any()
    np.testing.assert_array_equal(seen[0, 30:, 20:], found.pixels[:30, :20])
    axes = pictures.draw(replace(found, boxes=boxes, seen=seen)).axes[0]
    height, width = found.pixels.shape[:2]
    assert (axes.get_xlim(), axes.get_ylim()) == ((-20.5, width - 0.5), (height - 0.5, -30.5))


def test_16_bit_grey_is_scaled_not_clipped(own: SmallStore) -> None:
    with_images(own)
    file = own.root.parent / "data/train" / str(own.table.paths[0])
    grey = np.linspace(0, 65535, 100 * 50).astype(np.uint16).reshape(100, 50)
    Image.fromarray(grey).save(file, format="PNG")
    listed = tables.read_table(own.layout.table("images", "images"))
    digests = listed.column("content_hash").to_pylist()
    set_hashes(own, [xxhash.xxh3_128_hexdigest(file.read_bytes()), *digests[1:]])
    np.testing.assert_array_equal(gathered(own, 0).pixels[:, :, 1], grey >> 8)


def test_the_folder_of_images_is_asked_for(own: SmallStore) -> None:
    with_images(own)
    folder = own.root.parent / "data/train"
    params = own.root.parent / "params.yaml"
    params.write_text("index: [\n")
    with pytest.raises(DataError, match=r"params.yaml has no index.images; .*images=FOLDER"):
        gathered(own, 0)
    params.unlink()
    with pytest.raises(DataError, match=r"params.yaml is missing, and a store holds no path; say"):
        gathered(own, 0)
    LabelStore(own.root, images=folder).show(0)
    LabelStore(own.root).show(0, images=str(folder))
    with pytest.raises(DataError, match=r"bild-ß-0.jpg cannot be read \(No such file.*images=FOLD"):
        LabelStore(own.root, images=folder / "nowhere").show(0)
    (folder / str(own.table.paths[0])).write_bytes(b"other")
    with pytest.raises(DataError, match=r"bild-ß-0.jpg is not the file that was labelled"):
        LabelStore(own.root).show(0, images=folder)


def test_wrong_arguments_are_refused(shown: SmallStore) -> None:
    opened = LabelStore(shown.root)
    with pytest.raises(ParamsError, match=r"crops are \[4\], allowed: 0 to 3"):
        opened.show(0, crops=[4])
    with pytest.raises(ParamsError, match="25 crops were asked for, allowed: 1 to 24"):
        opened.show(0, crops=np.int64(25))
    none: list[int] = []
    for crops in (0, 25, none):
        with pytest.raises(ParamsError, match="crops were asked for, allowed: 1 to 24"):
            opened.show(0, crops=crops)
    with pytest.raises(DataError, match="no calibration 'ferkd'"):
        opened.show(0, calibration="ferkd")
    with pytest.raises(DataError, match="has no image 8"):
        opened.show(8)


def test_the_notebook_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of Python, in order, on a small store of the shape that the page speaks of."""
    monkeypatch.setattr(small_store, "NUM_SHARDS", 4)
    monkeypatch.setattr(small_store, "NAME", "ferkd")
    with_images(build(tmp_path / "labels", replace(SPEC, k=5)))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for code, printed in blocks((ROOT / "docs/notebook.md").read_text(encoding="utf-8")):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, "docs/notebook.md", "exec"), names)
        assert out.getvalue() == printed
    assert (tmp_path / "image.png").stat().st_size > 10_000
    assert len(names["softened_rows"]) > 0
    assert np.isfinite(names["means"]).all()


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Python blocks of a page, each with the block of text that follows it at once."""
    pattern = r"```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?"
    for found in re.finditer(pattern, page, re.DOTALL):
        yield found.group(1), found.group(2) or ""
