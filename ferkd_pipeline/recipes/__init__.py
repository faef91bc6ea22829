"""The recipes that `ferkd-pipeline init` starts a project from: files beside this one.

A recipe is a params.yaml in which `$images` and `$val` stand for the user's folders; the comment at
its top is the command, the expected time, and where the expected result comes from.
"""

import importlib.resources
import json
import re
import string
from importlib.resources.abc import Traversable

from store.errors import ParamsError

_PLAIN = re.compile(r"[A-Za-z0-9/.][A-Za-z0-9/. _+@=-]*(?<! )", re.ASCII)


def names() -> tuple[str, ...]:
    """Return the names of all recipes, sorted."""
    return tuple(sorted(_files()))


def summary(name: str) -> str:
    """Return the first line of what a recipe says about itself."""
    return _files()[name].read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()


def check(name: str) -> None:
    """Look whether there is such a recipe.

    Raises:
        ParamsError: there is none.
    """
    if name not in names():
        raise ParamsError(f"--recipe {name}: no such recipe; there are: {', '.join(names())}")


def fill(name: str, images: str, val: str) -> str:
    """Return a recipe as a params.yaml for these folders.

    Raises:
        ParamsError: there is no such recipe.
    """
    check(name)
    template = string.Template(_files()[name].read_text(encoding="utf-8"))
    return template.substitute(images=_scalar(images), val=_scalar(val))


def _files() -> dict[str, Traversable]:
    folder = importlib.resources.files("ferkd_pipeline.recipes")
    found = (file for file in folder.iterdir() if file.name.endswith(".yaml"))
    return {file.name.removesuffix(".yaml"): file for file in found}


def _scalar(text: str) -> str:
    """Spell a path in YAML; JSON's quoting is YAML's too."""
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
