"""Which calibrations are looked at: those of params.yaml, and those tried on the command line."""

import difflib
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ferkd_pipeline import jobs, params, yaml_file
from ferkd_pipeline.params import Params
from ferkd_pipeline.whole.common import layout_of
from stages.calibrate.config import Config
from stages.calibrate.recipe import Recipe
from stages.shared.contract import Source
from store.errors import DataError, ParamsError


def source(values: Params) -> Source:
    """Return the store of params.yaml; the folder of images is only for pictures.

    Raises:
        DataError: there is no such store.
    """
    root = values.store.root
    if not root.is_dir():
        raise DataError(f"{root}: there is no label store; `ferkd-pipeline stage index` begins one")
    if "index" in values.sections:
        return jobs.source_of(values)
    return Source(layout_of(values), values.store.num_shards, Path())


def images_folder(values: Params) -> Path | None:
    """Return the folder of images, where params.yaml names one."""
    return source(values).images_folder if "index" in values.sections else None


def recipes(values: Params, names: Sequence[str], tried: Sequence[str]) -> list[Recipe]:
    """Return the calibrations to look at, those of params.yaml first.

    Args:
        values: of params.yaml, which need have no section `calibrate`.
        names: of calibrations in it; none: all of them, or none where something is tried.
        tried: YAML texts, each one step or a list of steps.

    Raises:
        ParamsError: a name is not there, a text is no calibration, or there is nothing to look at.
    """
    section = values.sections.get("calibrate")
    known: Mapping[str, Any] = section.root if isinstance(section, Config) else {}
    chosen = dict.fromkeys(names or (() if tried else known))
    for name in chosen:
        if name not in known:
            raise ParamsError(_unknown(values.path, name, list(known)))
    found = [Recipe(name, known[name]) for name in chosen] + _tried(tried, set(known))
    if not found:
        raise ParamsError(
            f"{values.path} has no section `calibrate`; try steps with --try, such as "
            "--try '{step: ferkd, preset: auto}'"
        )
    return found


def _unknown(path: Path, name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return (
        f"NAME {name}: {path} names no such calibration; {hint}in its section calibrate: "
        f"{', '.join(known) or 'none'}"
    )


def _tried(texts: Sequence[str], taken: set[str]) -> list[Recipe]:
    raw: dict[str, Any] = {}
    for text in texts:
        raw[_free_name({*taken, *raw})] = _steps(text)
    if not raw:
        return []
    section = params.check(Path("--try"), {"calibrate": raw}).typed("calibrate", Config)
    return [Recipe(name, steps) for name, steps in section.root.items()]


def _steps(text: str) -> list[Any]:
    """Return what stands in a YAML text, in flow or block style."""
    wrapped = "steps:\n" + textwrap.indent(text, "  ")
    try:
        read = yaml_file.parse_mapping(wrapped, Path("--try"))["steps"]
    except ParamsError as error:
        raise ParamsError(_placed(str(error), text)) from None
    if isinstance(read, dict):
        return [read]
    if not isinstance(read, list):
        raise ParamsError(
            f"--try '{text}': must be one step, such as '{{step: ferkd}}', or a list of steps"
        )
    return read


def _placed(message: str, text: str) -> str:
    """Name the line of ``text`` where YAML goes wrong: it was read below a line of ours."""
    num_lines = text.rstrip().count("\n") + 1
    if num_lines == 1:
        return re.sub(r"^--try: line \d+", lambda _: f"--try '{text.strip()}'", message)
    # What is never closed is found at the end, below the last line.
    return re.sub(
        r"(?<=^--try: line )\d+", lambda found: str(min(int(found[0]) - 1, num_lines)), message
    )


def _free_name(taken: set[str]) -> str:
    """Return `try`, or `try-2` and so on where that is taken."""
    number, name = 1, "try"
    while name in taken:
        number += 1
        name = f"try-{number}"
    return name
