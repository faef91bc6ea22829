"""A block that a kill left unfinished goes on where its last save ended, and no byte shows it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.infer import unfinished
from stages.infer.core import Arrays
from stages.infer.forward import Labelled, Labeller
from stages.infer.unfinished import Piece, Unfinished
from store.array_spec import ArraySpec
from tests.world import Project, forget_predictions

ALL = {"infer": {"block_images": 100, "batch_size": 5, "max_reject_share": 0.5}}
SPECS = {"a": ArraySpec("float16", (4, 3), ("crop", "rank")), "b": ArraySpec("int32", (4,))}


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Crops of every forward."""
    monkeypatch.setattr(unfinished, "SAVE_SECONDS", 0.0)
    found: list[int] = []
    launch = Labeller._launch

    def counted(self: Labeller, batch: Any) -> Any:
        found.append(len(batch.rows))
        return launch(self, batch)

    monkeypatch.setattr(Labeller, "_launch", counted)
    return found


def stop_after(number: int, own: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run shard 0, of 8 images in one block, until so many batches were taken."""
    whole = Labeller.label

    def first_batches(self: Labeller, lists: Any) -> Iterator[Labelled]:
        for place, batch in enumerate(whole(self, lists)):
            if place == number:
                raise KeyboardInterrupt
            yield batch

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Labeller, "label", first_batches)
        own.run("infer", shards=(0,), **ALL)


def start_anew(own: Project) -> dict[str, bytes]:
    forget_predictions()
    own.run("infer", shards=(0,), **ALL)
    expected = own.tree("labels/predictions")
    forget_predictions()
    return expected


def test_a_block_goes_on(
    own: Project, forwards: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = start_anew(own)
    forwards.clear()
    stop_after(4, own, monkeypatch)
    assert len(list(Path(".ferkd/work/infer").glob("*/unfinished-000000-*"))) == 4
    forwards.clear()
    own.run("infer", shards=(0,), **ALL)
    assert forwards == [5, 5, 2], "of 32 crops 20 were labelled"
    assert own.tree("labels/predictions") == expected
    assert not list(Path(".ferkd").rglob("unfinished-*"))


def test_again_and_again(
    own: Project, forwards: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("images/ant/1.png").unlink()
    expected = start_anew(own)
    forwards.clear()
    for _ in range(6):
        stop_after(1, own, monkeypatch)
    own.run("infer", shards=(0,), **ALL)
    lost = 5 * 5 + 2  # the batch that was on its way, each time; the last one is of 2
    assert sum(forwards) == 32 + lost
    assert own.tree("labels/predictions") == expected


def test_an_image_that_is_whole_again_is_labelled(
    own: Project, forwards: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = start_anew(own)
    path = Path("images/ant/1.png")
    content = path.read_bytes()
    path.unlink()
    stop_after(4, own, monkeypatch)
    path.write_bytes(content)
    own.run("infer", shards=(0,), **ALL)
    assert own.tree("labels/predictions") == expected


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def exchange_rows(file: Path) -> None:
    """Whole, but of other values than those that were saved."""
    with np.load(file) as found:
        arrays = dict(found)
    arrays["logsumexp"] = arrays["logsumexp"] + 1
    with file.open("wb") as changed:
        np.savez(changed, **arrays)


def swap_blocks(file: Path) -> None:
    file.rename(file.with_name(file.name.replace("-000000-", "-000001-")))


@pytest.mark.parametrize(
    "act", [damage, exchange_rows, swap_blocks, Path.unlink, lambda file: file.write_bytes(b"")]
)
@pytest.mark.parametrize("number", [0, 2])
def test_a_damaged_save_is_made_again(
    own: Project, forwards: list[int], monkeypatch: pytest.MonkeyPatch, act: Any, number: int
) -> None:
    """And what was saved after it."""
    expected = start_anew(own)
    stop_after(4, own, monkeypatch)
    files = sorted(Path(".ferkd").rglob("unfinished-*"))
    assert len(files) == 4
    act(files[number])
    forwards.clear()
    own.run("infer", shards=(0,), **ALL)
    assert len(forwards) == 7 - number
    assert own.tree("labels/predictions") == expected
    assert not list(Path(".ferkd").rglob("unfinished-*"))


def test_a_kill_between_a_block_and_its_save_leaves_nothing(
    own: Project, forwards: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = start_anew(own)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Unfinished, "forget", interrupted)
        own.run("infer", shards=(0,), **ALL)
    assert list(Path(".ferkd").rglob("unfinished-*"))
    own.run("infer", shards=(0,), **ALL)
    assert own.tree("labels/predictions") == expected
    assert not list(Path(".ferkd").rglob("unfinished-*"))


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_saves_of_other_crops_or_arrays_do_not_fit(tmp_path: Path) -> None:
    kept = Unfinished(tmp_path, SPECS)
    wanted = np.arange(6, dtype=np.uint64)
    rows: Arrays = {"a": np.ones((2, 3), np.float16), "b": np.arange(2, dtype=np.int32)}
    kept.save(3, wanted, Piece(0, 2, rows, {"1": "gone"}))
    kept.save(3, wanted, Piece(4, 6, rows, {}))
    [found] = kept.load(3, wanted)
    assert (found.first, found.stop, found.note) == (0, 2, {"1": "gone"})
    np.testing.assert_array_equal(found.rows["b"], rows["b"])
    kept.save(3, wanted, Piece(2, 4, rows, {}))
    assert [piece.first for piece in kept.load(3, wanted)] == [0, 2, 4]
    assert not kept.load(2, wanted)
    assert not kept.load(3, wanted[::-1].copy())
    assert not Unfinished(tmp_path, {**SPECS, "b": ArraySpec("int64", (4,))}).load(3, wanted)
    assert not Unfinished(tmp_path, {"a": SPECS["a"]}).load(3, wanted)
    kept.forget(3)
    assert not list(tmp_path.iterdir())
