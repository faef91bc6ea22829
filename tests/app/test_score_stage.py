"""The optional stage score in the application: dvc.yaml, skips, removals, verify."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ferkd_pipeline import cli, dvc_file, engine, params, stage_table
from ferkd_pipeline.commands.store.info import describe_label
from stages.score import labels, proxies
from stages.score import run as stage
from stages.shared.contract import NoProgress
from store import entries, images, scores
from store.errors import DataError, ParamsError
from tests.world import NETWORK, NUM_IMAGES, Project, write_images

PROXY: dict[str, Any] = {
    "model": {**NETWORK, "input_size": 16},
    "batch_size": 8,
    "crops_per_image": 1,
    "steps": 3,
    "lr": 0.01,
    "device": "cpu",
}
LOSS: dict[str, Any] = {"estimator": "loss", "proxy": PROXY}
TAUGHT: dict[str, Any] = {"estimator": "disagreement", "proxy": PROXY}
RANDOM: dict[str, Any] = {"estimator": "random"}


def why(project: Project, **section: Any) -> list[str]:
    return project.why("score", score=section)


def values(project: Project, name: str) -> np.ndarray:
    return scores.read(project.layout, images.load(project.layout), name)[1]


def test_it_runs_once_and_its_files_are_whole(own: Project) -> None:
    outcomes = own.run("score", score={"hard": LOSS, "taught": TAUGHT, "any": RANDOM})
    assert [line.split(":")[0] for line in outcomes[0].lines] == ["hard", "taught", "any"]
    assert why(own, hard=LOSS, taught=TAUGHT, any=RANDOM) == ["complete"]
    assert cli.main(["store", "verify", "--deep"]) == 0
    for name in ("hard", "taught", "any"):
        found = values(own, name)
        assert len(found) == NUM_IMAGES and np.isfinite(found).all()
    assert (values(own, "taught") >= 0).all() and values(own, "taught").max() > 0.1
    lineage = scores.find(own.layout, "hard").lineage
    assert str(own.folder) not in str(lineage) and lineage["inputs"]["device"] == "cpu"


def test_only_what_changed_is_made_again(own: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    own.run("score", score={"hard": LOSS, "taught": TAUGHT})
    trained = []

    def watched(*given: Any) -> dict[int, str]:
        trained.append(given[0])
        return proxies.train(*given)

    monkeypatch.setattr(stage, "train", watched)
    changed: dict[str, Any] = {"compress": {"k": 1}}
    own.run("compress", **changed)
    assert own.why("score", score={"hard": LOSS, "taught": TAUGHT}, **changed) == [
        "parameters or inputs changed"
    ]
    before = own.layout.table("scores", "hard").stat().st_mtime_ns
    own.run("score", score={"hard": LOSS, "taught": TAUGHT}, **changed)
    assert own.layout.table("scores", "hard").stat().st_mtime_ns == before
    assert len(trained) == 1
    own.run("score", score={"any": RANDOM})
    names = {path.name for path in own.layout.folder("scores").iterdir()}
    assert names == {"any.parquet", "_any.json", "_manifest.json"}
    own.run("score", score={"hard": LOSS})
    values_ = own.params(score={"hard": LOSS})
    engine.run_stage(values_, "score", None, progress=NoProgress(), force=True)
    assert len(trained) == 3
    own.layout.entry("scores", "hard").unlink()  # forced, all is made anew, not what is missing
    both = own.params(score={"hard": LOSS, "any": RANDOM})
    own.run("score", score={"hard": LOSS, "any": RANDOM})
    own.layout.entry("scores", "any").unlink()
    before = len(trained)
    engine.run_stage(both, "score", None, progress=NoProgress(), force=True)
    assert len(trained) == before + 1


def test_other_validation_images_count(own: Project) -> None:
    write_images(Path("val"), num=1)
    helpful = {"estimator": "influence", "evaluation": "val", "proxy": PROXY, "batch_size": 8}
    own.run("score", score={"helpful": helpful})
    assert why(own, helpful=helpful) == ["complete"]
    next(Path("val").rglob("*.jpg")).unlink()
    assert why(own, helpful=helpful) == ["parameters or inputs changed"]
    with pytest.raises(DataError, match=r"nowhere does not exist; .* score\.helpful\.evaluation"):
        own.run("score", score={"helpful": {**helpful, "evaluation": "nowhere"}})


def test_labels_must_be_there_for_those_that_read_them(own: Project) -> None:
    entry = own.layout.entry("soft", "part-00001")
    entry.unlink()
    with pytest.raises(DataError, match=r"_part-00001\.json is missing; run .*compress --shard 1"):
        own.run("score", score={"taught": TAUGHT})
    own.run("score", score={"hard": LOSS})


def test_labels_that_are_no_probabilities_are_refused(own: Project) -> None:
    found = entries.list_entries(own.layout, "soft")
    spec = {**found[0].attributes["label"], "kind": "logits", "precision": "float16"}
    logits = [replace(each, attributes={**each.attributes, "label": spec}) for each in found]
    with pytest.raises(ParamsError, match="kind is logits, allowed with the estimator"):
        labels.TeacherLabels(own.layout, logits, NUM_IMAGES)


def test_a_changed_image_makes_scores_stale(own: Project) -> None:
    own.run("score", score={"any": RANDOM})
    write_images(Path("images"), ("fox",), num=2)
    own.run("index")
    with pytest.raises(DataError, match="scores of other images"):
        values(own, "any")
    assert why(own, any=RANDOM) == ["parameters or inputs changed"]


def test_shards_are_refused(own: Project, capsys: pytest.CaptureFixture[str]) -> None:
    own.write_params(score={"any": RANDOM})
    assert cli.main(["stage", "score", "--shard", "0"]) == 2
    assert "stage score has no shards" in capsys.readouterr().err
    assert cli.main(["stage", "score"]) == 0
    assert "any: random of 25 images" in capsys.readouterr().out


def sections(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "index": {"images": "photos"},
        "compress": {},
        "calibrate": {"a": [{"step": "truth"}]},
        **changes,
    }
    values = params.check(Path("params.yaml"), found)
    table = [info for info in stage_table.STAGES if info.name in values.sections]
    return dvc_file.stages(table, root="kept", images=dvc_file.image_folders(values.sections))


def test_dvc_yaml_has_it_where_params_have_it() -> None:
    assert "score" not in sections()
    assert sections()["calibrate"]["deps"] == ["kept/soft"]
    weighted = {**PROXY, "model": {**NETWORK, "weights": "./given/a.pth"}}
    helpful = {"estimator": "influence", "evaluation": "photos/val", "proxy": weighted}
    made = sections(score={"helpful": helpful, "again": helpful, "any": RANDOM})
    assert list(made)[:4] == ["index", "compress", "score", "calibrate"]
    assert made["calibrate"]["deps"] == ["kept/soft", "kept/scores"]
    assert made["score"] == {
        "desc": stage_table.find("score").summary,
        "cmd": "ferkd-pipeline stage score",
        "params": ["score"],
        "deps": ["photos/val", "given/a.pth", "kept/images"],
        "outs": [{"kept/scores": {"persist": True}}],
    }
    assert sections(score={"t": TAUGHT})["score"]["deps"] == ["kept/images", "kept/soft"]


def test_the_default_dvc_yaml_has_no_optional_stage() -> None:
    text = (Path(__file__).parents[2] / "dvc.yaml").read_text()
    optional = {info.name for info in stage_table.STAGES if info.optional}
    assert optional == {"score", "linear"} and not optional & set(yaml.safe_load(text)["stages"])


def test_help_says_that_it_is_optional(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["stage", "--help"]) == 0
    assert "deserve the teacher (optional)" in " ".join(capsys.readouterr().out.split())


def test_info_tells_each_score_in_a_line(own: Project, capsys: pytest.CaptureFixture[str]) -> None:
    early = {"estimator": "el2n", "proxies": 2, "proxy": PROXY}
    own.run("score", score={"early": early, "any": {**RANDOM, "seed": 7}, "plain": RANDOM})
    capsys.readouterr()
    assert cli.main(["store", "info", "--root", "labels"]) == 0
    lines = capsys.readouterr().out.partition("Where each came from")[2].splitlines()
    told = {line[:24].split()[1]: line for line in lines if line.startswith("scores ")}
    assert told["any"].endswith("  random, seed 7") and told["plain"].endswith("  random")
    [start] = [place for place, line in enumerate(lines) if line.startswith("scores early")]
    text = " ".join(lines[start].split()[2:] + lines[start + 1].split())
    assert text.startswith("el2n, proxies 2, proxy resnet18, model_kwargs.channels [8, 8, 8, 8]")
    said = " ".join(" ".join(lines).split())
    assert "lr 0.01" in said
    assert "steps 3" in said
    for default in ("weight_decay", "betas", "temperature", "mixup_alpha", "flip"):
        assert default not in " ".join(lines[start : start + 3])


def test_info_names_no_more_classes_than_there_are() -> None:
    label = {"kind": "marginal_smoothing", "num_classes": 4, "precision": "compact", "k": 5}
    assert describe_label(label).startswith("marginal_smoothing, K = 4 of 4 classes")
    assert describe_label({**label, "k": 3}).startswith("marginal_smoothing, K = 3 of 4 classes")
