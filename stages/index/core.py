"""What the index stage finds out about a folder of images.

N is the number of usable images; arrays of N rows are in the order of their paths as UTF-8 bytes,
and an image's id is its row. Every image is decoded fully: one that passes here will decode later.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from stages.index.config import Config
from stages.shared.contract import Progress
from stages.shared.images import ImageError, Reject, decode, find_images, read_bytes
from store.errors import DataError, RetryError, ShardError

_CHUNK_IMAGES = 64  # an image is too little work for a task of its own


@dataclass(frozen=True, slots=True)
class Scan:
    """The usable images of a folder, its classes, and the files that cannot be used."""

    classes: tuple[str, ...]
    """Name of class c at place c: the class folders, sorted as UTF-8 bytes."""

    paths: tuple[str, ...]
    """(N,) relative to the folder, posix."""

    class_ids: NDArray[np.int32]
    """(N,)"""

    heights: NDArray[np.int32]
    """(N,) pixels of the decoded image; EXIF orientation is ignored."""

    widths: NDArray[np.int32]
    """(N,) pixels."""

    num_bytes: NDArray[np.int64]
    """(N,) size of the file."""

    content_hashes: tuple[str, ...]
    """(N,) xxh3-128 of the file's bytes, 32 hex digits."""

    rejects: tuple[Reject, ...]
    """Files named like images that cannot be used, sorted by path."""

    num_ignored: dict[str, int]
    """Files with other extensions, counted by extension; they are no rejects."""

    @property
    def empty_classes(self) -> tuple[str, ...]:
        """Classes of which no image is usable."""
        used = set(self.class_ids.tolist())
        return tuple(name for c, name in enumerate(self.classes) if c not in used)


class _Facts(NamedTuple):
    """What decoding an image told."""

    path: str
    height: int
    width: int
    num_bytes: int
    content_hash: str


def scan(folder: Path, config: Config, progress: Progress) -> Scan:
    """Decode every image below ``folder`` and describe it; the result has no trace of workers.

    Raises:
        DataError: the folder has no classes, a class has no files, or no image is usable.
        ShardError: more than ``config.max_reject_share`` of the files are rejected.
        RetryError: the file system fails, or the folder vanished meanwhile.
    """
    found = find_images(folder)
    usable: list[_Facts] = []
    rejects = list(found.rejects)
    progress.start("index", len(found.paths), "images")
    for chunk in _inspect_all(folder, found.paths, config):
        usable += [item for item in chunk if isinstance(item, _Facts)]
        rejects += [item for item in chunk if isinstance(item, Reject)]
        progress.advance(len(chunk))
    if not folder.is_dir():
        raise RetryError(f"{folder}: the folder vanished while its images were read; run again")
    rejects.sort(key=lambda reject: reject.path.encode())
    _refuse_too_few(folder, usable, rejects, config.max_reject_share)
    return _to_scan(found.classes, usable, rejects, found.num_ignored)


def inspect(folder: Path, path: str, max_pixels: int) -> _Facts | Reject:
    """Read and decode one image; never raises for an image's own faults."""
    try:
        data = read_bytes(folder / path)
        height, width, _ = decode(data, max_pixels=max_pixels).shape
    except ImageError as error:
        return Reject(path, str(error))
    return _Facts(path, height, width, len(data), xxhash.xxh3_128_hexdigest(data))


def _inspect_all(
    folder: Path, paths: Sequence[str], config: Config
) -> Iterator[list[_Facts | Reject]]:
    """Inspect in the order of ``paths``, in threads: reading and decoding release Python's lock."""

    is_over = threading.Event()

    def inspect_chunk(chunk: Sequence[str]) -> list[_Facts | Reject]:
        return [inspect(folder, path, config.max_pixels) for path in chunk if not is_over.is_set()]

    num_workers = config.num_workers or _num_processors()
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="index")
    try:
        yield from pool.map(inspect_chunk, _chunks(paths))
    finally:
        is_over.set()  # whoever stops it does not wait for the rest of a chunk
        pool.shutdown(cancel_futures=True)


def _num_processors() -> int:
    """Processors that this process may use, which a cluster makes fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS cannot tell


def _chunks(paths: Sequence[str]) -> Iterator[Sequence[str]]:
    return (paths[i : i + _CHUNK_IMAGES] for i in range(0, len(paths), _CHUNK_IMAGES))


def _refuse_too_few(
    folder: Path, usable: list[_Facts], rejects: list[Reject], max_reject_share: float
) -> None:
    num_files = len(usable) + len(rejects)
    if not usable:
        first = rejects[0]
        raise DataError(
            f"{folder}: none of {num_files} image files is usable; "
            f"the first is {first.path} ({first.reason})"
        )
    if len(rejects) > max_reject_share * num_files:
        first = rejects[0]
        raise ShardError(
            f"{folder}: {len(rejects)} of {num_files} image files are unusable, more than "
            f"index.max_reject_share = {max_reject_share:g}; the first is {first.path} "
            f"({first.reason}); repair them or raise the limit"
        )


def _to_scan(
    classes: tuple[str, ...],
    usable: list[_Facts],
    rejects: list[Reject],
    num_ignored: dict[str, int],
) -> Scan:
    class_ids = {name: class_id for class_id, name in enumerate(classes)}
    return Scan(
        classes=classes,
        paths=tuple(facts.path for facts in usable),
        class_ids=np.array([class_ids[f.path.split("/", 1)[0]] for f in usable], dtype=np.int32),
        heights=np.array([facts.height for facts in usable], dtype=np.int32),
        widths=np.array([facts.width for facts in usable], dtype=np.int32),
        num_bytes=np.array([facts.num_bytes for facts in usable], dtype=np.int64),
        content_hashes=tuple(facts.content_hash for facts in usable),
        rejects=tuple(rejects),
        num_ignored=num_ignored,
    )
