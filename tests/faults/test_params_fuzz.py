"""Every key of params.yaml with wrong values: one line that names the key, and exit code 2."""

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from ferkd_pipeline import cli, params
from store.errors import ParamsError
from tests.faults.odd_values import BAD_FILES, GOOD_FILES, KINDS
from tests.faults.params_places import SECTIONS, Place, accepts, minimal, models, places
from tests.faults.soak import rounds

PLACES = {section: list(places(section)) for section in SECTIONS}
ALL = [place for found in PLACES.values() for place in found]
PATH = Path("params.yaml")
MOST_LETTERS = 1000
IS_SOAK = rounds(1) > 1


def complaints(document: dict[str, Any]) -> list[str]:
    """What is said of a document; none where it is taken. Any other error fails the test."""
    try:
        params.check(PATH, document)
    except ParamsError as error:
        lines = str(error).splitlines()
        for line in lines:
            assert line.startswith("params.yaml: "), line
            assert line.isprintable(), line
            assert len(line) <= MOST_LETTERS, line
        return [line.removeprefix("params.yaml: ") for line in lines]
    return []


def names_the_key(line: str, place: Place) -> bool:
    """By its whole path, or, where several keys do not fit together, by its name."""
    return line.startswith(place.key) or str(place.path[-1]) in line


@pytest.mark.parametrize("section", SECTIONS)
def test_the_smallest_section_is_right(section: str) -> None:
    """Else nothing else here shows anything."""
    assert complaints({section: minimal(params.config_class(section))}) == []


def test_every_config_is_reached() -> None:
    """Those that are told apart by a tag, lie in lists, or are named by users, too."""
    found = {model.__name__ for model in models()}
    wanted = {"ModelConfig", "Member", "ImageSet", "ColourJitter", "RandAugment", "CropConfig"}
    wanted |= {"FerkdStep", "ReviseStep", "SelectStep", "NoiseStep", "TruthStep", "Influence"}
    wanted |= {"TracIn", "El2n", "Forgetting", "Loss", "Disagreement", "Random", "Proxy"}
    assert wanted <= found
    assert len(ALL) > 600


@pytest.mark.parametrize("section", SECTIONS)
def test_values_of_a_wrong_kind(section: str) -> None:
    """Text for a number, a number for a list, true for 1 and so on: certain to be refused."""
    for place in PLACES[section]:
        for kind, values in KINDS.items():
            if accepts(place.annotation, kind) or _is_short_for_a_list(place, kind):
                continue
            for value in values if IS_SOAK else values[:2]:
                lines = complaints(place.document(value))
                assert any(names_the_key(line, place) for line in lines), (place.key, value, lines)


def _is_short_for_a_list(place: Place, kind: type) -> bool:
    """One number for both sides, or for both ends of a range."""
    names = ("input_size", "brightness", "contrast", "saturation", "hue")
    return place.path[-1] in names and kind in (int, float)


@pytest.mark.parametrize("section", SECTIONS)
def test_odd_values_of_a_right_kind(section: str) -> None:
    """Taken, or refused by the key's name; never an error of another kind, and at once."""
    chance = random.Random(section)
    begun, count = time.monotonic(), 0
    for place in PLACES[section]:
        odd = [v for kind, vs in KINDS.items() if accepts(place.annotation, kind) for v in vs]
        for value in odd if IS_SOAK else chance.sample(odd, min(3, len(odd))):
            lines = complaints(place.document(value))
            count += 1
            assert not lines or any(section in line for line in lines), (place.key, value, lines)
    assert time.monotonic() - begun < 5 + 0.05 * count


@pytest.mark.parametrize("section", SECTIONS)
def test_numbers_far_out_of_range(section: str) -> None:
    """What no key takes, whatever it means: a count of 10**30, NaN, an infinite rate."""
    for place in PLACES[section]:
        for value in (10**30, -(10**30), float("nan"), float("inf"), 1e308, -1e308):
            if accepts(place.annotation, type(value)) and place.annotation is not Any:
                lines = complaints(place.document(value))
                assert any(names_the_key(line, place) for line in lines), (place.key, value, lines)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_count_has_a_limit(section: str) -> None:
    """A million million of anything would only end when memory or patience does."""
    for place in PLACES[section]:
        if place.annotation is Any or place.path[-1] == "seed":
            continue
        if accepts(place.annotation, int) and not accepts(place.annotation, float):
            lines = complaints(place.document(2**40))
            assert any(names_the_key(line, place) for line in lines), (place.key, lines)


@pytest.mark.parametrize("value", [10**400, "a\0b", "\ud800", "x" * 300])
def test_arguments_of_models_are_looked_at_too(value: Any) -> None:
    """Whatever a library would do with them."""
    (line,) = complaints({"infer": {"teacher": {"name": "a", "model_kwargs": {"b": [value]}}}})
    assert line.startswith("infer.teacher.model_kwargs.b[0] = ")


