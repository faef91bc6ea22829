"""`stages` and `store` are common names: make sure that ours are the ones that Python finds."""

import importlib.util
from pathlib import Path

NAMES = ("stages", "store")


def complaint() -> str | None:
    """Return what is wrong in one line, or None; imports nothing.

    The three packages are installed side by side, so the others must lie beside this one.
    """
    home = Path(__file__).resolve().parent.parent
    for name in NAMES:
        found = _folder(name)
        if found != home / name:
            return (
                f"Python finds another package called `{name}` ({found or 'none'}) instead of the "
                f"one beside {home / 'ferkd_pipeline'}: install ferkd-pipeline in an environment "
                "of its own, and unset PYTHONPATH"
            )
    return None


def _folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))).resolve() if places else None
