"""`ferkd-pipeline teacher check` on planted mistakes, and the short form in `stage infer`."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ferkd_pipeline import cli
from ferkd_pipeline.commands.teacher import teacher
from ferkd_pipeline.teacher_check import look
from stages.infer import check
from stages.infer.examine.sampling import spread
from tests.painted import (
    CODE,
    NAMES,
    write_knowing,
    write_params,
    write_pictures,
    write_project,
)
from tests.world import Project

HERE = Path()
WEIGHTS = Path("palette.safetensors")
PALETTE = {"name": "palette:palette", "weights": "palette.safetensors"}


@pytest.fixture
def painted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project whose teacher knows every class, as the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    write_project(tmp_path)
    sys.modules.pop("palette", None)
    yield tmp_path
    sys.modules.pop("palette", None)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main(["teacher", "check", *words])
    captured = capsys.readouterr()
    return code, " ".join(captured.out.split()), captured.err


def found_json(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert cli.main(["teacher", "check", *words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def kinds(found: Any) -> list[str]:
    return [each["kind"] for each in found["findings"]]


def test_the_options_are_frozen() -> None:
    options = {option for each in teacher.commands["check"].params for option in each.opts}
    assert options == {"--images", "--limit", "--params", "--json"}
    assert list(teacher.commands) == ["check"]


def test_the_command_is_one_call(painted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def called(values: Any, folder: Path | None, limit: int | None, _: object) -> Any:
        calls.append((values.path, folder, limit))
        raise KeyboardInterrupt

    monkeypatch.setattr(look, "look", called)
    assert cli.main(["teacher", "check", "--images", "val", "--limit", "9"]) == 130
    assert cli.main(["teacher", "check"]) == 130
    assert calls == [(Path("params.yaml"), Path("val"), 9), (Path("params.yaml"), None, None)]


def test_a_teacher_that_fits(painted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys)
    assert code == 0
    assert "val (val): 72 images, on cpu in float32" in out
    assert "infer.teacher (palette:palette) 100.00 100.00 1.000 100.00" in out
    assert "On 288 random crops, drawn as by stage sample: right on 100.0%" in out
    assert "was made for a teacher with .3 % of them" in out  # this one is ever so sure
    assert out.endswith("Nothing found that speaks against labels of this teacher.")
    assert "ask about val: 72 images" in err and "Warning" not in err
    assert not Path("labels").exists()  # nothing is written, and nothing need be indexed


def test_json_has_every_number(painted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_knowing(WEIGHTS, sure=1)
    found = found_json(capsys, "--limit", "20")
    assert (found["ok"], found["set"], found["num_images"]) == (True, "val", 20)
    [one] = found["teachers"]
    assert one == {"key": "infer.teacher", "name": "palette:palette", "share": 1.0} | {
        name: one[name] for name in found["average"] if name != "of"
    }
    assert found["average"]["top1"] > 0.9 and found["average"]["mean_max_prob"] < 0.7
    assert found["random_crops"]["num"] == 80
    assert found["findings"] == []


def test_another_order_is_named(painted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order = np.random.default_rng(3).permutation(len(NAMES))
    write_knowing(WEIGHTS, order.tolist())
    code, out, err = run(capsys)
    assert code == 3
    assert "WRONG: infer.teacher counts 11 of 12 classes in another order than the folders" in out
    answer = int(order[0])
    assert f"images of ant (class 0) are mostly answered as class {answer} ({NAMES[answer]})" in out
    assert "WRONG: infer.teacher is near chance: right on 6 of 72 images" in out
    assert err.endswith(
        "Error: infer.teacher does not fit these images (another order of classes, near chance); "
        "see above\n"
    )
    found = found_json(capsys, code=3)
    assert (found["ok"], kinds(found)) == (False, ["class_order", "near_chance"])


def test_numbers_sorted_as_text_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("palette", None)
    names = [str(number) for number in range(12)]  # the teacher's class c has folder c
    write_project(tmp_path, names)
    code, out, _ = run(capsys, "--limit", "24")
    sys.modules.pop("palette", None)
    assert code == 3
    assert "another order than the folders, by the numbers in the names, 2 before 10" in out


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (
            {"mean": [0.5] * 3, "std": [0.5] * 3},
            "leave infer.teacher.mean and infer.teacher.std out of params.yaml",
        ),
        ({"mean": [0.6, 0.6, 0.6]}, "leave infer.teacher.mean out of params.yaml"),
    ],
)
def test_wrong_pixels_are_named(
    painted: Path, capsys: pytest.CaptureFixture[str], given: Any, advice: str
) -> None:
    write_params(HERE, infer={"teacher": given})
    code, out, err = run(capsys)
    assert code == 3
    assert "with what its card or library says the teacher is right on 72 of 72 images" in out
    assert advice in out
    assert "(other pixels than its weights want" in err


def test_pixels_of_the_usual_kinds_are_found(
    painted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The module says one mean and deviation, its weights were trained with others."""
    write_knowing(WEIGHTS, pixels=((0.5,) * 3, (0.5,) * 3))
    found = found_json(capsys, code=3)
    [pixels] = [each for each in found["findings"] if each["kind"] == "pixels"]
    assert pixels["settings"] == {
        "infer.teacher.mean": [0.5, 0.5, 0.5],
        "infer.teacher.std": [0.5, 0.5, 0.5],
    }
    assert "with 0.5 and 0.5 the teacher is right on 72 of 72 images" in pixels["message"]
    assert "set infer.teacher.mean: [0.5, 0.5, 0.5] and set infer.teacher.std" in pixels["message"]
    write_params(HERE, infer={"teacher": {"mean": [0.5] * 3, "std": [0.5] * 3}})  # as it says
    assert found_json(capsys)["ok"]


