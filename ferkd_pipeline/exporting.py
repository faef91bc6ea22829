"""A student as a file for other programs: what may be written where. Imports no torch by itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ferkd_pipeline import own_code, params
from store.errors import ParamsError

if TYPE_CHECKING:
    from stages.shared.export import Exported

SUFFIXES = (".safetensors", ".pth")


def export(
    folder: Path,
    file: Path,
    *,
    to: Literal["timm", "torchvision"] | None = None,
    backbone: bool = False,
    force: bool = False,
    params_path: Path = Path("params.yaml"),
) -> Exported:
    """Write the weights of the model in ``folder`` to ``file``; see `stages.shared.export.export`.

    Raises:
        ParamsError: the file exists and ``force`` is not given, lies in a bad place or has a bad
            name, or the weights do not load into ``to``.
        DataError: the model is missing or damaged, or its card names code that params.yaml does
            not.
    """
    _check_target(folder, file, force=force)
    own_code.check(folder, params.load(params_path) if params_path.exists() else None)

    # Only now: a wrong name need not wait for torch.
    from stages.shared import export as exports

    return exports.export(folder, file, to=to, backbone=backbone)


def _check_target(folder: Path, file: Path, *, force: bool) -> None:
    if file.suffix not in SUFFIXES:
        raise ParamsError(f"{file}: must end with {' or '.join(SUFFIXES)}")
    if file.resolve().is_relative_to(folder.resolve()):
        raise ParamsError(
            f"{file} lies inside the model's folder {folder}, whose files belong together; choose "
            "another place"
        )
    if file.is_dir():
        raise ParamsError(f"{file} is a folder; name a file")
    if file.exists() and not force:
        raise ParamsError(f"{file} exists; --force replaces it")
