"""What verify finds in a small store, and a way to damage one."""

from pathlib import Path

from store.check import verify
from tests.store.small_store import SmallStore

STEM = "part-00001"


class Watch:
    """Counts what verify tells."""

    def __init__(self) -> None:
        self.total, self.done, self.labels = 0, 0, list[str]()

    def start(self, label: str, total: int, unit: str) -> None:
        assert (label, unit) in (("verify", "bytes"), ("verify rows", "rows"))
        self.labels.append(label)
        self.total += total

    def advance(self, amount: int = 1) -> None:
        self.done += amount


def damages(root: Path) -> list[verify.Damage]:
    return verify.verify(root, Watch()).damages


def kinds(small: SmallStore) -> set[tuple[str, str]]:
    """(file below the root, what is wrong) of all damages."""
    found = damages(small.root)
    assert all(damage.remedy for damage in found)
    return {(Path(d.file).relative_to(small.root).as_posix(), d.kind) for d in found}


def flip_last_byte(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
