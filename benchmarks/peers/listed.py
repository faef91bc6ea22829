"""The formats that are compared, in the order of the table."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.arrays import Labels, Reader
from benchmarks.peers import arrow_ipc, hdf5, lmdb_records, parquet, reference


@dataclass(frozen=True, slots=True)
class Peer:
    """One format."""

    name: str
    write: Callable[[Path, Labels], None]
    """Into a folder that is empty."""
    open_reader: Callable[[Path, Labels], Reader]
    """Labels are given for their shapes and paths only."""


PEERS: tuple[Peer, ...] = (
    Peer("reference", reference.write, reference.open_reader),
    Peer("lmdb", lmdb_records.write, lmdb_records.open_reader),
    Peer("hdf5", hdf5.write, hdf5.open_reader),
    Peer("arrow_ipc", arrow_ipc.write, arrow_ipc.open_reader),
    Peer("parquet_pandas", parquet.write_default, parquet.open_reader),
    Peer("parquet_zstd_32", parquet.write_zstd, parquet.open_reader),
)
