"""What a stage read, as digests: files and folders by their contents, devices by their kind."""

from collections.abc import Iterator
from pathlib import Path

import stages
import store
from stages.shared.contract import Json
from stages.shared.model_card import CARD_NAME, weights_file
from stages.shared.model_config import ModelConfig
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
        raise DataError(f"{folder} does not exist; make it, or change {key} in params.yaml")
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


def of_weights(model: ModelConfig) -> Json:
    """SHA-256 of the file of weights that a network starts from, and of the card beside it."""
    if model.weights is None:
        return None
    file = weights_file(Path(model.weights))
    if not file.is_file():
        raise DataError(f"{file}: no such file of weights; check the path or make the model first")
    card = file.with_name(CARD_NAME)
    return [sha256_file(path) for path in (file, card) if path.is_file()]


def device_kind(asked: str) -> str:
    """Kind of device that is computed on: a GPU's results are not a CPU's to the last bit."""
    if asked != "auto":
        return asked
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
