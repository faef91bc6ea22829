"""Files of metrics that are not as they were written: the report refuses them by name."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ferkd_pipeline import cli
from ferkd_pipeline.report import gather
from tests.faults.soak import rounds
from tests.world import Project

SPREAD = {"mean": 0.5, "std": 0.1, "n": 2}
DIFFERENCE = {"mean": 0.1, "standard_error": 0.1, "n": 2}
TRAINED = {"steps": 3, "num_parameters": 10, "top1": 0.5, "top5": 0.9, "num_images": 8}
FILES: dict[str, Any] = {
    "compare/compare.json": {
        "student": "resnet18",
        "steps": 3,
        "num_crops": 24,
        "seeds": [0, 1],
        "top1": {
            "truth": {"val": SPREAD, "test": SPREAD},
            "store": {"val": SPREAD, "test": SPREAD},
        },
        "paired": {"store - truth": {"val": DIFFERENCE, "test": DIFFERENCE}},
    },
    "compare/timing.json": {
        "rounds": 2,
        "seconds_per_step": {"truth": 0.1, "store": 0.2},
        "ratio_to_truth": {"truth": 1, "store": 2},
    },
    "teacher/summary.json": TRAINED,
    "train/summary.json": TRAINED,
    "linear/summary.json": TRAINED,
    "evaluate/summary.json": {"val": {"top1": 0.5, "top5": None, "num_images": 8}},
}
CURVES = (
    "arm,step,top1_mean,top1_std\ntruth,1,0.1,\ntruth,2,0.2,0.1\nstore,1,0.1,\nstore,2,0.3,0.1\n"
)
HTML = "<script>alert(1)</script>&\"'\x1b[31m\x00\n[bold]$\\frac{$"
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 10**400, 1e308, -1e308, "", HTML, "\ud800", "x" * 100_000),
    *([], {}, [[]], {"a": {"b": {}}}, {HTML: SPREAD}, float("nan"), float("inf")),
)
DEEP = "[" * 100_000


@pytest.fixture
def metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of which nothing is there but metrics."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text('{"index": {"images": "images"}}')
    for name, value in FILES.items():
        path = Path("metrics", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    Path("metrics/compare/curves_mean.csv").write_text(CURVES)
    return Path("metrics")


Report = Callable[..., int]


@pytest.fixture
def report(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Report:
    """Reports on everything; what is wrong is one line that names the file."""

    def run(path: Path, what: str, *, page: bool = False) -> int:
        capfd.readouterr()
        code = cli.main(["report", *([] if page else ["--no-page"])])
        said = capfd.readouterr()
        told = f"{what}: {said.err[-3000:]}"
        assert code in (0, 3) or path.is_dir(), told
        if code:
            (line,) = [line for line in said.err.splitlines() if line.startswith("Error: ")]
            assert str(path) in line and len(line) < 1000, told
        assert all(line.isprintable() for line in (said.out + said.err).split("\n")), told
        if page and not code:
            shown = Path("metrics/report/report.html").read_text()
            assert "<script" not in shown and "\x1b" not in shown, told
        return code

    patched = "ferkd_pipeline.report.gather"  # whatever stages params.yaml has
    monkeypatch.setattr(patched, lambda metrics, root, _: gather(metrics, root))
    return run


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))


def replaced(value: Any, path: tuple[Any, ...], by: Any) -> Any:
    if not path:
        return by
    changed = copy.deepcopy(value)
    inner = changed
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = by
    return changed


def test_as_written(report: Report, metrics: Path) -> None:
    assert report(metrics, "all", page=True) == 0


@pytest.mark.parametrize("name", FILES)
def test_odd_values(report: Report, metrics: Path, name: str) -> None:
    """At every place of every file, every odd value."""
    codes = []
    for place in places(FILES[name]):
        for odd in ODD:
            text = json.dumps(replaced(FILES[name], place, odd))
            (metrics / name).write_text(text)
            codes.append(report(metrics / name, f"{place}: {odd!r:.100}"))
        if place:
            short = replaced(FILES[name], place, None)
            inner = short
            for step in place[:-1]:
                inner = inner[step]
            del inner[place[-1]]
            (metrics / name).write_text(json.dumps(short))
            codes.append(report(metrics / name, f"without {place}"))
    assert {0, 3} == set(codes)


def test_odd_names_on_the_page(report: Report, metrics: Path) -> None:
    compare = copy.deepcopy(FILES["compare/compare.json"])
    compare["student"] = HTML
    compare["top1"][HTML] = {name: SPREAD for name in compare["top1"]["truth"]}
    (metrics / "compare/compare.json").write_text(json.dumps(compare))
    (metrics / "evaluate/summary.json").write_text(
        json.dumps({HTML: FILES["evaluate/summary.json"]["val"]})
    )
    rest = CURVES.replace("store", '"' + HTML.replace('"', '""') + '"')
    (metrics / "compare/curves_mean.csv").write_text(rest)
    assert report(metrics, "names", page=True) == 0


@pytest.mark.parametrize("name", [*FILES, "compare/curves_mean.csv"])
def test_damaged_files(report: Report, metrics: Path, name: str) -> None:
    path = metrics / name
    data = path.read_bytes()
    moments = random.Random(name)
    damaged = [b"", b"\x00" * 100, b"\xff\xfe" + data, data[: len(data) // 2], DEEP.encode()]
    damaged += [b'{"a":' * 50_000, b'"' + b"x" * 200_000, data * 2, b"arm,step\n1,2\n"]
    for _ in range(rounds(20)):
        place = moments.randrange(len(data))
        changed = bytes([data[place] ^ (1 << moments.randrange(8))])
        damaged.append(data[:place] + changed + data[place + 1 :])
    for each in damaged:
        path.write_bytes(each)
        report(path, repr(each[:200]))
    path.unlink()
    assert report(path, "deleted") == 0
    path.mkdir()
    assert report(path, "a folder") == 1


def test_a_damaged_calibration(own: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """What calibrations do is counted from files that are as they were written."""
    own.write_params()
    path = Path("labels/calibrated/ferkd/part-00001.parquet")
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)
    assert cli.main(["report", "--no-page"]) == 3
    assert f"Error: {path}" in capsys.readouterr().err
    path.unlink()
    assert cli.main(["report", "--no-page"]) == 3
    assert f"Error: {path}" in capsys.readouterr().err
