"""Files and folders appear whole or not at all, whatever ends the writer."""

import errno
import os
import socket
import stat
import time
from pathlib import Path

import pytest

from store import atomic
from tests.store.processes import kill_at_line
from tests.store.small_store import files_of

KILLED_IN_FILE = """
import sys, time
from pathlib import Path
from store.atomic import replace_file

with replace_file(Path(sys.argv[1])) as partial:
    partial.write_bytes(b"half")
    print("written", flush=True)
    time.sleep(60)
"""
KILLED_IN_FOLDER = """
import sys, time
from pathlib import Path
from store.atomic import replace_folder

with replace_folder(Path(sys.argv[1])) as partial:
    (partial / "a").write_bytes(b"half")
    print("written", flush=True)
    time.sleep(60)
"""
KILLED_BETWEEN_RENAMES = """
import os, sys, time
from pathlib import Path
from store import atomic

def stop(source, final):
    print("the old one is aside", flush=True)
    time.sleep(60)

atomic.rename = stop
with atomic.replace_folder(Path(sys.argv[1])) as partial:
    (partial / "a").write_bytes(b"new")
"""


def test_file_appears_whole_in_a_folder_that_is_made(tmp_path: Path) -> None:
    final = tmp_path / "a" / "b.bin"
    with atomic.replace_file(final) as partial:
        partial.write_bytes(b"new")
        assert not final.exists()
        assert partial.parent == final.parent
    assert files_of(tmp_path) == {"a/b.bin": b"new"}


def test_failed_file_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    final = tmp_path / "b.bin"
    atomic.write_bytes(final, b"old")
    with pytest.raises(RuntimeError), atomic.replace_file(final) as partial:
        partial.write_bytes(b"half")
        raise RuntimeError
    assert files_of(tmp_path) == {"b.bin": b"old"}


def test_failed_folder_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    final = tmp_path / "model"
    with atomic.replace_folder(final) as partial:
        (partial / "a").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic.replace_folder(final) as partial:
        (partial / "a").write_bytes(b"half")
        raise KeyboardInterrupt
    assert files_of(tmp_path) == {"model/a": b"old"}


def test_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    final = tmp_path / "model"
    for name in ("a", "b"):
        with atomic.replace_folder(final) as partial:
            assert not any(partial.iterdir())
            (partial / name).write_bytes(b"x")
    assert files_of(tmp_path) == {"model/b": b"x"}


@pytest.mark.parametrize("name", ["b.bin", "part-00000.parquet", "odd [name]*.bin"])
def test_killed_file_is_not_seen_and_swept_by_the_next_writer(tmp_path: Path, name: str) -> None:
    final = tmp_path / name
    atomic.write_bytes(final, b"old")
    kill_at_line(KILLED_IN_FILE, final)
    assert final.read_bytes() == b"old"
    assert len(files_of(tmp_path)) == 2
    atomic.write_bytes(final, b"new")
    assert files_of(tmp_path) == {name: b"new"}


def test_killed_folder_is_not_seen_and_swept_by_the_next_writer(tmp_path: Path) -> None:
    final = tmp_path / "model"
    kill_at_line(KILLED_IN_FOLDER, final)
    assert not final.exists()
    with atomic.replace_folder(final) as partial:
        (partial / "a").write_bytes(b"new")
    assert files_of(tmp_path) == {"model/a": b"new"}
    assert len(list(tmp_path.iterdir())) == 1


