"""`python -m ferkd_pipeline` is `ferkd-pipeline`."""

import sys

from ferkd_pipeline.cli import main

sys.exit(main())
