"""What the study's commands share: the option --params, and one line where something is wrong."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments import study
from experiments.study import Study
from store.errors import FerkdError


def run(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    action: Callable[[argparse.Namespace, Study], None],
) -> int:
    """Parse, read the study's parameters, act; returns the exit code."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--params", type=Path, default=study.DEFAULT, help="the study (%(default)s)"
    )
    given = parser.parse_args(argv)
    try:
        action(given, study.load(given.params))
    except (FerkdError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog}: stopped; run again: it goes on", file=sys.stderr)
        return 130
    return 0
