"""A folder of odd files goes its whole way through the command line: told, not guessed."""

import contextlib
import ctypes
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import xxhash
from PIL import Image

from ferkd_pipeline import cli
from stages.shared.contract import NoProgress
from stages.shared.images import decode
from stages.shared.models import load_model
from stages.shared.pixels import crop_resize, normalise
from store.check.verify import verify
from tests.faults.choice import without
from tests.faults.odd_images import READ, Corpus, write_corpus
from tests.faults.test_image_files import by_pillow
from tests.world import NETWORK, NUM_IMAGES, Project, merged, write_images, write_teacher

CLASSES = ("bad", "jpeg", "linked", "names", "other", "png")
TRAIN: dict[str, Any] = {
    "model": {**NETWORK, "input_size": 16},
    "evaluation": "clean",
    "lr": 0.01,
    "batch_size": 16,
    "crops_per_image": 2,
    "epochs": 2,
    "device": "cpu",
}
CHANGES: dict[str, Any] = {
    "store": {"num_shards": 2},
    "sample": {"num_crops": 2},
    "infer": {"block_images": 40},
    "calibrate": None,
    "train": TRAIN,
    "evaluate": {"sets": {"clean": "clean"}, "device": "cpu"},
}


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command, checks its exit code and that it speaks in lines, returns what it said."""

    def run(*arguments: str, code: int = 0) -> str:
        capfd.readouterr()
        assert cli.main([*arguments]) == code, capfd.readouterr().err
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        assert all(line.isprintable() for line in said.err.splitlines()), said.err
        if code:
            (line,) = [line for line in said.err.splitlines() if line.startswith("Error:")]
            return line
        return said.out + said.err

    return run


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Project, Corpus]:
    """The corpus below `images`, a teacher of its classes, and what of it is read in `clean`."""
    monkeypatch.chdir(tmp_path)
    corpus = write_corpus(Path("images"))
    for path in READ:
        (Path("clean") / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path("images") / path, Path("clean") / path)
    write_teacher(Path("models/teacher"), names=CLASSES)
    project = Project(tmp_path)
    project.write_params(**CHANGES)
    return project, corpus


def shown(path: str, data: bytes) -> Any:
    """Pixels (H, W, 3) by the rule of the file."""
    is_high = path in READ and READ[path].rule == "high byte"
    return decode(data) if is_high else by_pillow(data)


def check_index(corpus: Corpus) -> None:
    table = pq.read_table("labels/images/images.parquet").to_pylist()
    assert [row["path"] for row in table] == sorted(corpus.read, key=lambda path: path.encode())
    for row in table:
        data = corpus.read[row["path"]]
        assert (row["height"], row["width"]) == shown(row["path"], data).shape[:2]
        assert (row["num_bytes"], row["content_hash"]) == (
            len(data),
            xxhash.xxh3_128_hexdigest(data),
        )
    rejects = pq.read_table("labels/rejects/index.parquet").to_pylist()
    assert {row["path"] for row in rejects} == set(corpus.refused)
    for row in rejects:
        assert re.search(corpus.refused[row["path"]], row["reason"]), row
        assert row["reason"].isprintable()


def check_labels(project: Project, corpus: Corpus) -> None:
    """Stored labels are those of a dense computation on the pixels that Pillow shows."""
    said = project.predictions(2)["logp"].astype(np.float64)
    crops = [pq.read_table(f"labels/crops/part-0000{shard}.parquet") for shard in range(2)]
    columns = {
        name: np.concatenate([part.column(name).to_numpy() for part in crops])
        for name in ("top", "left", "height", "width", "flip")
    }
    boxes = np.stack([columns[n] for n in ("top", "left", "height", "width")], axis=1)
    boxes, flips = boxes.reshape(-1, 2, 4), columns["flip"].reshape(-1, 2)
    teacher = load_model(Path("models/teacher"))
    spec, network = teacher.spec, teacher.module.eval()
    paths = sorted(corpus.read, key=lambda path: path.encode())
    pixels = torch.cat(
        [
            crop_resize(shown(path, corpus.read[path]), box, flip, spec.size, spec.interpolation)
            for path, box, flip in zip(paths, boxes, flips, strict=True)
        ]
    )
    with torch.inference_mode():
        logits = network(normalise(pixels, spec.mean, spec.std)).double()
    expected = logits.log_softmax(1).numpy().reshape(said.shape)
    np.testing.assert_allclose(said, expected, atol=2e-3, rtol=1e-3)
    soft = [pq.read_table(f"labels/soft/part-0000{shard}.parquet") for shard in range(2)]
    first = np.concatenate([part.column("class_0").to_numpy() for part in soft])
    np.testing.assert_array_equal(first.reshape(-1, 2), said.argmax(axis=2))
    maximum = np.concatenate([part.column("prob_0").to_numpy() for part in soft])
    np.testing.assert_allclose(maximum, np.exp(expected.max(axis=2)).reshape(-1), atol=6e-3)


def test_a_folder_of_odd_files_goes_its_whole_way(
    odd: tuple[Project, Corpus], told: Callable[..., str]
) -> None:
    project, corpus = odd
    said = told("stage", "index")
    assert f"{len(corpus.refused)} image files cannot be used" in said
    assert "classes without a usable image: bad" in said
    assert "1 .db" in said
    check_index(corpus)
    for stage in ("sample", "infer", "compress", "train", "evaluate"):
        told("stage", stage)
    check_labels(project, corpus)
    assert verify(Path("labels"), NoProgress()).damages == []
    measured = json.loads(Path("metrics/evaluate/summary.json").read_text())
    assert measured["clean"]["num_images"] == len(READ)
    for command in (["store", "stats"], ["store", "info"], ["store", "verify"]):
        told(*command)


def test_a_share_of_rejects_above_the_limit_fails(
    odd: tuple[Project, Corpus], told: Callable[..., str]
) -> None:
    project, corpus = odd
    share = len(corpus.refused) / (len(corpus.read) + len(corpus.refused))
    project.write_params(**merged(CHANGES, {"index": {"max_reject_share": share - 1e-6}}))
    said = told("stage", "index", code=42)
    assert f"{len(corpus.refused)} of" in said
    assert "index.max_reject_share" in said
    assert not Path("labels").exists() or not list(Path("labels").rglob("*.parquet"))
    project.write_params(**merged(CHANGES, {"index": {"max_reject_share": share}}))
    told("stage", "index")


@pytest.mark.usefixtures("odd")
def test_sets_to_measure_on_must_be_whole(told: Callable[..., str]) -> None:
    """There, an image left out would change the accuracy."""
    for stage in ("index", "sample", "infer", "compress"):
        told("stage", stage)
    lost = Path("clean/jpeg/new\nname.jpg")
    lost.write_bytes(b"")
    assert r"clean/jpeg/new\nname.jpg: empty file" in told("stage", "train", code=3)
    lost.unlink()
    lost.symlink_to("nowhere")
    assert r"clean/jpeg/new\nname.jpg: a broken link" in told("stage", "train", code=3)
    assert not Path("models/student").exists()


# One image of an ordinary project is no longer what it was.


def vanish(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def swap(path: Path) -> None:
    """Another image of the same size, with the times of the old one."""
    status = path.stat()
    with Image.open(path) as image:
        size = image.size
    Image.new("RGB", size, (9, 200, 30)).save(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def to_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def to_endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def to_huge(path: Path) -> None:
    """A file of 3 TB that takes no room."""
    os.truncate(path, 3 * 10**12)


def forbid(path: Path) -> None:
    path.chmod(0)


GONE: dict[Callable[[Path], None], str] = {
    vanish: "missing",
    to_folder: "a folder, not an image file",
    to_pipe: "not a regular file",
    to_loop: "cannot be read: Too many levels of symbolic links",
    to_endless: "not a regular file",
    to_huge: "too large: 3000000000000 bytes",
    forbid: "cannot be read: Permission denied",
}
"""What is no file any more: infer lists it with its reason, and goes on."""
CHANGED = (empty, truncate, swap)
"""What is another file than the one that was indexed: infer stops."""

VICTIM = "bee/1.png"


@contextlib.contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Root may read what nobody may read; this thread and those that it starts may not, here."""
    if os.geteuid():
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    before = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, before) == 0
    after = (ctypes.c_uint32 * 6)(*before)
    after[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, after) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0