def test_channels_in_another_order_are_found(
    painted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Colours turned round look like classes turned round here; the pixels are the cause."""
    (painted / "palette.py").write_text(CODE.replace("x.mean(", "x.flip(1).mean("))
    found = found_json(capsys, code=3)
    assert kinds(found) == ["pixels"]
    assert "channels in the order BGR" in found["findings"][0]["message"]
    assert "let a function of yours turn the channels round" in found["findings"][0]["message"]


def test_hooks_of_a_network_count(painted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As docs/teachers.md mends channels in another order."""
    turned = CODE.replace("x.mean(", "x.flip(1).mean(") + (
        "def bgr(num_classes):\n"
        "    model = Palette(num_classes)\n"
        "    model.register_forward_pre_hook(lambda module, given: (given[0].flip(1),))\n"
        "    return model\n"
    )
    (painted / "palette.py").write_text(turned)
    write_params(HERE, infer={"teacher": {"name": "palette:bgr"}})
    assert found_json(capsys)["average"]["top1"] == 1


def test_the_page_shows_how_to_bring_orders_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("palette", None)
    write_project(tmp_path, ["ant", "cat", "dog"])
    write_knowing(Path("teacher.safetensors"), [2, 0, 1], num_classes=3)  # cat, dog, ant
    write_params(HERE, infer={"teacher": {"weights": "teacher.safetensors"}})
    assert "class_order" in kinds(found_json(capsys, code=3))
    page = (Path(__file__).parents[2] / "docs" / "teachers.md").read_text()
    [script] = [part for part in page.split("```python\n")[1:] if "reordered" in part]
    exec(script.split("```")[0], {})
    write_params(HERE, infer={"teacher": {"weights": "reordered.safetensors"}})
    found = found_json(capsys)
    sys.modules.pop("palette", None)
    assert found["ok"] and found["average"]["top1"] == 1


def test_a_teacher_that_knows_nothing(painted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_knowing(WEIGHTS, sure=0)
    code, out, _ = run(capsys)
    assert code == 3
    assert "or its weights are not trained" in out and "Nothing found" not in out
    assert kinds(found_json(capsys, code=3)) == ["near_chance"]


def test_few_images_are_too_few(painted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--limit", "1")
    assert code == 0 and "Warning: 1 image cannot tell" in err
    assert "Nothing found" not in out


def test_every_member_of_an_ensemble_is_judged(
    painted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_knowing(Path("other.safetensors"), np.roll(np.arange(12), 5).tolist())
    other = {**PALETTE, "weights": "other.safetensors", "share": 0.1}
    write_params(HERE, infer={"teacher": None})
    params = json.loads(Path("params.yaml").read_text())
    params["infer"]["teacher"] = [PALETTE, other]
    Path("params.yaml").write_text(json.dumps(params))
    found = found_json(capsys, code=3)
    by_key = {each["key"]: each["top1"] for each in found["teachers"]}
    assert by_key == {"infer.teacher[0]": 1.0, "infer.teacher[1]": 0.0}
    assert found["average"]["top1"] == 1.0  # which hides it
    assert {each["key"] for each in found["findings"]} == {"infer.teacher[1]"}
    _, out, _ = run(capsys)
    assert out.index("infer.teacher[0] (") < out.index("infer.teacher[1] (")
    assert "average of probabilities 100.00" in out


def test_projections_have_no_accuracy(painted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_params(HERE, infer={"outputs": "projection", "num_outputs": 12})
    code, out, _ = run(capsys)
    assert code == 0
    assert "12 outputs an image" in out and "there is no accuracy" in out
    assert found_json(capsys)["spread"] > 0.1
    write_knowing(WEIGHTS, sure=0)
    assert kinds(found_json(capsys, code=3)) == ["outputs"]
    write_knowing(WEIGHTS, sure=1e5)
    assert "up to 65504" in run(capsys)[1]
    write_params(HERE, infer={"outputs": "projection", "num_outputs": 7})
    code, _, err = run(capsys)
    assert code == 3 and "infer.num_outputs is 7" in err


def test_outputs_that_are_not_finite(painted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_params(HERE, infer={"teacher": {"name": "palette:dead"}})
    found = found_json(capsys, code=3)
    assert "not_finite" in kinds(found)
    assert "gave NaN or infinity for 72 of 72 images" in found["findings"][0]["message"]


def test_other_numbers_of_classes(painted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_knowing(WEIGHTS, num_classes=10)
    code, _, err = run(capsys)
    assert code == 3 and "tell 10 classes apart, the data has 12" in err
    write_knowing(WEIGHTS)
    (painted / "palette.py").write_text(CODE.replace("x.mean((2, 3)))", "x.mean((2, 3)))[:, :9]"))
    sys.modules.pop("palette", None)
    code, _, err = run(capsys)
    assert code == 3 and "infer.teacher: palette:palette gives 9 classes, the images have 12" in err


def test_bad_images_do_not_count(painted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("val/bee/3.png").write_bytes(b"<html>")
    found = found_json(capsys)
    assert found["num_unreadable"] == 1 and found["average"]["num"] == 71
    assert kinds(found) == ["unreadable"]
    for path in Path("val").glob("*/*.png"):
        path.write_bytes(b"")
    code, _, err = run(capsys)
    assert code == 3 and "none of the 72 images could be read" in err


def test_which_images_are_asked_about(painted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pictures(Path("more"), NAMES[:3], num=2)
    assert found_json(capsys, "--images", "more")["num_images"] == 6
    write_params(HERE, evaluate=None)
    code, _, err = run(capsys)
    assert code == 2 and "names no validation images (evaluate.sets)" in err and "--images" in err
    train = {"model": {"name": "resnet18"}, "lr": 0.1, "steps": 1, "evaluation": "more"}
    write_params(HERE, evaluate=None, train=train)
    assert found_json(capsys)["folder"] == "more"
    write_pictures(Path("stranger"), ["yak"], num=1)
    code, _, err = run(capsys, "--images", "stranger")
    assert code == 3 and "training knows no class of this name" in err


def test_before_the_long_run_a_few_images_are_asked_about(
    painted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [cli.main(["stage", name]) for name in ("index", "sample")] == [0, 0]
    capsys.readouterr()
    assert cli.main(["stage", "infer"]) == 0
    said = capsys.readouterr().err
    assert said.count("the teacher is right on 64 of 64 images\n") == 1  # not once a shard
    assert "WARNING" not in said
    written = {path: path.read_bytes() for path in Path("labels").rglob("*") if path.is_file()}
    assert cli.main(["stage", "infer"]) == 0
    assert "right on" not in capsys.readouterr().err
    shutil.rmtree("labels/predictions")
    shutil.rmtree(".ferkd")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "look_once", lambda *_: None)
        assert cli.main(["stage", "infer"]) == 0
    again = {path: path.read_bytes() for path in Path("labels").rglob("*") if path.is_file()}
    assert again == written


def test_the_short_form_warns_and_fails_nothing(
    painted: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_knowing(WEIGHTS, np.roll(np.arange(12), 1).tolist())
    assert [cli.main(["stage", name]) for name in ("index", "sample")] == [0, 0]
    said_of_ant = int((spread(np.repeat(np.arange(12), 6), 64) < 6).sum())
    Path("images/ant").rename("elsewhere")  # of shard 0, which another machine labels
    capsys.readouterr()
    assert cli.main(["stage", "infer", "--shard", "2"]) == 0
    said = capsys.readouterr().err
    num_left = 64 - said_of_ant
    assert f"the teacher is right on 0 of {num_left} images" in said
    assert said.count(f"WARNING: the teacher is near chance on these {num_left} images") == 1
    Path("elsewhere").rename("images/ant")
    monkeypatch.setattr(check, "_SECONDS", 0.0)
    write_knowing(WEIGHTS)
    assert cli.main(["stage", "infer", "--shard", "0"]) == 0
    assert "the teacher is right on 8 of 8 images" in capsys.readouterr().err  # time was up


def test_the_short_form_of_projections(painted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_params(HERE, infer={"outputs": "projection", "num_outputs": 12})
    for name in ("index", "sample", "infer"):
        assert cli.main(["stage", name]) == 0
    said = capsys.readouterr().err
    assert said.count("the teacher gives 12 outputs, finite on 64 of 64 images") == 1


def test_resuming_and_copying_ask_nothing(own: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "look_once", None)
    own.run("sample", "infer", store={"num_shards": 2})  # every prediction is copied
