"""Finding image files in class folders, in the order that every machine agrees on.

Like torchvision's ImageFolder: a class is a folder, its images lie anywhere below it, and what
counts as an image is decided by the extension. Unlike it: hidden files and folders (``._a.jpg``,
``.ipynb_checkpoints``) are left out, and what looks like an image but cannot be one is told.
Folders are listed as bytes, so that the order and the check for UTF-8 do not depend on the locale.
"""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from store.errors import TRANSIENT_ERRNOS, DataError, RetryError, says_nothing_of_file

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Extensions of images, in any case; torchvision's list."""

_EXTENSIONS = tuple(extension.encode() for extension in IMAGE_EXTENSIONS)


class Reject(NamedTuple):
    """A file that cannot be used."""

    path: str
    """Relative to the images' folder, posix; bytes that are not UTF-8 are shown as ``\\xff``."""

    reason: str
    """Short, for people."""


@dataclass(frozen=True, slots=True)
class FoundImages:
    """What class folders hold, by name only: nothing has been opened yet."""

    classes: tuple[str, ...]
    """Names of the class folders, sorted as UTF-8 bytes; class c stands at place c."""

    paths: tuple[str, ...]
    """Image files, relative to the folder, posix, sorted as UTF-8 bytes."""

    rejects: tuple[Reject, ...]
    """What looks like an image by its name and cannot be used, sorted by path."""

    num_ignored: dict[str, int]
    """Files with other extensions, counted by lower-case extension; hidden ones are not counted."""


def find_classes(folder: Path) -> tuple[str, ...]:
    """Return the names of the class folders, sorted as UTF-8 bytes. Hidden ones do not count.

    Raises:
        DataError: the folder is missing or has no class folders.
    """
    _, entries = _list_folder(folder, b"")
    names = [entry.name for entry in entries if _is_class_folder(entry)]
    classes = tuple(name.decode() for name in sorted(names) if _is_utf8(name))
    if not classes:
        raise DataError(
            f"{folder}: no class folders; check that its disk is mounted, or put images at "
            f"{folder}/CLASS/IMAGE.jpg"
        )
    return classes


def find_images(folder: Path) -> FoundImages:
    """List the images below every class folder of ``folder``, following links to folders.

    Raises:
        DataError: the folder is missing, has no class folders, or a class has no images.
    """
    classes = find_classes(folder)
    finder = _Finder(folder)
    finder.walk()
    _refuse_empty_classes(folder, classes, finder)
    return FoundImages(
        classes=classes,
        paths=tuple(path.decode() for path in sorted(finder.paths)),
        rejects=tuple(
            Reject(_escape(path), reason) for path, reason in sorted(finder.rejects.items())
        ),
        num_ignored=dict(sorted(finder.num_ignored.items())),
    )


_Identity = tuple[int, int]
"""Device and inode of a folder."""


@dataclass
class _Finder:
    root: Path
    paths: list[bytes] = field(default_factory=list)
    rejects: dict[bytes, str] = field(default_factory=dict)
    num_ignored: Counter[str] = field(default_factory=Counter)

    def walk(self) -> None:
        # A stack and not recursion: a path may have more parts than Python has frames.
        pending: list[tuple[bytes, frozenset[_Identity]]] = [(b"", frozenset())]
        while pending:
            relative, ancestors = pending.pop()
            identity, entries = _list_folder(self.root, relative)
            if identity in ancestors:
                self.rejects[relative] = "a link to a folder that contains it"
                continue
            inside = ancestors | {identity}
            for entry in entries:
                path = relative + b"/" + entry.name if relative else entry.name
                if self._see(entry, path):
                    pending.append((path, inside))

    def _see(self, entry: os.DirEntry[bytes], path: bytes) -> bool:
        """Record one entry; return whether it is a folder to walk into."""
        if entry.name.startswith(b"."):
            return False
        is_folder, is_file = _kind(entry)
        if entry.name.lower().endswith(_EXTENSIONS):
            reason = _why_not(entry, path, is_folder, is_file)
            if reason:
                self.rejects[path] = reason
            else:
                self.paths.append(path)
        elif is_file and b"/" in path:
            self.num_ignored[_escape(os.path.splitext(entry.name)[1].lower()) or "none"] += 1
        elif not (is_folder or is_file or b"/" in path) and _is_broken_link(entry):
            self.rejects[path] = "a broken link"  # to a class folder, for all that anybody knows
        return is_folder


def _why_not(entry: os.DirEntry[bytes], path: bytes, is_folder: bool, is_file: bool) -> str | None:
    """Why something named like an image cannot be one, or None."""
    if is_folder:
        return "a folder, not an image file"
    if not is_file:
        return "a broken link" if _is_broken_link(entry) else "not a regular file"
    if not _is_utf8(path):
        return "the name is not UTF-8"
    if b"/" not in path:
        return "not in a class folder"
    return None


def _kind(entry: os.DirEntry[bytes]) -> tuple[bool, bool]:
    """Whether an entry is a folder, whether it is a regular file; links are followed."""
    try:
        return entry.is_dir(), entry.is_file()
    except OSError as error:
        if says_nothing_of_file(error):  # a class must not be left out for it
            raise
        return False, False  # a link to itself


def _is_broken_link(entry: os.DirEntry[bytes]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


def _is_class_folder(entry: os.DirEntry[bytes]) -> bool:
    return not entry.name.startswith(b".") and _kind(entry)[0]


def _list_folder(root: Path, relative: bytes) -> tuple[_Identity, list[os.DirEntry[bytes]]]:
    folder = os.path.join(os.fsencode(root), relative)
    try:
        status = os.stat(folder)
        with os.scandir(folder) as entries:
            return (status.st_dev, status.st_ino), list(entries)
    except OSError as error:
        name = f"{root}/{_escape(relative)}" if relative else str(root)
        if error.errno in TRANSIENT_ERRNOS:
            raise RetryError(
                f"{name}: listing this folder failed ({error.strerror}); "
                "check the file system and run the same command again"
            ) from error
        raise DataError(
            f"{name}: this folder of images cannot be listed ({error.strerror}); "
            "check that the path is right, that its disk is mounted, and that it can be read"
        ) from error


def _refuse_empty_classes(folder: Path, classes: tuple[str, ...], finder: _Finder) -> None:
    filled = {path.split(b"/", 1)[0].decode() for path in finder.paths}
    empty = [name for name in classes if name not in filled]
    if empty:
        others = f" (and {len(empty) - 1} more classes)" if len(empty) > 1 else ""
        raise DataError(
            f"{folder}/{empty[0]}{others}: a class folder without images "
            f"({', '.join(IMAGE_EXTENSIONS)}); add images or remove the folder"
        )


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _escape(name: bytes) -> str:
    return name.decode(errors="backslashreplace")
