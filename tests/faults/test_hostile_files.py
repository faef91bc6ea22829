"""Files made to do harm: none of their code runs, and each is refused in one line."""

import io
import itertools
import json
import random
import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ferkd_pipeline import cli
from stages.shared.model_card import card_text
from store import entries
from store.digest import sha256_file
from store.entry import FileRecord, entry_bytes
from store.errors import DataError
from store.view.build import plan_view
from tests.faults import limited
from tests.faults.bombs import FORMS, MARK
from tests.faults.soak import rounds
from tests.world import NETWORK, Project, merged, write_images, write_teacher

TRAIN: dict[str, Any] = {
    "model": {**NETWORK, "input_size": 32},
    "batch_size": 8,
    "crops_per_image": 2,
    "steps": 1,
    "lr": 0.01,
    "device": "cpu",
}


def refused(capsys: pytest.CaptureFixture[str], *command: str, code: int = 3) -> str:
    """What a command says that ends with this code: one line, and nothing exploded."""
    capsys.readouterr()
    assert cli.main([*command]) == code, capsys.readouterr()
    said = capsys.readouterr().err
    errors = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and said.endswith(f"{errors[0]}\n"), said  # before it, progress
    assert not MARK.exists()
    return errors[0]


PLACES: dict[str, tuple[str, dict[str, Any]]] = {
    "teacher that labels": ("infer", {"infer": {"teacher": {"weights": "given"}}}),
    "second teacher": (
        "infer",
        {"infer": {"teacher": [{**NETWORK, "weights": w} for w in ("models/teacher", "given")]}},
    ),
    "of torchvision": (
        "infer",
        {
            "infer": {
                "teacher": {
                    "name": "torchvision:mobilenet_v3_small",
                    "model_kwargs": None,
                    "weights": "given",
                }
            }
        },
    ),
    "of one's own": (
        "infer",
        {
            "infer": {
                "teacher": {
                    "name": "tests.stages.own_models:small",
                    "model_kwargs": None,
                    "weights": "given",
                }
            }
        },
    ),
    "student": ("train", {"train": {**TRAIN, "model": {**NETWORK, "weights": "given"}}}),
    "teacher to train": (
        "teacher",
        {"teacher": {**TRAIN, "model": {**NETWORK, "weights": "given"}}},
    ),
    "online teacher": (
        "train",
        {"train": {**TRAIN, "labels": "online", "online_teacher": {**NETWORK, "weights": "given"}}},
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_no_weights_run_code(own: Project, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    stage, changes = PLACES[place]
    is_brief = place != "student" and rounds(1) == 1
    names = itertools.cycle(("given.pth", "given.safetensors", "given.tar"))
    for form in ("zip", "pickle") if is_brief else FORMS:
        for name in itertools.islice(names, 1 if is_brief else 3):
            Path(name).write_bytes(FORMS[form]())
            text = json.dumps(merged_params(own, changes)).replace('"given"', f'"{name}"')
            Path("params.yaml").write_text(text)
            said = refused(capsys, "stage", stage)
            assert name in said, (form, said)
    assert sorted(Path().glob("*escaped*")) == []
    assert not Path("/tmp/ferkd-escaped").exists()


def merged_params(project: Project, changes: dict[str, Any]) -> dict[str, Any]:
    project.write_params(**changes)
    found: dict[str, Any] = json.loads(Path("params.yaml").read_text())
    return found


FILES = [
    ("infer", "models/teacher/model.safetensors"),
    ("infer", "models/teacher/model.json"),
    ("infer", "labels/crops/part-00001.parquet"),
    ("infer", "labels/crops/_part-00001.json"),
    ("compress", "labels/predictions/part-00001.zarr/zarr.json"),
    ("compress", "labels/predictions/part-00001.zarr/logp/c/0/0/0"),
    ("calibrate", "labels/soft/part-00001.parquet"),
]


@pytest.mark.parametrize(("stage", "file"), FILES)
def test_no_file_of_a_project_runs_code(
    own: Project, stage: str, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own.write_params()
    path = Path(file)
    for form in FORMS if rounds(1) > 1 else ("zip", "tar"):
        path.unlink()
        path.write_bytes(FORMS[form]())
        said = refused(capsys, "stage", stage, "--force")
        assert str(path.parents[0]).split("/part")[0] in said, (form, said)


def test_no_view_is_unpickled(own: Project) -> None:
    """Numpy's own files may hold pickles."""
    for name in ("records", "targets", "path_bytes"):
        plan = plan_view(own.layout, 3, Path("images"), None)
        folder = plan.open().folder
        for form in ("npy", "pickle"):
            (folder / f"{name}.npy").write_bytes(FORMS[form]())
            with pytest.raises(DataError, match="is not a whole training view"):
                plan.open()
        assert not MARK.exists()
        shutil.rmtree(folder)


EVIL = "from pathlib import Path\nPath('exploded').mkdir()\n"
CODE = EVIL + "def make(num_classes, **others):\n    return None\n"


@pytest.mark.parametrize("name", ["models.student.evil:make", "evil:make", "pickle:loads"])
def test_a_card_runs_no_code_that_params_do_not_name(
    own: Project, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A downloaded folder may bring the code along, or name a script that lies there."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    write_images(Path("val"), num=1)
    write_teacher(Path("models/student"))
    Path("models/student/evil.py").write_text(CODE)
    Path("evil.py").write_text(CODE)
    write_card("models/student", name=name)
    write_card("models/teacher", name=name)
    sections: dict[str, Any] = {
        "train": TRAIN,
        "evaluate": {"sets": {"val": "val"}, "device": "cpu"},
        "linear": {"steps": 1, "lr": 0.1, "device": "cpu"},
        "compare": {"arms": ["store"], "seeds": [0], "val": "val", "timing_rounds": 1},
    }
    own.write_params(**sections)
    for command in (
        ("stage", "evaluate"),
        ("stage", "evaluate", "--dry-run"),
        ("stage", "linear"),
        ("stage", "compare"),
        ("export", "out.safetensors"),
        ("export", "out.safetensors", "--model", "models/teacher"),
    ):
        said = refused(capsys, *command)
        assert f"names the code {name}, which no model in params.yaml does" in said
    assert f"these weights are of {name}" in refused(capsys, "stage", "infer", "--force")
    assert cli.main(["trace", "models/student"]) == 0
    assert not MARK.exists() and "evil" not in sys.modules
    if name == "evil:make":  # whoever names it means it
        own.write_params(**sections, infer={"teacher": {"name": name}})
        assert cli.main(["stage", "evaluate"]) != 0
        assert MARK.exists()
        sys.modules.pop("evil")


def write_card(folder: str, **changes: object) -> None:
    path = Path(folder, "model.json")
    said = json.loads(path.read_bytes())
    said.pop("sha256")
    path.write_text(card_text({**said, **changes}))


CARDS: dict[str, dict[str, Any]] = {
    "a hub": {"name": "hf-hub:somebody/model"},
    "a folder": {"name": "local-dir:/etc"},
    "no text": {"name": 5},
    "a file to unpickle": {"model_kwargs": {"checkpoint_path": "given.pth"}},
    "a download": {"model_kwargs": {"pretrained": True}},
    "an address": {"model_kwargs": {"pretrained_cfg": {"url": "http://127.0.0.1:9/x"}}},
    "no class": {"classes": []},
    "numbers as classes": {"classes": [1, 2, 3, 4, 5]},
    "fewer classes": {"classes": ["ant"]},
    "no digest": {"digest": 5},
    "huge pixels": {"pixels": {"size": [10**9, 10**9]}},
    "no pixels": {"pixels": {"size": [0, 32]}},
    "two means": {"pixels": {"mean": [0.5, 0.5]}},
    "mean of text": {"pixels": {"mean": ["a", "b", "c"]}},
    "std of zero": {"pixels": {"std": [0, 0, 0]}},
    "no number": {"pixels": {"mean": [float("nan"), 0, 0]}},
    "unknown resize": {"pixels": {"interpolation": "nearest"}},
}


@pytest.mark.parametrize("kind", CARDS)
def test_cards_of_nonsense_are_refused(
    own: Project, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whole by their own digest, as somebody who means harm would write them."""
    write_images(Path("val"), num=1)
    shutil.copytree("models/teacher", "models/student")
    said = json.loads(Path("models/student/model.json").read_bytes())
    changes = merged({name: said[name] for name in CARDS[kind]}, CARDS[kind])
    write_card("models/student", **changes)
    own.write_params(evaluate={"sets": {"val": "val"}, "device": "cpu"})
    Path("given.pth").write_bytes(FORMS["zip"]())
    capsys.readouterr()
    assert cli.main(["stage", "evaluate"]) in (2, 3)
    told = capsys.readouterr().err
    assert told.startswith("Error: ") and told.count("\n") == 1, told
    assert not MARK.exists() and not Path("metrics/evaluate").exists()


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 100_000, "\xff"])
def test_json_that_python_cannot_follow(
    own: Project, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nested a hundred thousand deep, or a number of as many digits."""
    write_images(Path("val"), num=1)
    shutil.copytree("models/teacher", "models/student")
    data = text.encode("latin-1")
    sets = {"real": {"folder": "val", "real": "real.json"}}
    own.write_params(evaluate={"sets": sets, "device": "cpu"})
    Path("real.json").write_bytes(data)
    assert "real.json" in refused(capsys, "stage", "evaluate")
    Path("models/student/model.json").write_bytes(data)
    assert "model.json" in refused(capsys, "stage", "evaluate")
    assert "model.json" in refused(capsys, "trace", "models/student")
    for path in ("crops/_part-00001.json", "crops/_manifest.json", "images/_images.json"):
        kept = Path("labels", path).read_bytes()
        Path("labels", path).write_bytes(data)
        assert cli.main(["store", "verify"]) == 3
        if "_manifest" not in path:
            assert path in refused(capsys, "stage", "infer", "--force")
        Path("labels", path).write_bytes(kept)
    for path in (".ferkd/done/train.json", ".ferkd/locks/crops-part-00001.lease"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(data)
    assert cli.main(["stage", "sample", "--force"]) == 0
    assert cli.main(["store", "gc"]) == 0


YAMLS = [
    "sample: !!python/object/apply:os.mkdir [exploded]",
    "sample: !!python/object/new:os.mkdir [exploded]",
    "? !!python/object/apply:os.mkdir [exploded]\n: 1",
    "stages: !!python/name:os.system",
    "sample: !!python/module:antigravity",
    "stages: {own: {cmd: !!python/object/apply:os.mkdir [exploded]}}",
]


@pytest.mark.parametrize("text", YAMLS)
def test_yaml_makes_plain_values_only(
    own: Project, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own.write_params()
    Path(".dvc").mkdir()
    Path("dvc.yaml").write_text(text)
    assert "dvc.yaml" in refused(capsys, "init", ".", "--update", code=2)
    assert Path("dvc.yaml").read_text() == text
    assert not Path("dvc.yaml.bak").exists()
    Path("params.yaml").write_text(text)
    for command in (("stage", "sample"), ("store", "gc"), ("calibrate", "preview", "x")):
        assert "params.yaml" in refused(capsys, *command, code=2)


def claim(path: Path, changed: bytes, entry_path: Path) -> None:
    """Other bytes of a file, and an entry that says they are right."""
    path.write_bytes(changed)
    entry = entries.read_entry(entry_path)
    name = path.relative_to(entry_path.parent).as_posix()
    entry.files[name] = FileRecord(path.stat().st_size, sha256_file(path))
    entry_path.write_bytes(entry_bytes(entry))


TABLES = {"crops": "infer", "soft": "calibrate", "images": "sample"}
"""By artifact, a stage that reads its tables."""


def zigzag(number: int) -> bytes:
    """As Parquet's footer spells an integer."""
    left, spelled = 2 * number, bytearray()
    while left > 127:
        spelled.append(left & 127 | 128)
        left >>= 7
    return bytes([*spelled, left])


def with_footer(data: bytes, number: int, other: int) -> bytes:
    """A Parquet file whose footer says ``other`` wherever it said ``number``."""
    size = int.from_bytes(data[-8:-4], "little")
    footer = data[-8 - size : -8]
    assert zigzag(number) in footer
    footer = footer.replace(zigzag(number), zigzag(other))
    return data[: -8 - size] + footer + struct.pack("<I", len(footer)) + data[-4:]


def lies_of_size(path: Path, chance: random.Random) -> Iterator[bytes]:
    """The same table with numbers that would take all memory, and one that really holds them."""
    data, footer = path.read_bytes(), pq.read_metadata(path)
    columns = [footer.row_group(0).column(n) for n in range(footer.num_columns)]
    sizes = [c.total_uncompressed_size for c in columns] + [
        c.total_compressed_size for c in columns
    ]
    for number in (footer.num_rows, *chance.sample(sizes, min(len(sizes), rounds(1)))):
        yield with_footer(data, number, 1 << chance.choice([31, 40, 62]))
    bomb, table = io.BytesIO(), pq.read_table(path)
    with pq.ParquetWriter(bomb, table.schema, compression="zstd") as writer:
        many = table.slice(0, 1).take(np.zeros(1 << 20, np.int64))
        for _ in range(rounds(1)):
            writer.write_table(many)
    yield bomb.getvalue()


@pytest.mark.parametrize("artifact", TABLES)
def test_absurd_sizes_of_tables_take_no_memory(own: Project, artifact: str) -> None:
    """A Parquet file that says it has 2**40 rows, or has a million in a few kilobytes."""
    own.write_params()
    stem = "images" if artifact == "images" else "part-00001"
    path, entry = Path(f"labels/{artifact}/{stem}.parquet"), Path(f"labels/{artifact}/_{stem}.json")
    good = path.read_bytes(), entry.read_bytes()
    before = own.tree()
    for changed in lies_of_size(path, random.Random(artifact)):
        claim(path, changed, entry)
        code, said = limited.run_limited("stage", TABLES[artifact], "--force")
        assert code in (0, 1, 3), (code, said)  # 0: what it says is of no use to anybody
        assert "Unexpected" not in said and "Traceback" not in said, said
        assert not code or said.splitlines()[-1].startswith("Error: "), said
        path.write_bytes(good[0])
        entry.write_bytes(good[1])
    assert cli.main(["stage", TABLES[artifact], "--force"]) == 0
    assert own.tree() == before


@pytest.mark.parametrize("where", ["shape", "chunks", "inner chunks"])
def test_absurd_sizes_of_arrays_take_no_memory(own: Project, where: str) -> None:
    """A store made by somebody who means harm: it is whole, and says that it holds 2**60 values."""
    path = Path("labels/predictions/part-00001.zarr/logp/zarr.json")
    said = json.loads(path.read_bytes())
    huge = [1 << 50, *said["shape"][1:]]
    if where == "shape":
        said["shape"] = huge
    elif where == "chunks":
        said["chunk_grid"]["configuration"]["chunk_shape"] = huge
    else:
        said["codecs"][0]["configuration"]["chunk_shape"] = huge
    claim(path, json.dumps(said).encode(), Path("labels/predictions/_part-00001.json"))
    own.write_params()
    before = own.tree()
    code, said_last = limited.run_limited("stage", "compress", "--force", "--shard", "1")
    assert code in (0, 1, 3), (code, said_last)  # 0: what is there is right, and what is read
    assert "Unexpected" not in said_last and "Traceback" not in said_last, said_last
    labels = {n: d for n, d in before.items() if "/soft/" in n and "_manifest" not in n}
    assert labels.items() <= own.tree("labels/soft").items()


@pytest.mark.parametrize("header", [1 << 62, 1 << 40, 0, 7])
def test_absurd_headers_of_weights_take_no_memory(own: Project, header: int) -> None:
    path = Path("models/teacher/model.safetensors")
    data = path.read_bytes()
    path.write_bytes(struct.pack("<Q", header) + data[8:])
    own.write_params()
    code, said = limited.run_limited("stage", "infer", "--force", "--shard", "1")
    assert code == 3 and "models/teacher" in said, (code, said)


def test_weights_that_claim_more_than_they_hold(own: Project) -> None:
    big = {"fc.weight": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    text = json.dumps(big).encode()
    path = Path("models/teacher/model.safetensors")
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    own.write_params()
    code, said = limited.run_limited("stage", "infer", "--force", "--shard", "1")
    assert code == 3 and "models/teacher" in said, (code, said)


def test_views_that_claim_more_than_they_hold(own: Project) -> None:
    plan = plan_view(own.layout, 3, Path("images"), None)
    folder = plan.open().folder
    data = (folder / "targets.npy").read_bytes()
    many = data.replace(b"(25,), }" + b" " * 8, b"(99999999999,), }")
    for changed in (many, data.replace(b"'<i8'", b"'|O8'"), data.replace(b"25", b"a(")):
        assert changed != data
        (folder / "targets.npy").write_bytes(changed)
        with pytest.raises(DataError, match="is not a whole training view"):
            plan.open()
