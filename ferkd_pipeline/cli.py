"""The entry point: run one command, and end with the exit code that fits.

Imports stay light: `--help` and shell completion load click and nothing else of weight.
"""

import sys
from collections.abc import Sequence

from ferkd_pipeline import siblings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; the script `ferkd-pipeline` calls this."""
    if problem := siblings.complaint():
        print(f"Error: {problem}", file=sys.stderr)
        return 1
    try:
        # Only now: without our `store` the next import fails with a message that helps nobody.
        from ferkd_pipeline import funnel

        return funnel.run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt as error:  # before the funnel was there, or after it
        is_term = type(error).__name__ == "Terminated"
        print(f"Error: {'terminated (SIGTERM)' if is_term else 'interrupted'}", file=sys.stderr)
        return 143 if is_term else 130


if __name__ == "__main__":
    sys.exit(main())
