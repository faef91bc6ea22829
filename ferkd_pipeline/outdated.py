"""Parts of a stage that no longer fit: set aside or deleted before a whole stage runs."""

from ferkd_pipeline.jobs import Job
from store import entries, lock, shelf
from store.atomic import remove
from store.errors import DataError
from store.layout import Layout, is_of_store, part_name, shard_of_file


def clear(jobs: list[Job]) -> None:
    """Let nothing stale stand beside something new; ``jobs`` are all shards of a stage.

    Raises:
        RetryError: another process writes a part that is to go.
    """
    for artifact in dict.fromkeys(job.writer.artifact for job in jobs):
        mine = [job for job in jobs if job.writer.artifact == artifact]
        layout, stage = mine[0].writer.layout, mine[0].writer.stage
        wanted = {job.writer.stem: job.writer.key for job in mine}
        found = {shard_of_file(path.name) for path in layout.folder(artifact).glob("*-*")}
        for stem in sorted(part_name(shard) for shard in found if shard is not None):
            if entries.why_incomplete(layout, artifact, stem, wanted.get(stem, "")) is not None:
                with lock.hold(layout.lock(artifact, stem)):
                    _clear(layout, artifact, stem, stage, wanted.get(stem), mine[0].persists)


def _clear(
    layout: Layout, artifact: str, stem: str, stage: str, key: str | None, persists: bool
) -> None:
    """Set aside or delete a part that has not this key; one without an entry is a remnant."""
    try:
        entry = entries.find_entry(layout, artifact, stem)
    except DataError:
        entry = None
    if entry is not None and (entry.key == key or persists):
        if entry.key != key:
            shelf.set_aside(layout, artifact, stem, stage)
        return
    if entry is None and key is not None:
        return  # this run writes it anew, or takes it up where a killed one stopped
    entries.withdraw(layout, artifact, stem)
    for path in layout.folder(artifact).glob(f"*-{stem.partition('-')[2]}.*"):
        if is_of_store(path.name):  # what else lies there is somebody's
            remove(path)