@pytest.mark.parametrize("section", SECTIONS)
def test_a_near_miss_is_told_with_a_hint(section: str) -> None:
    for owner in {place.owner for place in PLACES[section]}:
        below = [place for place in PLACES[section] if place.owner is owner]
        names = {str(place.path[-1]) for place in below}
        for place in below if IS_SOAK else below[::4]:
            name = str(place.path[-1])
            wrong = name + name[-1] if name + name[-1] not in names else f"{name}xx"
            lines = complaints(place.beside(wrong, 1))
            told = [line for line in lines if line.startswith(place.key + wrong[len(name) :])]
            assert len(told) == 1, (place.key, wrong, lines)
            assert "unknown key; did you mean " in told[0] or name in told[0], told


@pytest.mark.parametrize("section", SECTIONS)
def test_what_is_missing_is_named(section: str) -> None:
    for place in PLACES[section]:
        if place.field.is_required():
            lines = complaints(without(place))
            assert any(line.startswith(place.key) or name_in(place, line) for line in lines), lines


def name_in(place: Place, line: str) -> bool:
    return f"must have the key '{place.path[-1]}'" in line


def without(place: Place) -> dict[str, Any]:
    """The section with this key taken out."""
    copy = json.loads(json.dumps(place.value))
    inside = copy
    for step in place.path[:-1]:
        inside = inside[step]
    inside.pop(place.path[-1], None)
    return {place.section: copy}


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([value for values in KINDS.values() for value in values]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)


@seed(7)
@settings(
    max_examples=rounds(150),
    deadline=None,
    database=None,
    phases=[Phase.generate, *([Phase.shrink] if IS_SOAK else [])],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(place=st.sampled_from(ALL), value=PLAIN)
def test_anything_anywhere(place: Place, value: Any) -> None:
    """Lists in lists, mappings with odd names and numbers of any size."""
    lines = complaints(place.document(value))
    assert not lines or any(place.section in line for line in lines), (place.key, value, lines)


@seed(8)
@settings(max_examples=rounds(100), deadline=None, database=None)
@given(text=st.text() | st.text("{}[]:,-&*!?|>'\"%@`~# \n\tab01.<", max_size=60))
def test_any_text_as_a_file(text: str) -> None:
    """It is taken, or refused in lines that can be printed."""
    from ferkd_pipeline import yaml_file

    try:
        yaml_file.parse_mapping(text, PATH)
    except ParamsError as error:
        assert str(error).startswith("params.yaml")
        assert len(str(error)) <= MOST_LETTERS


def test_a_file_is_taken_however_it_is_written(tmp_path: Path) -> None:
    found = []
    for content in GOOD_FILES.values():
        (tmp_path / "params.yaml").write_bytes(content)
        found.append(params.load(tmp_path / "params.yaml").sections)
    assert all(each == found[0] for each in found)


def test_list_of_models_is_what_pydantic_has() -> None:
    """No config below a section is left out: each is one that some place is of."""
    assert all(issubclass(model, pydantic.BaseModel) for model in models())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder but for params.yaml: whatever a command writes there is seen."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """The exit code of a command and what it said on stderr."""
    code = cli.main(arguments)
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert "Unexpected" not in said.err
    return code, said.err.splitlines()


COMMANDS: tuple[tuple[str, ...], ...] = (
    ("stage", "index"),
    ("stage", "infer", "--dry-run", "--json"),
    ("stage", "calibrate", "--shard", "0"),
    ("stage", "train", "--force"),
    ("record",),
    ("record", "sample", "--json"),
    ("report",),
    ("report", "--quiet"),
    ("store", "info"),
    ("store", "verify", "--deep"),
    ("store", "stats", "--json"),
    ("store", "gc", "--force"),
    ("store", "export", "out.csv"),
    ("calibrate", "preview"),
    ("trace", "labels/soft"),
    ("init", ".", "--update"),
)


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_params(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    PATH.write_bytes(BAD_FILES[name])
    code, said = run(["stage", "sample"], capsys)
    assert code == 2
    assert said
    for line in said:
        assert line.startswith("Error: params.yaml: "), line
        assert line.isprintable(), line
        assert len(line) < MOST_LETTERS, line
    assert [path.name for path in folder.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_that_reads_params(
    command: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refuses before it does anything: the folder is as it was."""
    chance = random.Random(" ".join(command))
    for place in chance.sample(ALL, rounds(3)):
        wrong = [kind for kind in KINDS if not accepts(place.annotation, kind)]
        wrong = [kind for kind in wrong if not _is_short_for_a_list(place, kind)]
        if not wrong:
            continue
        value = KINDS[chance.choice(wrong)][0]
        PATH.write_text(json.dumps(place.document(value)))
        code, said = run([*command], capsys)
        assert (code, bool(said)) == (2, True), (command, place.key, value, said)
        assert any(names_the_key(line, place) for line in said), (place.key, value, said)
        assert all(line.startswith("Error: params.yaml: ") for line in said), said
        assert [path.name for path in folder.iterdir()] == ["params.yaml"]
