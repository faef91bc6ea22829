from pathlib import Path

import pydantic
import pytest

from ferkd_pipeline import params, stage_table, yaml_file
from stages.compress.config import Config as CompressConfig
from stages.infer.config import Config as InferConfig
from store.errors import ParamsError

ROOT = Path(__file__).parents[2]


def write(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def complaints(folder: Path, text: str) -> list[str]:
    path = write(folder, text)
    with pytest.raises(ParamsError) as caught:
        params.load(path)
    return [line.removeprefix(f"{path}: ") for line in str(caught.value).splitlines()]


def test_sections_become_configs(tmp_path: Path) -> None:
    values = params.load(write(tmp_path, "store: {num_shards: 7}\ncompress: {k: 3}\nsample:\n"))
    assert values.store.num_shards == 7
    assert values.store.root == Path("labels")
    assert values.typed("compress", CompressConfig).k == 3
    assert set(values.sections) == {"compress", "sample"}


def test_an_absent_section_is_no_error_until_it_is_needed(tmp_path: Path) -> None:
    values = params.load(write(tmp_path, "compress: {k: 3}\n"))
    with pytest.raises(ParamsError, match="has no section `train`, which stage train needs"):
        values.section("train")


def test_an_empty_file_holds_no_sections(tmp_path: Path) -> None:
    assert not params.load(write(tmp_path, "")).sections


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("sample: {num_crops: -3}", "sample.num_crops = -3: must be at least 1"),
        ("sample: {num_crops: 99999}", "sample.num_crops = 99999: must be at most 32767"),
        ("sample: {num_crops: many}", 'sample.num_crops = "many": must be a whole number'),
        ("sample: {num_crops: 2.5}", "sample.num_crops = 2.5: must be a whole number"),
        ("sample: {flip: often}", 'sample.flip = "often": must be a number'),
        ("sample: {num_crop: 3}", "sample.num_crop: unknown key; did you mean num_crops?"),
        (
            "compress: {zzz: 3}",
            "compress.zzz: unknown key; allowed: include_target, k, kind, normalize, precision",
        ),
        ("compress: {temperature: 0}", "compress.temperature = 0: must be at least 0.001"),
        (
            "compress: {precision: int8}",
            "compress.precision = \"int8\": must be 'float16' or 'compact'",
        ),
        ("compress: {include_target: 7}", "compress.include_target = 7: must be true or false"),
        ("compress: {k: true}", "compress.k = true: must be a whole number"),
        ('compress: {k: "5"}', 'compress.k = "5": must be a whole number'),
        ("compress: {temperature: true}", "compress.temperature = true: must be a number"),
        ('compress: {temperature: "2"}', 'compress.temperature = "2": must be a number'),
        ("compress: {include_target: 1}", "compress.include_target = 1: must be true or false"),
        ("compress: {include_target: 'no'}", 'compress.include_target = "no": must be true or'),
        ("index: {images: 5}", "index.images = 5: must be text"),
        ("store: {root: 5}", "store.root = 5: must be text"),
        ("sample: {scale: [0.5, true]}", "sample.scale[1] = true: must be a number"),
        (
            "infer: {teacher: {name: x}, batch_size: true}",
            "infer.batch_size = true: must be a whole number",
        ),
        (
            "infer: {teacher: {name: x, input_size: true}}",
            "infer.teacher.input_size = true: must be a whole number",
        ),
        (
            "infer: {teacher: {name: x, input_size: [32, '32']}}",
            'infer.teacher.input_size[1] = "32": must be a whole number',
        ),
        (
            "calibrate: {a: [{step: ferkd, preset: custom, soften_to: true}]}",
            "calibrate.a[0].soften_to = true: must be a number",
        ),
        (
            "evaluate: {sets: {1: data}}",
            "evaluate.sets: the key 1 must be text; put it in quotes",
        ),
        (
            "compress: !!set {k}",
            "compress: allowed are numbers, text, lists and mappings",
        ),
        ("compress: {temperature: .nan}", "compress.temperature = NaN: must be"),
        ("sample: {scale: 1}", "sample.scale = 1: must be a list"),
        ("sample: {scale: [1, x]}", 'sample.scale[1] = "x": must be a number'),
        ("sample: 5", "sample = 5: must be a mapping of keys"),
        (
            "sample: {scale: [0.5, 0.1]}",
            "sample: scale must satisfy 0 < min <= max <= 1, not [0.5, 0.1]",
        ),
        ("store: {num_shards: 0}", "store.num_shards = 0: must be at least 1"),
        ("inferr: {}", "inferr: unknown section; did you mean infer?"),
        (
            "calibrate: {}",
            "calibrate: names no calibration, needed: at least one; leave the section out if none "
            "is wanted",
        ),
        ("calibrate:", "calibrate: names no calibration"),
        (
            "compress: {kind: hard, include_target: true}",
            "compress: include_target is true, allowed with kind hard: false",
        ),
        (
            "compress: {kind: full, include_target: true}",
            "compress: include_target is true, allowed with kind full: false",
        ),
        ("infer: {}", "infer.teacher: missing, and it has no default"),
        ("infer: {teacher: {nam: x}}", "infer.teacher.nam: unknown key; did you mean name?"),
        (
            "score: {a: {estimator: random, proxy: {steps: 3}}}",
            "score.a.proxy: estimator random has no such key; leave it out",
        ),
        (
            "score: {a: {estimator: random, proxi: 3}}",
            "score.a.proxi: unknown key; allowed: estimator, seed",
        ),
        (
            "score: {a: {estimator: loss, proxy: {model: {name: x}, lr: 1, step: 3}}}",
            "score.a.proxy.step: unknown key; did you mean steps?",
        ),
        (
            "calibrate: {a: [{step: truth}, {step: revise, share: 0.5}]}",
            "calibrate.a[1].share: step revise has no such key; leave it out",
        ),
        (
            "calibrate: {a: [{step: revise, shares: 0.5}]}",
            "calibrate.a[0].shares: unknown key; allowed: eta, step, where",
        ),
        ("calibrate: {a: [{step: revise, eat: 1}]}", "calibrate.a[0].eat: unknown key; did you"),
    ],
)
def test_one_clear_line_a_problem(tmp_path: Path, text: str, complaint: str) -> None:
    found = complaints(tmp_path, text + "\n")
    assert any(line.startswith(complaint) for line in found), found