def test_killed_between_the_two_renames_the_folder_is_absent(tmp_path: Path) -> None:
    final = tmp_path / "model"
    with atomic.replace_folder(final) as partial:
        (partial / "a").write_bytes(b"old")
    kill_at_line(KILLED_BETWEEN_RENAMES, final)
    assert not final.exists()
    assert sorted(files_of(tmp_path).values()) == [b"new", b"old"]  # aside, not yet deleted
    with atomic.replace_folder(final) as partial:
        (partial / "a").write_bytes(b"newer")
    assert files_of(tmp_path) == {"model/a": b"newer"}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_live_writer_is_not_swept(tmp_path: Path) -> None:
    final = tmp_path / "b.bin"
    living = tmp_path / f".b.bin.new-{socket.gethostname()}-{os.getppid()}.tmp"
    elsewhere = tmp_path / ".b.bin.new-some-other-host-1.tmp"
    forgotten = tmp_path / ".b.bin.new-some-other-host-2.tmp"
    for path in (living, elsewhere, forgotten):
        path.write_bytes(b"half")
    os.utime(forgotten, (time.time() - 2 * 24 * 3600,) * 2)
    atomic.write_bytes(final, b"new")
    assert set(tmp_path.iterdir()) == {final, living, elsewhere}
    atomic.sweep(final)
    assert set(tmp_path.iterdir()) == {final}


def test_sweep_spares_other_files(tmp_path: Path) -> None:
    names = {"b.bin", ".b.bin", ".bb.bin.new-host-1.tmp", "b.bin.new-host-1.tmp"}
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    atomic.sweep(tmp_path / "b.bin")
    assert {path.name for path in tmp_path.iterdir()} == names


def test_hardlink_is_never_changed(tmp_path: Path) -> None:
    cached, final = tmp_path / "cache", tmp_path / "labels" / "x"
    cached.write_bytes(b"in the cache of DVC")
    cached.chmod(0o444)
    final.parent.mkdir()
    os.link(cached, final)
    atomic.write_bytes(final, b"new")
    assert cached.read_bytes() == b"in the cache of DVC"
    assert final.read_bytes() == b"new"
    assert cached.stat().st_nlink == 1


@pytest.mark.parametrize(
    ("mask", "file_mode", "folder_mode"), [(0o22, 0o644, 0o755), (0o7, 0o660, 0o770)]
)
def test_modes_honour_the_umask(
    tmp_path: Path, mask: int, file_mode: int, folder_mode: int
) -> None:
    before = os.umask(mask)
    try:
        atomic.write_bytes(tmp_path / "f", b"")
        with atomic.replace_folder(tmp_path / "d") as partial:
            (partial / "f").write_bytes(b"")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("f", "d/f", "d")]
    assert modes == [file_mode, file_mode, folder_mode]


def _fail_across_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = os.rename

    def rename(source: Path, target: Path) -> None:
        if source.parent != target.parent:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
        plain(source, target)

    monkeypatch.setattr(os, "rename", rename)


def test_folders_and_files_move_to_another_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail_across_disks(monkeypatch)
    work, final = tmp_path / "work" / "a.zarr", tmp_path / "labels" / "part.zarr"
    (work / "c").mkdir(parents=True)
    (work / "c" / "0").write_bytes(b"x")
    (work.parent / "entry").write_bytes(b"y")
    atomic.move_folder(work, final)
    atomic.rename(work.parent / "entry", final.parent / "entry")
    assert files_of(tmp_path) == {"labels/entry": b"y", "labels/part.zarr/c/0": b"x"}
    assert not work.exists()


def test_other_errors_of_a_rename_are_raised(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        atomic.rename(tmp_path / "nothing", tmp_path / "x")


def test_many_files_are_flushed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_FILES_WORTH_ONE_SYNC", 2)
    synced: list[str] = []
    monkeypatch.setattr(os, "sync", lambda: synced.append("all"))
    monkeypatch.setattr(atomic, "fsync_path", lambda path: synced.append(path.name))
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(b"")
    atomic.fsync_tree(tmp_path)
    assert synced == ["all"]


def test_remove_takes_files_folders_links_and_nothing(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (tmp_path / "link").symlink_to(kept)
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    for name in ("link", "folder", "nothing"):
        atomic.remove(tmp_path / name)
    assert list(tmp_path.iterdir()) == [kept]
