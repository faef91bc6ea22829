"""`ferkd-pipeline trace`: the chain from a student or a label up to the images, what changed."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from ferkd_pipeline import cli, whole_stages
from ferkd_pipeline.trace.chain import chain_of
from ferkd_pipeline.trace.lineage import lineage_of, lineage_of_labels
from ferkd_pipeline.trace.weights_file import weights_digest
from stages.shared import weights
from stages.shared.contract import NoProgress
from store import entries
from store.errors import DataError
from tests.world import NETWORK, Project, copy_project, make_project, write_images, write_teacher

TRAIN: dict[str, Any] = {
    "model": {**NETWORK, "input_size": 32},
    "calibration": "ferkd",
    "batch_size": 8,
    "crops_per_image": 2,
    "steps": 1,
    "lr": 0.01,
    "device": "cpu",
}
SETTINGS: dict[str, Any] = {"train": TRAIN, "evaluate": {"sets": {"val": "val"}, "device": "cpu"}}
CHAIN = (
    "student models/student",
    "training view",
    "calibration ferkd",
    "soft labels",
    "predictions",
    "teacher resnet18",
    "crops",
    "images",
)


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = make_project(tmp_path_factory.mktemp("trained"))
    before = Path.cwd()
    os.chdir(project.folder)
    try:
        write_images(Path("val"), num=1)
        project.write_params(**SETTINGS)
        for name in ("train", "evaluate"):
            whole_stages.run(project.params(**SETTINGS), name, NoProgress())
    finally:
        os.chdir(before)
    return project


@pytest.fixture
def trained(trained_once: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with a student and its metrics, as the current folder, to change."""
    copied = copy_project(trained_once, tmp_path / "own")
    monkeypatch.chdir(copied.folder)
    return copied


