"""`calibrate preview`: text, JSON and page on the tiny project, and what it refuses."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ferkd_pipeline import cli
from ferkd_pipeline.commands.calibrate import calibrate
from ferkd_pipeline.preview import figures, pictures, proposals, samples
from stages.calibrate import survey
from stages.calibrate.recipe import Recipe
from stages.calibrate.thresholds import Thresholds
from stages.shared.contract import NoProgress
from tests.world import CLASSES, Project, copy_project

NOISE = "{step: noise, confidence: 0.3, agreement: 0.6, target_below: 0.6}"
TRY = f"[{NOISE}, {{step: revise}}, {{step: ferkd, preset: ferkd_share}}]"


def run(*words: str) -> int:
    return cli.main(["calibrate", "preview", *words])


def found_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert run(*words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_the_options_are_frozen() -> None:
    options = {option for each in calibrate.commands["preview"].params for option in each.opts}
    assert options == {
        *("names", "--try", "--all", "--page", "--images", "--seed", "--params", "--json"),
    }


def test_the_command_is_one_call(shared: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def preview(recipes: list[Recipe], source: Any, _: object, *, everything: bool) -> Any:
        calls.append(([recipe.name for recipe in recipes], source, everything))
        raise KeyboardInterrupt

    monkeypatch.setattr(survey, "preview", preview)
    assert run("shares", "--try", "{step: truth}", "--all") == 130
    run()
    source = shared.source()
    assert calls == [(["shares", "try"], source, True), (["ferkd", "shares"], source, False)]


def test_it_prints_tables_and_what_to_do_next(
    shared: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    before = shared.tree()
    assert run("--page", "../preview.html") == 0
    captured = capsys.readouterr()
    for text in (
        "Counted: all 100 crops of 25 images.",
        "Calibration shares",
        "2. revise labels whose first class is wrong: eta 0.7, so a margin of 0.3",
        "2 images would lose all their crops: these 8 stay as softened ground truth.",
        "Label entropy: 0.674 -> 0.694 nats",
        "Side by side",
        "How reliable the teacher is, by the teacher's maximum",
        "The key validation of the step ferkd",
        "Next: `ferkd-pipeline stage calibrate` writes each as an overlay.",
    ):
        assert captured.out.count(text) == 1
    order = [captured.out.index(text) for text in ("Side by side", "Calibration fe", "How reliab")]
    assert order == sorted(order)
    assert "\x1b" not in captured.out
    assert re.search(r"^drop +20 +20\.00 +15 +60\.00$", captured.out, re.MULTILINE)
    assert captured.err.endswith("../preview.html: the same with pictures\n")
    assert shared.tree() == before


def test_json_has_every_number(shared: Project, capsys: pytest.CaptureFixture[str]) -> None:
    found = found_json(capsys, "shares", "--try", TRY)
    assert (found["num_crops"], found["num_all_crops"], found["is_sample"]) == (100, 100, False)
    shares, tried = found["calibrations"]["shares"], found["calibrations"]["try"]
    assert shares["actions"]["drop"] == {
        "crops": 20, "share": 0.2, "images": 15, "image_share": 0.6,
    }  # fmt: skip
    assert sum(each["share"] for each in tried["actions"].values()) == pytest.approx(1)
    assert shares["intervals"] == "drop up to 0.5875, soften up to 0.7125, drop from 0.9175"
    assert shares["restored_images"] == 2 and shares["suspects"] is None
    assert shares["entropy"]["classes_after"] == pytest.approx(np.exp(shares["entropy"]["after"]))
    bins = shares["reliability"]["bins"]
    assert sum(each["training"]["crops"] for each in bins) == 100
    assert {each["validation"] for each in bins} == {None}
    assert len(tried["suspects"]) > 5
    assert tried["suspects"][0]["class"] in CLASSES
    assert [step["step"] for step in tried["steps"]] == ["noise", "revise", "ferkd"]


def test_suspects_and_validation_are_told(own: Project, capsys: pytest.CaptureFixture[str]) -> None:
    own.make_validation_store()
    auto = "{step: ferkd, preset: auto, on: target, validation: labels-val}"
    assert run("--try", f"[{NOISE}, {auto}]") == 0
    shown = capsys.readouterr().out
    assert re.search(r"\d+ of 25 images are suspected of a wrong label", shown)
    assert "  All of these: --json. Of the whole store, once the stage has run: labels/" in shown
    assert "labels/calibrated/try/_suspects-*.parquet" in shown
    assert shown.count(": labelled ") == 5
    assert "validation %" in shown and "by heart" not in shown
    assert "by the ground truth's probability" in shown
    assert "put the steps into params.yaml under calibrate.try, or another name, and" in shown


def test_none_and_few_suspects(shared: Project, capsys: pytest.CaptureFixture[str]) -> None:
    noise = "[{step: noise, confidence: %s, agreement: 0.6, target_below: %s}, {step: truth}]"
    assert run("--try", noise % (1, 0.1), "--page", "../none.html") == 0
    hint = "A teacher that was trained on these very labels can hardly contradict them"
    shown = capsys.readouterr().out
    assert "0 of 25 images are suspected" in shown and hint in shown and "--json" not in shown
    assert hint in Path("../none.html").read_text(encoding="utf-8")
    few = next(
        tried
        for tried in (noise % (least / 100, 0.6) for least in range(30, 100, 2))
        if 0 < len(found_json(capsys, "--try", tried)["calibrations"]["try"]["suspects"]) <= 5
    )
    assert run("--try", few) == 0
    shown = capsys.readouterr().out
    assert "_suspects-*.parquet" in shown and "All of these" not in shown and hint not in shown


def test_warnings_are_those_of_the_stage(
    shared: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    drops = "{step: ferkd, preset: custom, drop_below: 0.7}"
    assert run("--try", drops, "--page", "../warned.html") == 0
    captured = capsys.readouterr()
    start = "FerKD's thresholds would drop "
    assert f"Warning: try: {start}" in captured.err and start not in captured.out
    assert "Warning: try: FerKD&#x27;s thresholds" in Path("../warned.html").read_text("utf-8")
    assert run("--try", drops, "--json") == 0
    captured = capsys.readouterr()
    assert f"Warning: try: {start}" in captured.err
    warnings = json.loads(captured.out)["calibrations"]["try"]["warnings"]
    assert warnings[0].startswith(start)
    assert run("--try", "{step: truth}", "--json") == 0
    captured = capsys.readouterr()
    assert "Warning" not in captured.err
    assert json.loads(captured.out)["calibrations"]["try"]["warnings"] == []


def test_each_probability_has_one_table(own: Project, capsys: pytest.CaptureFixture[str]) -> None:
    own.make_validation_store()
    words = [
        "{step: truth}",
        "{step: ferkd, preset: auto, validation: labels-val}",
        "{step: ferkd, preset: ferkd_share, on: target}",
        "{step: revise}",
    ]
    assert run(*(word for each in words for word in ("--try", each))) == 0
    shown = capsys.readouterr().out
    assert shown.count("How reliable the teacher is") == 2
    assert shown.count("validation %") == 1
    assert "Next: put the steps that you choose of try, try-2, try-3, try-4 into" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--try", "{step: revise, eta: 2}"), "--try: calibrate.try[0].eta = 2: must be less than"),
        (("--try", "{step: ferkd, epz: 1}"), "--try: calibrate.try[0].epz: unknown key; did you"),
        (("--try", "{step: truth}", "--try", "7"), "--try '7': must be one step, such as '{step:"),
        (("--try", ""), "--try '': must be one step, such as '{step: ferkd}', or a list of steps"),
        (("--try", "ferkd"), "--try 'ferkd': must be one step, such as '{step: ferkd}', or a"),
        (("--try", "[ferkd]"), '--try: calibrate.try[0] = "ferkd": must be'),
        (("--try", "[{step: ferkd"), "--try '[{step: ferkd': expected ',' or '}', but got '<st"),
        (("--try", "- step: truth\n- step: {x\n"), "--try: line 2: expected ',' or '}', but got"),
        (("--try", "- step: truth\n- ]\n- step: x"), "--try: line 2: "),
        (("--try", "{step: revise, share: 0.5}"), "try[0].share: step revise has no such key; le"),
        (("--try", "{step: ferkd, preset: custom, drop_from: 0.01}"), "drops every one of 100"),
        (("shaers",), "NAME shaers: params.yaml names no such calibration; did you mean shares?"),
        (("--page", "labels/x.html"), "--page labels/x.html: lies in the label store"),
        (("--page", "no/dir/x.html"), "--page no/dir/x.html: there is no folder no/dir; make it"),
    ],
)
def test_what_is_wrong_is_one_line(
    words: tuple[str, ...], message: str, shared: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    before = shared.tree()
    assert run(*words) == 2
    captured = capsys.readouterr()
    line = captured.err.splitlines()[-1]
    assert line.startswith("Error: ") and message in line
    assert captured.out == "" and shared.tree() == before and not Path("no").exists()


def test_without_a_section_calibrate(own: Project, capsys: pytest.CaptureFixture[str]) -> None:
    own.write_params(calibrate=None, index=None)
    assert list(found_json(capsys, "--try", "{step: truth}")["calibrations"]) == ["try"]
    assert run() == 2
    assert "has no section `calibrate`; try steps with --try" in capsys.readouterr().err
    own.write_params(calibrate={"try": [{"step": "truth"}]})
    assert list(
        found_json(capsys, "try", "--try", "- step: revise\n  eta: 0.5")["calibrations"]
    ) == [
        "try",
        "try-2",
    ]


def test_missing_labels_are_exit_3(own: Project, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("labels/soft")
    assert run() == 3
    assert "run `ferkd-pipeline stage compress --shard 0` first" in capsys.readouterr().err
    shutil.rmtree("labels")
    assert run() == 3
    assert "there is no label store" in capsys.readouterr().err


# The page.


class Tags(HTMLParser):
    """Counts open tags; refuses what closes another than the last."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}

    def handle_starttag(self, tag: str, _: object) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, _: object) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(text: str) -> Tags:
    tags = Tags()
    tags.feed(text)
    assert not tags.open
    return tags


