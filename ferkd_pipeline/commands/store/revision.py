"""What a store's entries said at a git revision, from DVC's cache.

Only manifests and fits are read: a few kilobytes, whatever the size of the store. DVC is imported
here and nowhere else in the application.
"""

from __future__ import annotations

import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from store import entries, fit_file
from store.errors import DataError, ParamsError
from store.inspection.difference import StoreState
from store.layout import ARTIFACTS, Layout

if TYPE_CHECKING:
    from collections.abc import Iterator


MANIFEST = "_manifest.json"


def state_at(root: Path, revision: str) -> StoreState:
    """Return what the entries of the store at ``root`` said at a git revision.

    Raises:
        ParamsError: DVC is not installed or not used here, or it does not know the revision.
        DataError: the store was not recorded then, or its files are not in the cache.
    """
    try:
        from dvc.api import DVCFileSystem
        from dvc.exceptions import DvcException, NotDvcRepoError
        from dvc.repo import Repo
        from dvc_data.index import DataIndexDirError
    except ImportError:
        raise ParamsError(
            "--rev: needs DVC, which is not installed (pip install 'ferkd-pipeline[dvc]')"
        ) from None
    try:
        repository = Path(Repo.find_root(str(root.parent)))
    except NotDvcRepoError:
        raise ParamsError(f"--rev: {root} lies in no DVC repository") from None
    try:
        files = DVCFileSystem(str(repository), rev=revision)
        return _read(files, repository, root, revision)
    except DataIndexDirError:
        raise _not_in_cache(f"{root} or a folder of it") from None
    except DvcException as error:
        reason = " ".join(str(error).split())
        raise ParamsError(f"--rev {revision}: {reason}") from None


def _read(files: Any, repository: Path, root: Path, revision: str) -> StoreState:
    below = root.resolve().relative_to(repository.resolve()).as_posix()
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout.beside(Path(folder, "labels"))
        names = [name for name in _artifacts(files, below) if _copy(files, below, name, layout)]
        if not names:
            raise DataError(
                f"{root} was not recorded with DVC at {revision}: dvc.lock of that revision does "
                "not list it; after `dvc repro`, `git add dvc.lock` and commit it"
            )
        return _parse(layout, names, f"{root} at {revision}")


def _parse(layout: Layout, names: list[str], name: str) -> StoreState:
    try:
        found = {each: entries.read_manifest(layout.manifest(each)) for each in names}
        fits = {each: fit_file.read(layout, each) for each in names}
    except DataError as error:
        # The file named is a copy that nobody will find.
        raise DataError(f"{name}: {str(error).replace(str(layout.root) + '/', '')}") from None
    return StoreState(name, found, {each: fit for each, fit in fits.items() if fit is not None})


def _artifacts(files: Any, below: str) -> Iterator[str]:
    yield from ARTIFACTS
    folder = f"{below}/calibrated"
    try:
        names = sorted(Path(path).name for path in files.ls(folder, detail=False))
    except (FileNotFoundError, NotADirectoryError):
        names = []
    if not names and _is_lost(files, folder):
        raise _not_in_cache(folder)
    yield from (f"calibrated/{name}" for name in names)


def _copy(files: Any, below: str, artifact: str, layout: Layout) -> bool:
    """Copy an artifact's manifest and fit; False where the revision does not have it."""
    folder = f"{below}/{artifact}"
    data = _bytes_of(files, f"{folder}/{MANIFEST}")
    if data is None:
        if _is_lost(files, folder):
            raise _not_in_cache(folder)
        return False
    layout.folder(artifact).mkdir(parents=True)
    layout.manifest(artifact).write_bytes(data)
    fit = fit_file.path_of(layout, artifact)
    if artifact.startswith("calibrated/") and (data := _bytes_of(files, f"{folder}/{fit.name}")):
        fit.write_bytes(data)
    return True


def _bytes_of(files: Any, path: str) -> bytes | None:
    try:
        data: bytes = files.read_bytes(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    return data


def _is_lost(files: Any, path: str) -> bool:
    """Whether the revision has this folder, or may have it, but the cache lacks what says so.

    DVC records an output as one hash; what is in its folders stands in a file of the cache.
    """
    if files.exists(f"{path}/{MANIFEST}"):
        return True  # listed, and yet it could not be read
    for place in (path, *(str(parent) for parent in PurePosixPath(path).parents)):
        try:
            entry = files.info(place).get("dvc_info", {}).get("entry")
        except FileNotFoundError:
            continue
        if getattr(entry, "hash_info", None) is None:
            continue  # a folder above outputs
        try:
            names = [Path(name).name for name in files.ls(place, detail=False)]
        except FileNotFoundError:
            return True
        return names in ([], [Path(place).name])
    return False


def _not_in_cache(path: str) -> DataError:
    return DataError(
        f"{path} of that revision is not in DVC's cache; check the revision out elsewhere and run "
        "`dvc fetch` there, or `dvc fetch --all-commits` here"
    )
