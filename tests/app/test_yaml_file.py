from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from ferkd_pipeline import yaml_file
from store.errors import ParamsError

HERE = Path("params.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-3", 0.002),
        ("no", "no"),
        ("010", 10),
        ("0x1f", 31),
        ("true", True),
        ("~", None),
        ("", None),
        ("-3", -3),
        (".5", 0.5),
        ("1.", 1.0),
        ("1_000", "1_000"),
        ("12:30:00", "12:30:00"),
        ("2020-01-01", "2020-01-01"),
        ("[1, 2.5]", [1, 2.5]),
    ],
)
def test_scalars_are_yaml_1_2(text: str, value: object) -> None:
    assert yaml_file.parse_mapping(f"a: {text}\n", HERE) == {"a": value}


@given(st.one_of(st.floats(allow_nan=False), st.integers(), st.booleans(), st.none()))
def test_numbers_read_as_dvc_reads_them(value: object) -> None:
    text = yaml.safe_dump({"a": value})
    assert yaml_file.parse_mapping(text, HERE) == YAML(typ="safe").load(text)


def test_anchors_and_merges_are_read() -> None:
    text = "a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\n"
    assert yaml_file.parse_mapping(text, HERE)["b"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: 1\nb: 2\na: 3\n", "params.yaml: line 3: the key 'a' stands twice"),
        ("s:\n  a: 1\n  a: 1\n", "params.yaml: line 3: the key 'a' stands twice"),
        ("a: [1\nb: 2\n", "params.yaml: line 2: expected ',' or ']', but got ':'"),
        ("- 1\n- 2\n", "params.yaml: must be a mapping"),
        ("1: a\n", "params.yaml: must be a mapping"),
        ("a: !!python/object/apply:os.getcwd []\n", "params.yaml: line 1: could not determine"),
        ("a: !!python/name:os.system\n", "params.yaml: line 1: could not determine"),
    ],
)
def test_what_is_wrong_is_one_line(text: str, complaint: str) -> None:
    with pytest.raises(ParamsError) as caught:
        yaml_file.parse_mapping(text, HERE)
    assert str(caught.value).startswith(complaint)
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"absent\.yaml: no such file; .*--params.*init DIR"):
        yaml_file.read_mapping(tmp_path / "absent.yaml")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(b"a: \xff\xfe\n")
    with pytest.raises(ParamsError, match="is not UTF-8 text"):
        yaml_file.read_mapping(path)
