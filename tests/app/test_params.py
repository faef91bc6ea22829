from pathlib import Path

import pydantic
import pytest

from ferkd_pipeline import params, stage_table
from stages.compress.config import Config as CompressConfig
from store.errors import ParamsError


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
            "compress.zzz: unknown key; allowed: include_target, k, kind, precision, temperature",
        ),
        ("compress: {temperature: 0}", "compress.temperature = 0: must be more than 0"),
        (
            "compress: {precision: int8}",
            "compress.precision = \"int8\": must be 'float16' or 'compact'",
        ),
        ("compress: {include_target: 7}", "compress.include_target = 7: must be true or false"),
        ("sample: {scale: 1}", "sample.scale = 1: must be a list"),
        ("sample: {scale: [1, x]}", 'sample.scale[1] = "x": must be a number'),
        ("sample: 5", "sample = 5: must be a mapping of keys"),
        (
            "sample: {scale: [0.5, 0.1]}",
            "sample: scale must satisfy 0 < min <= max <= 1, not [0.5, 0.1]",
        ),
        ("store: {num_shards: 0}", "store.num_shards = 0: must be at least 1"),
        ("inferr: {}", "inferr: unknown section; did you mean infer?"),
        ("infer: {}", "infer.teacher: missing, and it has no default"),
        ("infer: {teacher: {nam: x}}", "infer.teacher.nam: unknown key; did you mean name?"),
    ],
)
def test_one_clear_line_a_problem(tmp_path: Path, text: str, complaint: str) -> None:
    assert complaint in complaints(tmp_path, text + "\n")


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
