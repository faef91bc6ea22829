"""A label store as large as ImageNet's: built, calibrated, verified, scanned and read at random.

    python benchmarks/full_size.py --out DIR [--images 1281167] [--crops 200] [--shards 64]
                                   [--workers 2] [--json]

Labels are synthetic (benchmarks/synthetic.py); all else goes through the stages' own code. Started
again with the same settings it goes on where it stopped. Nothing is written outside DIR.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Python puts a script's folder first on its path: there `store` would be another file.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from benchmarks.full_size_run import main

    sys.exit(main())
