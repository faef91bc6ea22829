"""Loss, loader and step of training from the label store, beside FKD's published procedure.

    python benchmarks/train.py [--json] [--rounds R] [--images N] [--only loss|loader|step]

See docs/benchmarks.md for what each row means.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Python puts a script's folder first on its path: there `train` would be this very file.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from benchmarks.training.suite import main

    sys.exit(main())