def of_learning(**more: Any) -> dict[str, Any]:
    train = merged(TRAIN, {"evaluation": "images", "epochs": None, "steps": 2, **more})
    return {"train": train, "infer": {"max_reject_share": 0.2}}


@pytest.mark.parametrize(
    "change", without(GONE, to_folder, to_endless, to_loop), ids=lambda change: change.__name__
)
def test_gone_before_it_was_labelled(
    own: Project, change: Callable[[Path], None], told: Callable[..., str]
) -> None:
    """Listed as a reject, nothing of the others moved."""
    path, expected = Path("images") / VICTIM, own.predictions(1)
    shutil.rmtree("labels/predictions")
    change(path)
    own.write_params(infer={"max_reject_share": 0.2})
    with as_ordinary_user():
        said = told("stage", "infer", "--shard", "0")
    assert "1 images could not be used" in said
    listed = pq.read_table("labels/predictions/_rejects-00000.parquet").to_pylist()
    assert [(row["path"], row["reason"].split(",")[0]) for row in listed] == [
        (VICTIM, GONE[change].split(",")[0])
    ]
    (lost,) = [row["image_id"] for row in listed]
    found = own.predictions(1)
    assert np.isnan(found["logp"][lost]).all()
    for name, values in found.items():
        np.testing.assert_array_equal(
            np.delete(values, lost, axis=0), np.delete(expected[name], lost, axis=0)
        )
    told("stage", "compress", "--shard", "0")


