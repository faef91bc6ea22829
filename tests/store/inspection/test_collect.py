import json
import os
import socket
import time
from pathlib import Path

import pytest

from store import entries, lock, shelf
from store.errors import DataError, RetryError
from store.inspection import collect
from store.inspection.collect import Found, Item
from store.view.build import plan_view
from tests.store.processes import running, wait_for_line
from tests.store.small_store import NAME, NUM_SHARDS, SmallStore

HOLD = """
import sys, time
from pathlib import Path
from store import lock
with lock.hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
DEAD = 2**22 + 1  # above the largest process id there can be


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FERKD_CACHE", raising=False)


def open_view(store: SmallStore, calibration: str | None = None) -> Path:
    return plan_view(store.layout, NUM_SHARDS, Path("images"), calibration).open().folder


def kinds(found: Found) -> list[str]:
    return sorted(item.kind for item in found.items)


def delete(store: SmallStore, found: Found) -> list[Item]:
    done: list[Item] = []
    collect.delete(store.layout, found, done.append)
    return done


def dead_lease(store: SmallStore, name: str = "soft-part-00000") -> Path:
    path = store.layout.work / "locks" / f"{name}.lease"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"host": socket.gethostname(), "pid": DEAD, "beat": time.time()}))
    return path


def test_a_store_without_a_work_folder(own: SmallStore) -> None:
    assert collect.find(own.layout) == Found([], [], [])


def test_views_that_would_be_opened_stay(own: SmallStore) -> None:
    plain, calibrated = open_view(own), open_view(own, NAME)
    found = collect.find(own.layout)
    assert found.items == []
    assert {item.path for item in found.kept} == {plain, calibrated}
    assert all("training opens now" in item.what for item in found.kept)


def test_views_of_other_labels_go(own: SmallStore) -> None:
    plain, calibrated = open_view(own), open_view(own, NAME)
    meta = json.loads((plain / "meta.json").read_text())
    stale = plain.with_name("0" * 32)
    plain.rename(stale)
    (stale / "meta.json").write_text(json.dumps({**meta, "digest": "1" * 64}))
    found = collect.find(own.layout)
    assert [item.path for item in found.items] == [stale]
    assert found.num_bytes == sum(path.stat().st_size for path in stale.iterdir())
    delete(own, found)
    assert not stale.exists() and calibrated.exists()
    assert collect.find(own.layout).items == []


def test_a_view_of_a_calibration_that_is_gone_goes(own: SmallStore) -> None:
    view = open_view(own, NAME)
    for path in own.layout.folder(f"calibrated/{NAME}").iterdir():
        path.unlink()
    own.layout.folder(f"calibrated/{NAME}").rmdir()
    assert [item.path for item in collect.find(own.layout).items] == [view]


def test_while_labels_are_incomplete_views_stay(own: SmallStore) -> None:
    view = open_view(own)
    entries.withdraw(own.layout, "soft", "part-00001")
    found = collect.find(own.layout)
    assert found.items == []
    assert [(item.path, "incomplete" in item.what) for item in found.kept] == [(view, True)]


def test_a_shared_cache_is_left_alone_unless_asked(
    own: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FERKD_CACHE", str(tmp_path / "cache"))
    view = tmp_path / "cache" / "of-another-store"
    view.mkdir(parents=True)
    (view / "meta.json").write_text(json.dumps({"digest": "2" * 64, "calibration": None}))
    assert collect.find(own.layout).items == []
    found = collect.find(own.layout, shared_cache=True)
    assert [item.path for item in found.items] == [view]
    delete(own, found)
    assert not view.exists()


def test_folders_that_are_no_views_are_left_alone(own: SmallStore) -> None:
    mine = own.layout.view_cache() / "notes"
    mine.mkdir(parents=True)
    (mine / "meta.json").write_text("[]")
    assert collect.find(own.layout) == Found([], [], [])


def test_shards_set_aside_and_shards_interrupted(own: SmallStore) -> None:
    assert shelf.set_aside(own.layout, "predictions", "part-00000", "infer")
    begun = own.layout.resumable("infer", "ab" * 32)
    (begun / "journal").mkdir(parents=True)
    (begun / "journal" / "000000.json").write_text("{}")
    found = collect.find(own.layout)
    assert kinds(found) == ["set-aside", "unfinished"]
    texts = {item.kind: item.what for item in found.items}
    assert texts["set-aside"] == "infer: 1 finished shard, 16 rows"
    assert texts["unfinished"] == "infer: a shard that was interrupted, 1 block done"
    assert "the teacher runs again" in collect.COSTS["set-aside"]
    only = collect.find(own.layout, ["unfinished"])
    assert kinds(only) == ["unfinished"]
    delete(own, only)
    assert kinds(collect.find(own.layout)) == ["set-aside"]
    delete(own, found)
    assert collect.find(own.layout).items == []


def test_remnants_of_dead_writers(own: SmallStore) -> None:
    host = socket.gethostname()
    folder = own.layout.work / "done"
    folder.mkdir(parents=True)
    dead = folder / f".train.json.new-{host}-{DEAD}.tmp"
    live = folder / f".train.json.new-{host}-{os.getppid()}.tmp"
    away = folder / ".train.json.old-elsewhere-1.tmp"
    for path in (dead, live, away):
        path.mkdir()
        (path / "x").write_text("12345")
    found = collect.find(own.layout)
    assert [(item.kind, item.path, item.num_bytes) for item in found.items] == [
        ("remnant", dead, 5)
    ]
    delete(own, found)
    assert sorted(folder.iterdir()) == sorted([live, away])


def test_the_store_is_never_touched(own: SmallStore) -> None:
    remnant = own.root / "soft" / f".part-00000.parquet.new-{socket.gethostname()}-{DEAD}.tmp"
    remnant.write_text("x")
    assert collect.find(own.layout).items == []


def test_a_dead_writer_s_lease_goes_and_its_lock_stays_usable(own: SmallStore) -> None:
    lease = dead_lease(own)
    found = collect.find(own.layout)
    assert kinds(found) == ["lease"] and found.writers == []
    delete(own, found)
    assert not lease.exists()
    with lock.hold(lease.with_suffix(".lock")):
        pass


def test_nothing_is_deleted_while_a_writer_lives(own: SmallStore) -> None:
    begun = own.layout.resumable("infer", "ab" * 32)
    begun.mkdir(parents=True)
    dead_lease(own)
    with running(HOLD, own.layout.lock("predictions", "part-00001")) as process:
        assert wait_for_line(process) == "held"
        found = collect.find(own.layout)
        assert kinds(found) == ["lease", "unfinished"]
        assert found.writers == [
            f"predictions-part-00001 is being written by process {process.pid} on "
            f"{socket.gethostname()}"
        ]
        with pytest.raises(RetryError, match="nothing is deleted while it writes"):
            delete(own, found)
        assert begun.exists()
    assert len(delete(own, collect.find(own.layout, ["unfinished"]))) == 1


def test_a_lease_of_another_machine_counts_while_its_heart_beats(own: SmallStore) -> None:
    path = dead_lease(own)
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "beat": time.time()}))
    assert collect.find(own.layout).writers == [
        "soft-part-00000 is being written by process 1 on elsewhere"
    ]
    beat = time.time() - lock.STALE_SECONDS - 1
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "beat": beat}))
    os.utime(path, (beat, beat))
    assert kinds(collect.find(own.layout)) == ["lease"]


def test_a_number_that_was_given_to_another_process_does_not_count(own: SmallStore) -> None:
    path = dead_lease(own)
    beat = time.time() - lock.STALE_SECONDS - 1
    lease = {"host": socket.gethostname(), "pid": os.getpid(), "beat": beat}
    path.write_text(json.dumps(lease))
    os.utime(path, (beat, beat))
    found = collect.find(own.layout)
    assert kinds(found) == ["lease"] and found.writers == []
    delete(own, found)
    assert not path.exists()
    path.write_text(json.dumps({**lease, "beat": time.time()}))
    assert len(collect.find(own.layout).writers) == 1


def test_a_lock_that_is_held_counts_though_its_heart_stopped(own: SmallStore) -> None:
    """As of a writer on a machine that slept."""
    path = own.layout.lock("predictions", "part-00001")
    with running(HOLD, path) as process:
        assert wait_for_line(process) == "held"
        beat = time.time() - lock.STALE_SECONDS - 1
        lease = {"host": socket.gethostname(), "pid": process.pid, "beat": beat}
        path.with_suffix(".lease").write_text(json.dumps(lease))
        os.utime(path.with_suffix(".lease"), (beat, beat))
        assert len(collect.find(own.layout).writers) == 1
        path.with_suffix(".lease").write_text(json.dumps({**lease, "host": "elsewhere"}))
        os.utime(path.with_suffix(".lease"), (beat, beat))
        assert len(collect.find(own.layout).writers) == 1
    with lock.hold(path):
        path.with_suffix(".lease").write_text(json.dumps({**lease, "pid": os.getpid()}))
        os.utime(path.with_suffix(".lease"), (beat, beat))
        assert len(collect.find(own.layout).writers) == 1
        assert lock.is_held(path)
    assert not lock.is_held(path)


def test_links_are_not_followed(own: SmallStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "infer" / "key").mkdir(parents=True)
    (outside / "meta.json").write_text(json.dumps({"digest": "3" * 64}))
    host = socket.gethostname()
    (outside / f".x.new-{host}-{DEAD}.tmp").write_text("x")
    own.layout.view_cache().mkdir(parents=True)
    (own.layout.view_cache() / "link").symlink_to(outside)
    (own.layout.work / "work").symlink_to(outside)
    found = collect.find(own.layout)
    assert found == Found([], [], [])


def test_links_among_the_work_are_not_followed(own: SmallStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "key").mkdir(parents=True)
    (own.layout.work / "work" / "compress").mkdir(parents=True)
    (own.layout.work / "work" / "infer").symlink_to(outside)
    (own.layout.work / "work" / "compress" / "key").symlink_to(outside)
    assert collect.find(own.layout) == Found([], [], [])


def test_what_lies_elsewhere_is_refused(own: SmallStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    own.layout.work.mkdir()
    (own.layout.work / "link").symlink_to(tmp_path)
    for path in (outside, own.layout.work / "link" / "outside"):
        with pytest.raises(DataError, match="lies outside of"):
            delete(own, Found([Item("view", path, 0, "")], [], []))
    assert outside.exists()


def test_a_link_that_is_listed_is_itself_deleted(own: SmallStore, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "x").write_text("x")
    remnant = own.layout.work / f".a.new-{socket.gethostname()}-{DEAD}.tmp"
    own.layout.work.mkdir()
    remnant.symlink_to(precious)
    found = collect.find(own.layout)
    delete(own, found)
    assert (precious / "x").read_text() == "x"
