"""Size and speed of the label store, beside FKD's layout, LMDB, HDF5, Arrow IPC and Parquet.

    python benchmarks/store.py [--json] [--labels FILE.npz] [--keep DIR] [--images N] [--rounds R]

Needs the extra `bench`; see docs/benchmarks.md for what each row means.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Python puts a script's folder first on its path: there `store` would be this very file.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from benchmarks.suite import main

    sys.exit(main())