def test_too_many_gone_before_they_were_labelled(own: Project, told: Callable[..., str]) -> None:
    shutil.rmtree("labels/predictions")
    vanish(Path("images") / VICTIM)
    own.write_params(infer={"max_reject_share": 0.1})
    said = told("stage", "infer", "--shard", "0", code=42)
    assert "1 of 8 images" in said
    assert f"{VICTIM}: missing" in said


@pytest.mark.parametrize("change", CHANGED, ids=lambda change: change.__name__)
def test_changed_before_it_was_labelled(
    own: Project, change: Callable[[Path], None], told: Callable[..., str]
) -> None:
    path = Path("images") / VICTIM
    shutil.rmtree("labels/predictions")
    change(path)
    said = told("stage", "infer", "--shard", "0", code=3)
    assert f"{path} changed since it was indexed" in said
    assert "`ferkd-pipeline stage index`" in said
    assert not Path("labels/predictions/part-00000.zarr").exists()
    told("stage", "index")
    if change is not swap:
        listed = pq.read_table("labels/rejects/index.parquet").to_pylist()
        assert [row["path"] for row in listed] == [VICTIM]


@pytest.mark.parametrize("num_workers", without([0, 1], 1))
@pytest.mark.parametrize(
    "change",
    without([*GONE, *CHANGED], to_folder, to_endless, to_loop, empty),
    ids=lambda change: change.__name__,
)
def test_no_longer_what_it_was_when_training_reads_it(
    own: Project, change: Callable[[Path], None], num_workers: int, told: Callable[..., str]
) -> None:
    """Never trained on, and not left out without a word: labels are of the images that were."""
    write_images(Path("val"), num=1, seed=2)
    own.write_params(**of_learning(steps=20, evaluation="val", num_workers=num_workers))
    change(Path("images") / VICTIM)
    with as_ordinary_user():
        said = told("stage", "train", code=3)
    assert f"images/{VICTIM}" in said
    if change in GONE:
        assert GONE[change] in said
    assert "`ferkd-pipeline stage index`" in said
    assert not Path("models/student").exists()