def traced(path: str | Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    """What the command says, as JSON: nodes by what they are, in order."""
    assert cli.main(["trace", str(path), "--json", *options]) == 0
    found: dict[str, Any] = {}

    def add(node: dict[str, Any]) -> None:
        assert node["what"] not in found, "named twice"
        found[node["what"]] = node
        for above in node["made_from"]:
            add(above)

    add(json.loads(capsys.readouterr().out))
    return found


def states(path: str | Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, str]:
    return {what: node["state"] for what, node in traced(path, capsys, *options).items()}


def shown(path: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["trace", path]) == 0
    return capsys.readouterr().out


def test_a_student(trained: Project, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown("models/student", capsys)
    assert max(map(len, text.splitlines())) <= 100
    places = [text.index(f"{what}  ") for what in CHAIN]
    assert places == sorted(places)
    for said in (
        "lr 0.01, batch_size 8",
        "step 1: ferkd, drop_below 0.3",
        "marginal_smoothing, K = 2 of 5 classes, compact",
        "seed 5",
        "25 images of 5 classes",
        "└── images",
        "├── teacher resnet18",
        "unchanged: models/teacher",
    ):
        assert said in text
    assert text.endswith("Everything that made it is still as it was.\n")
    assert states("models/student/model.safetensors", capsys) == dict.fromkeys(
        [
            what.replace("student models/student", "student models/student/model.safetensors")
            for what in CHAIN
        ],
        "unchanged",
    )


def test_as_json(trained: Project, capsys: pytest.CaptureFixture[str]) -> None:
    found = traced("models/student", capsys)
    card = json.loads(Path("models/student/model.json").read_text())
    assert tuple(found) == CHAIN
    assert found[CHAIN[0]]["digest"] == found[CHAIN[0]]["digest_now"] == card["digest"]
    assert found["training view"]["digest"] == card["extra"]["view"]
    assert found["crops"]["recorded"]["params"]["seed"] == 5
    teacher = json.loads(Path("models/teacher/model.json").read_text())
    assert found["teacher resnet18"]["digest"] == teacher["digest"]
    assert (
        found["images"]["digest"] == entries.list_entries(trained.layout, "images")[0].rows_digest
    )


def test_the_card_holds_the_lineage_whatever_becomes_of_the_store(
    trained: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    before = traced("models/student", capsys)
    shutil.rmtree("labels")
    Path("labels").mkdir()
    after = traced("models/student", capsys)
    assert tuple(after) == CHAIN
    for what in CHAIN[1:]:
        assert after[what]["state"] == ("unchanged" if "teacher" in what else "missing"), what
        assert after[what]["recorded"] == before[what]["recorded"]
    text = shown("models/student", capsys)
    assert "no longer here: labels holds no soft labels" in text
    assert "Not what it was: training view, calibration ferkd, soft labels, predic" in text


@pytest.mark.parametrize(
    ("stage", "change", "changed"),
    [
        ("compress", {"k": 3}, {"training view", "soft labels"}),
        ("calibrate", {"ferkd": [{"step": "soften"}]}, {"training view", "calibration ferkd"}),
        ("infer", {"batch_size": 5, "block_images": 5}, set()),
        ("sample", {"seed": 6}, {"training view", "crops"}),
    ],
)
def test_what_changed_since(
    trained: Project,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    change: dict[str, Any],
    changed: set[str],
) -> None:
    if stage == "calibrate":
        change = {"ferkd": [{"step": "ferkd", "preset": "custom", "drop_below": 0.6}]}
    changes: dict[str, Any] = {stage: change}
    trained.run(stage, **changes)
    found = traced("models/student", capsys)
    wrong = {what for what, node in found.items() if node["state"] != "unchanged"}
    assert wrong == changed
    for what in changed - {"training view"}:
        assert found[what]["digest_now"] not in (None, found[what]["digest"])
    assert (
        found["training view"]["why"] is None
        or "run `ferkd-pipeline" in (found["training view"]["why"])
    )
    if changed:
        assert "CHANGED, now " in shown("models/student", capsys)


def test_more_images(trained: Project, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(Path("images"), num=6)
    trained.run("index")
    assert states("models/student", capsys)["images"] == "changed"
    found = traced("labels/soft", capsys)
    assert found["images"]["state"] == "changed"
    assert found["predictions"]["state"] == "unchanged"


def test_another_teacher(trained: Project, capsys: pytest.CaptureFixture[str]) -> None:
    write_teacher(Path("models/teacher"), seed=3)
    found = traced("models/student", capsys)["teacher resnet18"]
    assert (found["state"], found["why"]) == (
        "missing",
        "no model in models/ has these weights",
    )


def test_weights_that_are_not_those_of_the_card(
    trained: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path("models/student/model.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert states("models/student", capsys)["student models/student"] == "changed"
    path.unlink()
    assert states("models/student", capsys)["student models/student"] == "missing"


def test_a_card_without_lineage(trained: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """As long as the store is the same, it tells the rest."""
    path = Path("models/student/model.json")
    card = json.loads(path.read_text())
    card["extra"]["labels_made_from"] = None
    del card["sha256"]
    path.write_text(json.dumps(card))
    assert states("models/student", capsys) == dict.fromkeys(CHAIN, "unchanged")
    trained.run("compress", compress={"k": 3})
    found = states("models/student", capsys)
    assert found == {
        "student models/student": "unchanged",
        "training view": "changed",
    } or found == {
        "student models/student": "unchanged",
        "training view": "missing",
    }
    assert "what its labels were made from was not recorded" in shown("models/student", capsys)


@pytest.mark.parametrize(
    ("path", "top"),
    [
        ("labels/soft/part-00001.parquet", "soft labels"),
        ("labels/soft/_part-00001.json", "soft labels"),
        ("labels/predictions/part-00001.zarr", "predictions"),
        ("labels/predictions/part-00001.zarr/target_logp/zarr.json", "predictions"),
        ("labels/calibrated/ferkd/part-00001.parquet", "calibration ferkd"),
        ("labels/calibrated/ferkd/_fit.json", "calibration ferkd"),
        ("labels/calibrated/ferkd", "calibration ferkd"),
        ("labels/crops", "crops"),
        ("labels/images/classes.parquet", "images"),
        ("labels/rejects", "rejects"),
    ],
)
def test_in_the_store(
    trained: Project, capsys: pytest.CaptureFixture[str], path: str, top: str
) -> None:
    found = traced(path, capsys)
    expected = [*CHAIN[CHAIN.index(top) :]] if top in CHAIN else ["rejects", "images"]
    assert [*found] == expected
    assert {node["state"] for node in found.values()} == {"unchanged"}
    if "part-00001" in path:
        kind = path.split("/part")[0].split("/_part")[0].removeprefix("labels/")
        assert found[top]["digest"] == trained.entry(kind, 1).rows_digest


def test_a_part_alone_has_changed_inputs(
    trained: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    trained.run("infer", shards=(1,), infer={"temperatures": [1, 2]})
    old, new = (
        trained.entry("soft", 1).lineage["inputs"]["predictions"],
        trained.entry("predictions", 1).rows_digest,
    )
    assert old != new
    found = traced("labels/soft/part-00001.parquet", capsys)["predictions"]
    assert (found["state"], found["digest"], found["digest_now"]) == ("changed", old, new)
    assert found["recorded"] == {"rows_digest": old}
    assert set(states("labels/soft/part-00000.parquet", capsys).values()) == {"unchanged"}
    assert states("labels/soft", capsys)["predictions"] == "changed"
    text = shown("labels/predictions", capsys)
    assert "parts were made with different parameters" in text


def test_without_predictions(trained: Project, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("labels/predictions")
    found = states("labels/soft", capsys)
    assert found == {
        "soft labels": "unchanged",
        "predictions": "missing",
        "crops": "unchanged",
        "images": "unchanged",
    }


def test_copies_and_exports(
    trained: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = tmp_path / "copy.safetensors"
    shutil.copy("models/student/model.safetensors", copied)
    assert [*states(copied, capsys)] == [f"weights {copied}", *CHAIN]
    card = json.loads(Path("models/student/model.json").read_text())
    half = {"w": torch.ones(2, dtype=torch.float16)}
    safetensors.torch.save_file(half, copied, {"digest": card["digest"]})
    assert [*states(copied, capsys)] == [f"weights {copied}", *CHAIN]
    safetensors.torch.save_file(half, copied)
    assert cli.main(["trace", str(copied)]) == 3
    assert "no model in models has its weights" in capsys.readouterr().err
    copied.write_bytes(b"not weights")
    assert cli.main(["trace", str(copied)]) == 3
    assert f"{copied}: not a readable .safetensors file" in capsys.readouterr().err


def test_elsewhere_with_the_root_named(
    trained: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir("/")
    folder = trained.folder
    found = states(folder / "models/student", capsys, "--root", str(folder / "labels"))
    assert set(found.values()) == {"unchanged"}
    assert set(states(folder / "labels/soft", capsys).values()) == {"unchanged"}


def test_a_training_view(trained: Project, capsys: pytest.CaptureFixture[str]) -> None:
    (meta,) = Path(".ferkd/view").glob("*/meta.json")
    for path in (meta, meta.parent):
        found = states(path, capsys)
        assert [*found] == [f"training view {meta.parent}", *CHAIN[2:]]
        assert set(found.values()) == {"unchanged"}


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_metrics(trained: Project, capsys: pytest.CaptureFixture[str], name: str) -> None:
    top = f"metrics metrics/{name}"
    found = states(f"metrics/{name}/summary.json", capsys)
    assert found == dict.fromkeys([top, *CHAIN], "unchanged")
    Path(f"metrics/{name}/more.csv").write_text("1\n")
    assert states(f"metrics/{name}", capsys)[top] == "changed"
    shutil.rmtree(".ferkd/done")
    assert states(f"metrics/{name}", capsys)[top] == "not recorded"
    assert "not recorded: metrics" in shown(f"metrics/{name}", capsys)


def test_metrics_of_a_student_that_is_gone(
    trained: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("models/student")
    found = states("metrics/train", capsys)
    assert found["metrics metrics/train"] == "changed"
    assert found["soft (all parts)"] == found["calibrated/ferkd (all parts)"] == "unchanged"
    assert [*found][2:-1] == [*CHAIN[2:]]
    trained.run("compress", compress={"k": 3})
    assert states("metrics/train", capsys)["soft (all parts)"] == "changed"


@pytest.mark.parametrize(
    "path", ["no/such", "params.yaml", "images", "labels", "labels/soft/x.csv"]
)
def test_what_cannot_be_traced(
    trained: Project, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    Path("labels/soft/x.csv").write_text("")
    assert cli.main(["trace", path]) == 3
    said = capsys.readouterr().err
    assert path in said and "labels/soft/part-00003.parquet" in said


def test_a_lineage_is_plain_json_without_paths(trained: Project) -> None:
    found = lineage_of_labels(trained.layout, "ferkd")
    assert [*found] == [*("calibrated/ferkd", "soft", "predictions", "teachers", "crops", "images")]
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text) == found
    assert str(trained.folder) not in text and "models/" not in text
    assert [*lineage_of_labels(trained.layout, None)] == [*found][1:]
    with pytest.raises(DataError, match="holds no calibrated/other"):
        lineage_of_labels(trained.layout, "other")


def test_a_lineage_sorted_by_name_is_the_same_chain(trained: Project) -> None:
    """As JSON files with sorted keys give it back."""
    found = lineage_of_labels(trained.layout, None)
    chain = chain_of(trained.layout, dict(sorted(found.items())))
    assert [node.what for node in chain.walk()] == [*CHAIN[3:]]


def test_several_teachers(trained: Project, capsys: pytest.CaptureFixture[str]) -> None:
    card = json.loads(Path("models/teacher/model.json").read_text())
    members = [
        {"name": "resnet18", "weights": card["digest"], "share": 0.25},
        {"name": "vit", "weights": "f" * 64, "share": 0.75},
    ]
    for shard in range(3):
        entry = trained.entry("predictions", shard)
        inputs = {**entry.lineage["inputs"], "ensemble": {"average": "logits", "members": members}}
        entries.publish(trained.layout, replace(entry, lineage={**entry.lineage, "inputs": inputs}))
    assert lineage_of(trained.layout, "predictions")["teachers"] == members
    found = states("labels/predictions", capsys)
    assert (found["teacher resnet18"], found["teacher vit"]) == ("unchanged", "missing")
    assert "0.75 of the average" in shown("labels/predictions", capsys)


def test_the_digest_of_a_file_is_that_of_its_network(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 4).T)
            for number, kind in enumerate((torch.bool, torch.int64, torch.bfloat16, torch.uint8)):
                self.register_buffer(f"b{number}", torch.ones((2, number), dtype=kind))
            self.register_buffer("scalar", torch.tensor(2.5, dtype=torch.float64))

    module = Odd()
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(weights.plain_state_dict(module), path, {"some": "words"})
    assert weights_digest(path) == weights.weights_digest(module)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from ferkd_pipeline.cli import main; main(['trace', '--help']);"
        "heavy = {'torch', 'pyarrow', 'pydantic', 'numpy', 'rich', 'yaml', 'zarr', 'safetensors'};"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    folder = Path(__file__).parents[2]
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert "FILE|FOLDER" in done.stdout


def test_tracing_loads_no_torch(trained: Project) -> None:
    code = (
        "import sys; from ferkd_pipeline.cli import main; main(['trace', 'models/student']);"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == "False\n"
