"""Drawing and labelling crops, beside FKD's published procedure and a bare teacher.

    python benchmarks/infer.py [--json] [--rounds R] [--images N] [--only sample|crops|gpu]

See docs/benchmarks.md for what each row means.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Python puts a script's folder first on its path: there `infer` would be this very file.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from benchmarks.labelling.suite import main

    sys.exit(main())