@pytest.mark.parametrize("change", [vanish, swap], ids=lambda change: change.__name__)
def test_no_longer_what_it_was_while_infer_reads(
    own: Project,
    change: Callable[[Path], None],
    told: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After some of its crops were labelled: all of them are rejected, or the shard stops."""
    from stages.infer.decoded import DecodedImages
    from stages.infer.forward import Labeller

    shutil.rmtree("labels/predictions")
    path, launch = Path("images/ant/1.png"), Labeller._launch

    def changed(self: Labeller, *arguments: Any) -> Any:
        if path.exists() and path.stat().st_size != 0 and not done:
            done.append(path)
            change(path)
        return launch(self, *arguments)

    done: list[Path] = []
    monkeypatch.setattr(Labeller, "_launch", changed)
    monkeypatch.setattr("stages.infer.decoded.DecodedImages.get", DecodedImages._read)
    monkeypatch.setattr("stages.infer.feed._MIN_AHEAD", 0)
    own.write_params(infer={"batch_size": 3, "num_workers": 1, "max_reject_share": 0.2})
    if change is swap:
        assert f"{path} changed since" in told("stage", "infer", "--shard", "0", code=3)
        return
    told("stage", "infer", "--shard", "0")
    logp = own.predictions(1)["logp"]
    rejects = pq.read_table("labels/predictions/_rejects-00000.parquet").to_pylist()
    assert [row["path"] for row in rejects] == ["ant/1.png"]
    assert np.isnan(logp[1]).all(), "some crops of it were seen, but no label of it stays"
    assert np.isfinite(np.delete(logp, 1, axis=0)).all()


def test_what_nobody_may_read_is_told_by_index(own: Project, told: Callable[..., str]) -> None:
    Path("images").joinpath(VICTIM).chmod(0)
    with as_ordinary_user():
        said = told("stage", "index")
        assert f"{VICTIM}: cannot be read: Permission denied" in said
        Path("images/cat").chmod(0)
        assert "images/cat: this folder of images cannot be listed" in told(
            "stage", "index", code=3
        )
    Path("images/cat").chmod(0o755)


def test_an_empty_class_folder_is_refused(own: Project, told: Callable[..., str]) -> None:
    before = own.tree()
    Path("images/new class").mkdir()
    said = told("stage", "index", code=3)
    assert "images/new class: a class folder without images" in said
    assert own.tree() == before


def test_one_image_twice_is_two_images_with_one_content(
    own: Project, told: Callable[..., str]
) -> None:
    shutil.copy("images/bee/0.jpg", "images/cat/copy of a bee.jpg")
    told("stage", "index")
    table = pq.read_table("labels/images/images.parquet").to_pandas().set_index("path")
    one, other = table.loc["bee/0.jpg"], table.loc["cat/copy of a bee.jpg"]
    assert one["content_hash"] == other["content_hash"]
    assert (one["class_id"], other["class_id"]) == (1, 2)
    assert len(table) == NUM_IMAGES + 1


@pytest.mark.parametrize("stage", ["index", "infer", "train", "evaluate"])
@pytest.mark.parametrize("is_empty", [False, True], ids=["gone", "empty"])
def test_a_folder_whose_disk_is_not_mounted(
    own: Project, stage: str, is_empty: bool, told: Callable[..., str]
) -> None:
    """What is said of it speaks of the mount, and nothing of the store is given up."""
    before = own.tree()
    write_images(Path("val"), num=1, seed=2)
    evaluate = {"evaluate": {"sets": {"seen": "images"}, "device": "cpu"}}
    own.write_params(**of_learning(evaluation="val"), **evaluate)
    shutil.copytree("models/teacher", "models/student")
    Path("images").rename("elsewhere")
    if is_empty:
        Path("images").mkdir()
    said = told("stage", stage, "--force", code=3 if stage in ("index", "evaluate") else 75)
    assert "images" in said and "mount" in said
    assert before.items() <= own.tree().items()
