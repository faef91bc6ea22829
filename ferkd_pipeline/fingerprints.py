"""What a stage read, as digests: files and folders by their contents, devices by their kind."""

import os
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path

import stages
import store
from stages.shared.contract import Json
from stages.shared.model_card import CARD_NAME, find_card, weights_file
from stages.shared.model_config import ModelConfig, library_of
from store.digest import sha256_file, sha256_json
from store.errors import DataError

MAX_FILES_HASHED = 20_000
MAX_BYTES_HASHED = 256 * 2**20
"""What a look at a folder of images may read: about a second."""


def files_below(top: Path) -> Iterator[Path]:
    """A file itself, or every file below a folder, sorted."""
    if top.is_file():
        yield top
    elif top.is_dir():
        yield from (path for path in sorted(top.rglob("*")) if path.is_file())


def of_code() -> str:
    """Digest of the code that stages run: an edit may change what they make."""
    tops = [Path(str(package.__file__)).parent for package in (stages, store)]
    return sha256_json(
        {
            f"{top.name}/{path.relative_to(top).as_posix()}": sha256_file(path)
            for top in tops
            for path in sorted(top.rglob("*.py"))
        }
    )


def of_folder(folder: Path | None, key: str) -> Json:
    """Digest of the files below a folder: their names in it, sizes and SHA-256.

    Above MAX_FILES_HASHED files or MAX_BYTES_HASHED bytes in all, times of change stand in for the
    contents: noticing a change stays cheap, but a copy of so large a folder must keep its times.

    Raises:
        DataError: there is no such folder; names the ``key`` of params.yaml that says so.
    """
    if folder is None:
        return None
    if not folder.exists():
        raise DataError(
            f"{folder} does not exist; mount or make it, or change {key} in params.yaml"
        )
    found = [(path, path.stat()) for path in files_below(folder)]
    num_bytes = sum(stat.st_size for _, stat in found)
    is_small = len(found) <= MAX_FILES_HASHED and num_bytes <= MAX_BYTES_HASHED
    return sha256_json(
        [
            [
                path.relative_to(folder).as_posix(),
                stat.st_size,
                sha256_file(path) if is_small else stat.st_mtime_ns,
            ]
            for path, stat in found
        ]
    )


def of_file(path: Path, key: str) -> Json:
    """SHA-256 of a file.

    Raises:
        DataError: there is no such file; names the ``key`` of params.yaml that says so.
    """
    if not path.is_file():
        raise DataError(f"{path} is no file; make it, or change {key} in params.yaml")
    return sha256_file(path)


def of_saved(folder: Path) -> dict[str, Json]:
    """SHA-256 of the files of a saved model; of one's own function also of the code it stands in.

    Raises:
        DataError: its card cannot be read.
    """
    found: dict[str, Json] = {path.name: sha256_file(path) for path in files_below(folder)}
    card = find_card(folder)
    if card is not None and library_of(card.name) == "own":
        code = _module_file(card.name.split(":")[0])
        found["code"] = None if code is None else sha256_file(code)
    return found


def of_network(model: ModelConfig) -> Json:
    """What a network starts from: SHA-256 of the file of weights and of the card beside it.

    Of one's own function also that of the file that it stands in; not of what this file imports.
    None where there is neither.

    Raises:
        DataError: there is no such file of weights.
    """
    files = [] if model.weights is None else _weights(Path(model.weights))
    if library_of(model.name) == "own":
        code = _module_file(model.name.split(":")[0])
        files += [] if code is None else [code]
    return [sha256_file(path) for path in files] or None


def _weights(given: Path) -> list[Path]:
    file = weights_file(given)
    if not file.is_file():
        raise DataError(f"{file}: no such file of weights; check the path or make the model first")
    card = file.with_name(CARD_NAME)
    return [path for path in (file, card) if path.is_file()]


def _module_file(module: str) -> Path | None:
    """The file of a module, found as an import would from here, but importing nothing."""
    places: Iterable[str] | None = [os.getcwd(), *sys.path]
    name, spec = "", None
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = PathFinder.find_spec(name, list(places)) if places is not None else None
        places = None if spec is None else spec.submodule_search_locations
    return None if spec is None or spec.origin is None else Path(spec.origin)


def device_kind(asked: str) -> str:
    """Kind of device that is computed on: a GPU's results are not a CPU's to the last bit."""
    if asked != "auto":
        return asked
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
