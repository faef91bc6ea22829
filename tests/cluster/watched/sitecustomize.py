"""On PYTHONPATH of commands that tests watch, in whatever process of a cluster they run.

Where the current folder has a file `blocks`, every block of predictions that is finished is written
into it: process, shard key and block. Where it has a file `slow`, files with a word of it in their
path take so many seconds to appear, as it says.
"""

import contextlib
import os
import time
from typing import Any

_replace = os.replace


def _watched(source: Any, target: Any, **options: Any) -> None:
    _replace(source, target, **options)
    parts = os.fspath(target).split("/")
    if len(parts) > 2 and parts[-2] == "journal" and os.path.exists("blocks"):
        with open("blocks", "a") as file:
            file.write(f"{os.getpid()} {parts[-3]} {parts[-1]}\n")
    with contextlib.suppress(FileNotFoundError), open("slow") as file:
        word, seconds = file.read().split()
        if word in os.fspath(target):
            time.sleep(float(seconds))


setattr(os, "replace", _watched)  # noqa: B010
