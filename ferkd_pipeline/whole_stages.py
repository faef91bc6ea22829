"""Running the stages that run as a whole: whether what they wrote still fits, and one writer.

A mark below ``.ferkd/`` remembers, for each stage, the key of what it read and the SHA-256 of what
it wrote. Losing a mark costs one more run and nothing else.
"""

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from ferkd_pipeline import fingerprints, kept
from ferkd_pipeline.params import Params
from ferkd_pipeline.whole.common import layout_of
from ferkd_pipeline.whole.prepare import SHARED_BY_RANKS, TRAINING, prepare
from ferkd_pipeline.whole.start import Start, Whole
from stages.shared import processes
from stages.shared.contract import NoProgress, Progress, Report, keyed_params
from store import json_text, lock
from store.atomic import remove, write_bytes
from store.digest import canonical_json, sha256_json
from store.errors import ParamsError, says_nothing_of_file


def why_incomplete(params: Params, name: str) -> str | None:
    """None where the stage's results are those of its parameters and inputs, else the reason."""
    whole = prepare(params, name)
    if whole.fingerprint is None:
        return "it looks at every image anew"
    try:
        mark = json_text.parse_mapping(_mark(params, name).read_bytes())
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and says_nothing_of_file(error):
            raise
        key = _key(params, name, whole)
        return "not made yet" + _from_where(layout_of(params).resumable(name, key))
    key = _key(params, name, whole)
    if mark.get("key") != key:
        why = "parameters or inputs changed"
        return why + _from_where(layout_of(params).resumable(name, key))
    if mark.get("written") != _written(whole):
        return "its results are missing or were changed"
    return None


def _from_where(work: Path) -> str:
    return "; goes on from a checkpoint" if any(work.glob("**/save-*")) else ""


def run(params: Params, name: str, progress: Progress, *, force: bool = False) -> Report:
    """Run the stage and remember what it wrote; take a training's results back where it was done.

    The mark of an earlier run stays until then: after a failure it holds as long as the results do
    that it names, for the digest of these stands in it. Under torchrun the first process does all
    this, and the others only train with it.

    Raises:
        RetryError: another process runs the same stage.
        ParamsError: several processes were started for a stage that one runs.
        FerkdError: see the stage.
    """
    ranks = _ranks(params, name)
    if ranks is not None and not ranks.is_first:
        return _run_along(params, name, ranks)
    layout = layout_of(params)
    with lock.hold(layout.stage_lock(name)):
        whole = prepare(params, name)
        key = _key(params, name, whole)  # of the inputs as they were before it read them
        work = layout.resumable(name, key)
        if force:
            remove(work)
        report = _taken_back(params, name, key, whole, force)
        is_back = report is not None
        if ranks is not None:
            ranks.told(not is_back)
        if report is None:
            _tell_of_others(work, progress)
            report = _started(name, whole, Start(progress, force, work, key, ranks))
        if name in TRAINING and not is_back:
            kept.keep(_shelf(params, name, key), whole.writes, report)
        remove(work)  # before the mark, after which nobody looks; kept results stand in for it
        mark = {"key": key, "written": _written(whole)}
        write_bytes(_mark(params, name), canonical_json(mark))
    return report


def _ranks(params: Params, name: str) -> Any:
    """The processes that run the stage together; None where there is only this one."""
    count = processes.count()
    if count == 1:
        return None
    if name not in SHARED_BY_RANKS:
        raise ParamsError(
            f"stage {name} was started as {count} processes; start it as one, without torchrun "
            f"(several train together in {' and '.join(SHARED_BY_RANKS)})"
        )
    from stages.shared.training.ranks import Ranks

    config: Any = params.section(name)
    return Ranks.join(config.device, f"{name}.device")


def _run_along(params: Params, name: str, ranks: Any) -> Report:
    """Train with the first process, where it has to train at all; write nothing."""
    whole = prepare(params, name)
    key = _key(params, name, whole)
    if ranks.told(False):
        work = layout_of(params).resumable(name, key)
        whole.run(Start(NoProgress(), False, work, key, ranks))
    return Report()


def _started(name: str, whole: Whole, start: Start) -> Report:
    try:
        return whole.run(start)
    except ParamsError as error:
        said = str(error)  # of what stages share: it does not know whose parameter it is
        if said.split(" ")[0].rstrip(":").count("."):
            raise
        raise ParamsError(f"{name}: {said}") from None


def _tell_of_others(work: Path, progress: Progress) -> None:
    """Name what unfinished trainings of other parameters left: nobody else will."""
    others = [path for path in work.parent.glob("*") if path.name != work.name]
    if others and not work.exists():
        progress.note(
            f"{len(others)} unfinished with other parameters or inputs in {work.parent}: with "
            "these again, they go on; `ferkd-pipeline store gc` deletes them"
        )


def _taken_back(params: Params, name: str, key: str, whole: Whole, force: bool) -> Report | None:
    if force or name not in TRAINING:
        return None
    report = kept.take_back(_shelf(params, name, key), whole.writes)
    if report is None:
        return None
    line = "made before of the same parameters, inputs and code: taken back, not made again"
    return replace(report, lines=(*report.lines, line))


def _shelf(params: Params, name: str, key: str) -> Path:
    work = layout_of(params).work
    return work / "results" / name / sha256_json([key, fingerprints.of_code()])


def _mark(params: Params, name: str) -> Path:
    return layout_of(params).work / "done" / f"{name}.json"


def _key(params: Params, name: str, whole: Whole) -> str:
    module = importlib.import_module(f"stages.{name}.run")
    lineage = {
        "revision": module.REVISION,
        "params": keyed_params(params.section(name)),
        "inputs": whole.fingerprint,
    }
    return sha256_json({"stage": name, **lineage})


def _written(whole: Whole) -> str:
    """Digest of names and bytes of everything that the stage wrote."""
    files = [path for top in whole.writes for path in fingerprints.files_below(top)]
    return kept.digest({path.as_posix(): path for path in files})