def test_numbers_lists_and_paths_are_taken_as_people_write_them(tmp_path: Path) -> None:
    text = "store: {root: x}\ninfer: {teacher: {name: y, input_size: 32, mean: [0, 1, 0.5]}, "
    text += "temperatures: [4]}\ncompress: {temperature: 2}\n"
    values = params.load(write(tmp_path, text))
    infer = values.typed("infer", InferConfig)
    assert values.store.root == Path("x")
    assert infer.temperatures == (1.0, 4.0)
    assert not isinstance(infer.teacher, tuple)
    assert infer.teacher.input_size == (32, 32)
    assert infer.teacher.mean == (0.0, 1.0, 0.5)
    assert values.typed("compress", CompressConfig).temperature == 2.0


FILES = [ROOT / "params.yaml", *sorted((ROOT / "ferkd_pipeline/recipes").glob("*.yaml"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_we_ship_is_right_and_strictness_changes_no_value(path: Path) -> None:
    raw = yaml_file.read_mapping(path)
    sections = params.check(path, raw).sections
    assert set(sections) == set(raw) - {"store"}
    for name, section in sections.items():
        assert section == params.config_class(name).model_validate(raw[name])


CALIBRATIONS = "calibrate: {ferkd: [{step: ferkd}], other: [{step: truth}]}\n"
TRAIN = "train: {model: {name: x}, lr: 1, steps: 1, calibration: %s}\n"


def test_unknown_calibrations_are_told_with_those_there_are(tmp_path: Path) -> None:
    text = CALIBRATIONS + TRAIN % "ferkdd" + "compare: {val: x, arms: [truth, stor, other]}\n"
    assert complaints(tmp_path, text) == [
        'train.calibration = "ferkdd": the section calibrate names no such calibration; did you '
        "mean ferkd? allowed: ferkd, other, null",
        'compare.arms[1] = "stor": the section calibrate names no such calibration; did you mean '
        "store? allowed: truth, store, online, ferkd, other",
    ]


@pytest.mark.parametrize("calibration", ["ferkd", "null"])
def test_known_calibrations_are_taken(tmp_path: Path, calibration: str) -> None:
    text = CALIBRATIONS + TRAIN % calibration + "compare: {val: x, arms: [truth, ferkd]}\n"
    assert params.load(write(tmp_path, text)).sections


def test_scores_that_nobody_makes_are_told(tmp_path: Path) -> None:
    select = "calibrate: {a: [{step: truth}, {step: select, scores: %s}]}\n"
    made = "score: {chance: {estimator: random}, other: {estimator: random}}\n"
    assert complaints(tmp_path, made + select % "chanse") == [
        'calibrate.a[1].scores = "chanse": the section score names no such scores; did you mean '
        "chance?"
    ]
    assert params.load(write(tmp_path, made + select % "chance")).sections
    assert params.load(write(tmp_path, select % "of_others")).sections


def test_labels_of_others_may_be_trained_from_without_their_recipes(tmp_path: Path) -> None:
    assert params.load(write(tmp_path, TRAIN % "theirs")).sections


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    found = complaints(tmp_path, "sample: {num_crops: 0, flip: 2}\ncompress: {k: 0}\nx: 1\n")
    assert len(found) == 4


def test_long_values_are_cut(tmp_path: Path) -> None:
    (line,) = complaints(tmp_path, f"sample: {{kind: {'x' * 500}}}\n")
    assert len(line) < 200


@pytest.mark.parametrize("name", stage_table.STAGE_NAMES)
def test_every_stage_has_a_config(name: str) -> None:
    config = params.config_class(name)
    assert config.model_config["frozen"]
    if not issubclass(config, pydantic.RootModel):  # of which every key is a name of the user's
        assert config.model_config["extra"] == "forbid"