@pytest.fixture(scope="module")
def page(made: Project, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a project whose class names are long and need quoting."""
    own = copy_project(made, tmp_path_factory.mktemp("page"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(own.folder)
        assert run("shares", "--try", TRY, "--page", "p.html", "--images", "4") == 0
        first = Path("p.html").read_text(encoding="utf-8")
        assert run("shares", "--try", TRY, "--page", "p.html", "--images", "4") == 0
        assert Path("p.html").read_text(encoding="utf-8") == first
    return first


def test_the_page_holds_everything_inside(page: str) -> None:
    counts = parsed(page).counts
    assert "script" not in counts and "link" not in counts
    assert not re.search(r"""(?:src|href)=["'](?!#|data:image/)""", page)
    assert not re.search(r"url\((?!#)", page)
    assert page.count('class="sample"') == 8
    assert page.count('class="crop"') == 8 * 4
    assert counts["h2"] == 4  # side by side, two calibrations, and how reliable the teacher is
    assert "Suspected of a wrong label" in page and "currentColor" in page
    assert "prefers-color-scheme: dark" in page


def test_pictures_of_missing_images_are_left_out(
    own: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("images")
    assert run("--try", TRY, "--page", "p.html") == 0
    missing = "pictures of images are left out: there is no folder images (index.images"
    assert f"Warning: p.html: {missing}" in capsys.readouterr().err
    text = Path("p.html").read_text(encoding="utf-8")
    parsed(text)
    assert "Pictures of images are left out: there is no folder images (index.images" in text
    assert 'class="sample"' not in text
    assert "Label entropy" in text and "<svg" in text


def test_without_a_section_index_no_folder_is_known(
    own: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    own.write_params(index=None)
    assert run("ferkd", "--page", "p.html") == 0
    err = capsys.readouterr().err
    assert "Warning: p.html: pictures of images are left out: params.yaml has no index.im" in err
    assert "with pictures" not in err


@pytest.mark.parametrize("on", ["max", "target"])
def test_crops_are_picked_by_what_thresholds_look_at(shared: Project, on: str) -> None:
    values = shared.params()
    tried = f"{{step: ferkd, preset: ferkd_share, on: {on}}}"
    [seen] = survey.preview(
        proposals.recipes(values, (), (tried,)), proposals.source(values), NoProgress()
    )
    found = samples.gather(seen, Path("images"), 25, 0, seed=0)
    assert len(found.samples) == 25
    said = {"max": "max", "target": "ground truth"}[on]
    for sample in found.samples:
        rows, _ = survey.close_up(seen, sample.image_id)
        expected = rows.max_prob if on == "max" else rows.target_prob
        np.testing.assert_array_equal(sample.prob, np.sort(expected))
        np.testing.assert_array_equal(sample.prob, expected[sample.crops])
        assert f"hard: {said} {sample.prob[0]:.3f}" in pictures.sample_figure(seen, sample)


def test_one_image_of_each_sort_is_chosen(shared: Project) -> None:
    values = shared.params()
    recipes = proposals.recipes(values, ("shares",), ())
    [seen] = survey.preview(recipes, proposals.source(values), NoProgress())
    chosen = samples.choose(seen, 3, seed=0)
    crops = dict(zip(seen.looked_at.image_ids.tolist(), seen.looked_at.crops, strict=True))
    for image_id, column in zip(chosen, (1, 2, 3), strict=True):  # drop, soften, revise
        assert crops[image_id][column] > 0
    assert samples.choose(seen, 3, seed=0) == chosen
    assert len({tuple(samples.choose(seen, 3, seed=seed)) for seed in range(6)}) > 1
    assert sorted(samples.choose(seen, 99, seed=0)) == list(range(25))


def test_extremes_are_hardest_first_and_no_rejected_ones() -> None:
    values = np.array([0.5, np.nan, 0.1, 0.9, 0.3, 0.7], np.float32)
    assert samples.extremes(values, 2).tolist() == [2, 4, 5, 3]
    assert samples.extremes(values, 3).tolist() == [2, 4, 0, 5, 3]
    assert samples.extremes(values[1:2], 3).tolist() == [0]


def test_intervals_are_drawn_where_they_act() -> None:
    ferkd = Thresholds(drop_below=0.05, soften_from=0.15, soften_to=0.3, drop_from=0.95)
    assert figures.spans(ferkd) == [
        (0, 0.05, "drop"),
        (0.05, 0.15, "keep"),
        (0.15, 0.3, "soften"),
        (0.3, 0.95, "keep"),
        (0.95, 1, "drop"),
    ]
    assert figures.spans(Thresholds()) == [(0, 1, "keep")]
    assert figures.spans(Thresholds(drop_up_to=0.2)) == [(0, 0.2, "drop"), (0.2, 1, "keep")]
