"""Telling DVC about shards that were made outside of `dvc repro`."""

import subprocess
from dataclasses import dataclass
from shutil import which

from ferkd_pipeline import stage_table, whole_stages
from ferkd_pipeline.jobs import jobs_of
from ferkd_pipeline.params import Params
from ferkd_pipeline.whole.common import layout_of
from store import entries
from store.errors import DataError, FerkdError, RetryError


@dataclass(frozen=True, slots=True)
class RecordOutcome:
    """What `record` found and did."""

    stage: str
    num_shards: int
    manifest: str
    dvc: str


def record_stage(params: Params, name: str) -> RecordOutcome:
    """Check that a stage is complete, write its manifests, and record it with DVC.

    Raises:
        DataError: a shard is missing or outdated; names it and the command that makes it.
        FerkdError: DVC failed.
    """
    info = stage_table.find(name)
    artifacts: list[str] = []
    num_shards = 1
    if info.sharded:
        jobs = jobs_of(params, info, None)
        for job in jobs:
            why = job.why_incomplete()
            if why is not None:
                raise DataError(
                    f"{job.writer.artifact}/{job.writer.stem}: {why}; run "
                    f"`ferkd-pipeline stage {name} --shard {job.shard}`"
                )
        artifacts = list(dict.fromkeys(job.writer.artifact for job in jobs))
        num_shards = params.store.num_shards
    elif (why := whole_stages.why_incomplete(params, name)) is not None:
        raise DataError(f"{name}: {why}; run `ferkd-pipeline stage {name}`")
    layout = layout_of(params)
    digests = [f"{name} {entries.write_manifest(layout, name)[:12]}" for name in artifacts]
    manifest = f"manifest {', '.join(digests)}" if digests else ""
    return RecordOutcome(name, num_shards, manifest, _commit_with_dvc(params, name))


def _commit_with_dvc(params: Params, name: str) -> str:
    folder = params.path.resolve().parent
    if not (folder / "dvc.yaml").exists():
        return "not recorded with DVC: there is no dvc.yaml"
    if which("dvc") is None:
        return "not recorded with DVC: it is not installed (pip install 'ferkd-pipeline[dvc]')"
    command = ["dvc", "commit", "--force", "--quiet", name]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = " ".join((done.stderr or done.stdout).split())
        if "acquire lock" in reason or "is busy" in reason:  # another DVC is at work here
            raise RetryError(f"`dvc commit {name}` failed, try again: {reason}")
        raise FerkdError(f"`dvc commit {name}` failed: {reason}")
    return "recorded with DVC"
