"""Files that run code where somebody unpickles or imports them, and say so by a file `exploded`."""

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

MARK = Path("exploded")


class Bomb:
    """Makes the folder `exploded` where the process stands when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(MARK),)


def _torch(content: object, *, is_zip: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=is_zip)
    return buffer.getvalue()


def _tar() -> bytes:
    """What torch saved in its first years, with members that lead out of their folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("storages", "../storages", "../../escaped", "/tmp/ferkd-escaped", "pickle"):
            data = pickle.dumps(Bomb(), protocol=2)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Bomb()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


FORMS: dict[str, Callable[[], bytes]] = {
    "zip": lambda: _torch({"model": {"fc.weight": torch.ones(2)}, "args": Bomb()}, is_zip=True),
    "legacy": lambda: _torch(Bomb(), is_zip=False),
    "pickle": lambda: pickle.dumps(Bomb(), protocol=2),
    "pickle 5": lambda: pickle.dumps({"state_dict": Bomb()}, protocol=5),
    "tar": _tar,
    "npy": _npy,
}
