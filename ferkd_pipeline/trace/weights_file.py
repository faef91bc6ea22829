"""Digest of the weights in a .safetensors file, without torch: loading that takes seconds."""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from store.errors import DataError

_TYPES = {
    "BOOL": "bool",
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    "BF16": "bfloat16",
}
"""Names of types in such files, and torch's."""
_BLOCK_BYTES = 1 << 22


def metadata(path: Path) -> dict[str, str]:
    """What the file says of itself in words.

    Raises:
        DataError: it is no whole .safetensors file.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: not a readable .safetensors file ({error})") from error


def tensor_names(path: Path) -> frozenset[str]:
    """Names of the tensors in a file.

    Raises:
        DataError: it is no whole .safetensors file.
    """
    metadata(path)
    with safe_open(path, framework="numpy") as file:
        return frozenset(file.keys())


def weights_digest(path: Path, only: Collection[str] | None = None) -> str:
    """The digest that `stages.shared.weights.weights_digest` gives of a network that has them.

    ``only`` names some of the tensors, of which it is then.

    Raises:
        DataError: it is no whole .safetensors file.
    """
    metadata(path)  # checks the whole of the header
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(size))
        header.pop("__metadata__", None)
        for name, each in sorted(header.items()):
            if only is not None and name not in only:
                continue
            kind = f"torch.{_TYPES.get(each['dtype'], each['dtype'])}"
            digest.update(f"{name}\0{kind}\0{each['shape']}\0".encode())
            start, stop = each["data_offsets"]
            file.seek(8 + size + start)
            for at in range(start, stop, _BLOCK_BYTES):
                digest.update(file.read(min(_BLOCK_BYTES, stop - at)))
    return digest.hexdigest()
