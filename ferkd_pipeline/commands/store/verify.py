"""`ferkd-pipeline store verify`: every byte against what was recorded."""

import dataclasses
from pathlib import Path

import click

from ferkd_pipeline.commands.options import json_option, params_option, print_json
from ferkd_pipeline.commands.store.shared import root_of, root_option
from ferkd_pipeline.plain import say
from store.errors import DataError
from store.units import readable_bytes


@click.command(short_help="Check every byte.")
@root_option
@params_option
@click.option("--deep", is_flag=True, help="Look at every value too, not only at every byte.")
@json_option
def verify(root: Path | None, params_path: Path, deep: bool, as_json: bool) -> None:
    """Read every byte and compare with what was recorded; list what is damaged and how to mend it.

    Also checked: that files say what their entries say, that rows are complete and in order of
    shards, that parts were made from those beside them, that rejects agree. --deep decodes all of
    it: ids, order, probabilities between 0 and 1 and falling, the rows digests. At ImageNet scale
    that takes minutes instead of seconds.

    Exit code 3 when anything is wrong.
    """
    from ferkd_pipeline import progress
    from store.check import verify as store_verify

    folder = root_of(root, params_path)
    with progress.watched() as watch:
        result = store_verify.verify(folder, watch, deep=deep)
    if as_json:
        print_json(dataclasses.asdict(result))
    else:
        for damage in result.damages:
            say(f"{damage.file}: {damage.kind}; {damage.remedy}")
        if not result.damages:
            size = readable_bytes(result.num_bytes)
            say(f"{folder}: {result.num_files:,} files, {size}, all as recorded")
    for note in result.notes:
        say(f"note: {note}", err=True)
    if result.damages:
        count = len(result.damages)
        raise DataError(f"{folder}: {count} {'thing' if count == 1 else 'things'} to mend")
