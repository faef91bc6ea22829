"""Each command is thin: these tests assert the one call that it makes, and what it prints."""

import json
from pathlib import Path
from typing import Any

import pytest

from ferkd_pipeline import cli, engine, recording
from ferkd_pipeline.engine import ShardOutcome, ShardPlan, StageOutcome
from ferkd_pipeline.params import Params
from ferkd_pipeline.recording import RecordOutcome
from stages.shared.contract import Progress
from store.check import verify as store_verify
from store.check.verify import Damage, VerifyResult
from store.inspection import info as store_info
from store.units import readable_bytes

Calls = list[tuple[Any, ...]]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls: Calls = []

    def run_stage(
        params: Params,
        name: str,
        shards: tuple[int, ...] | None,
        *,
        progress: Progress,
        force: bool = False,
    ) -> StageOutcome:
        calls.append((params.store.num_shards, name, shards, force))
        progress.note("a note")
        done = [ShardOutcome(shard, "run", {"num_rows": 8}) for shard in shards or (1,)]
        skipped = ShardOutcome(0, "skip", {"num_rows": 7})
        return StageOutcome((skipped, *done), ("8 crops",), ("2 images rejected",))

    monkeypatch.setattr(engine, "run_stage", run_stage)
    return calls


def test_stage_runs_all_shards(
    project: Path, ran: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["stage", "sample"]) == 0
    assert ran == [(4, "sample", None, False)]
    captured = capsys.readouterr()
    assert captured.out == ("sample: 8 crops\nsample: 1 shard done, 1 complete already\n")
    assert captured.err == "a note\nWarning: sample: 2 images rejected\n"


def test_stage_runs_the_shards_named(project: Path, ran: Calls) -> None:
    assert cli.main(["stage", "sample", "--shard", "3", "--shard", "1", "--force"]) == 0
    assert ran == [(4, "sample", (1, 3), True)]


def test_stage_runs_the_shards_of_a_task(
    project: Path, ran: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["stage", "sample", "--shard", "auto"]) == 0
    assert ran == [(4, "sample", (1, 3), False)]


def test_stage_prints_json(project: Path, ran: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["stage", "sample", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["stage"] == "sample"
    assert found["shards"][0] == {"shard": 0, "action": "skip", "numbers": {"num_rows": 7}}
    assert found["shards"][1]["numbers"] == {"num_rows": 8}
    assert found["warnings"] == ["2 images rejected"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["sample", "--shard", "4"], "--shard 4: must be 0 to 3"),
        (["train", "--shard", "0"], "stage train has no shards"),
        (["sample", "--shard", "auto"], "--shard auto: no task found"),
    ],
)
def test_stage_refuses_shards_that_are_none(
    arguments: list[str],
    complaint: str,
    project: Path,
    ran: Calls,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("RANK", "SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"):
        monkeypatch.delenv(name, raising=False)
    assert cli.main(["stage", *arguments]) == 2
    assert complaint in capsys.readouterr().err
    assert not ran


def test_dry_run_lists_and_runs_nothing(
    project: Path,
    ran: Calls,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls: Calls = []

    def plan_stage(
        params: Params, name: str, shards: tuple[int, ...] | None, *, force: bool = False
    ) -> list[ShardPlan]:
        calls.append((params.path, name, shards, force))
        return [ShardPlan(0, "skip", "complete"), ShardPlan(1, "run", "no entry")]

    monkeypatch.setattr(engine, "plan_stage", plan_stage)
    assert cli.main(["stage", "sample", "--dry-run"]) == 0
    assert calls == [(Path("params.yaml"), "sample", None, False)]
    assert not ran
    assert capsys.readouterr().out == (
        "sample shard 0: skip: complete\nsample shard 1: run: no entry\n"
    )


@pytest.mark.parametrize(
    ("arguments", "expected"), [(["infer"], ["infer"]), ([], ["sample", "compress"])]
)
def test_record(
    arguments: list[str],
    expected: list[str],
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls: list[str] = []

    def record_stage(params: Params, name: str) -> RecordOutcome:
        calls.append(name)
        return RecordOutcome(name, 4, f"labels/{name}/_manifest.json", "recorded by DVC")

    monkeypatch.setattr(recording, "record_stage", record_stage)
    assert cli.main(["record", *arguments]) == 0
    assert calls == expected
    first = capsys.readouterr().out.splitlines()[0]
    assert first == (
        f"{expected[0]}: 4 shards complete, labels/{expected[0]}/_manifest.json; recorded by DVC"
    )


def test_store_info(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "labels").mkdir()
    calls: list[Path] = []

    def info(root: Path) -> dict[str, Any]:
        calls.append(root)
        return {
            "root": "labels",
            "num_images": 6000,
            "teacher": {"name": "resnet18", "digest": "abc"},
            "calibrations": ["ferkd"],
            "artifacts": {
                "soft": {"num_parts": 4, "rows": 120000, "num_bytes": 1500000, "is_recorded": True}
            },
        }

    monkeypatch.setattr(store_info, "info", info)
    assert cli.main(["store", "info"]) == 0
    assert calls == [Path("labels")]
    shown = capsys.readouterr().out
    assert "teacher       resnet18, weights SHA-256 abc.." in shown
    assert "calibrations  ferkd" in shown
    assert "soft           4   120,000   1.5 MB         ?        yes" in shown
    assert cli.main(["store", "info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["artifacts"]["soft"]["rows"] == 120000


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (2.5e6, "2.5 MB"), (3e15, "3,000.0 TB")],
)
def test_sizes(num_bytes: float, text: str) -> None:
    assert readable_bytes(num_bytes) == text


def test_store_info_without_a_store(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["store", "info"]) == 3
    assert "labels: there is no label store" in capsys.readouterr().err


@pytest.mark.parametrize("damaged", [False, True])
def test_store_verify(
    damaged: bool,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (project / "other").mkdir()
    damages = [Damage("soft/part-00000.parquet", "other bytes", "run stage compress --shard 0")]

    def verify(root: Path, progress: Progress, *, deep: bool) -> VerifyResult:
        assert root == Path("other") and not deep
        return VerifyResult(12, 5000, damages if damaged else [])

    monkeypatch.setattr(store_verify, "verify", verify)
    code = cli.main(["store", "verify", "--root", "other"])
    captured = capsys.readouterr()
    if damaged:
        assert code == 3
        assert captured.out == (
            "soft/part-00000.parquet: other bytes; run stage compress --shard 0\n"
        )
        assert captured.err == "Error: other: 1 thing to mend\n"
    else:
        assert code == 0
        assert captured.out == "other: 12 files, 5.0 kB, all as recorded\n"
