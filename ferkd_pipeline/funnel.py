"""Every command runs through here: what goes wrong becomes one line and an exit code."""

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType

import click

from ferkd_pipeline import exit_codes
from ferkd_pipeline.commands.root import root

_SPINNING = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
"""Variables of the environment that say how threads wait."""


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code; a traceback is shown only with `--debug`.

    `--debug` is taken from anywhere on the line, since people add it at the end of a failed one.
    """
    if not _SPINNING & os.environ.keys():
        # Before torch is loaded. Its threads spin while they wait for each other, and by default so
        # long that beside any other busy process a step takes several times as long.
        os.environ["GOMP_SPINCOUNT"] = "10000"
    debug = "--debug" in arguments
    plain = [argument for argument in arguments if argument != "--debug"]
    with _noticing_interrupts() as interrupted:
        return _run(plain, debug, interrupted)


def _run(arguments: Sequence[str], debug: bool, interrupted: threading.Event) -> int:
    try:
        result = root.main([*arguments], prog_name="ferkd-pipeline", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough. Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        cause = KeyboardInterrupt() if interrupted.is_set() else error
        _tell(cause)
        return exit_codes.exit_code(cause)
    # click returns the code of --help and of ctx.exit(), and else what the command returned.
    return result if isinstance(result, int) else 0


@contextlib.contextmanager
def _noticing_interrupts() -> Iterator[threading.Event]:
    """Remember Ctrl-C: in C code of torch or pydantic it can come out as an error of theirs.

    Reading weights, for one, then fails as though their file were damaged.
    """
    came = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        came.set()
        signal.default_int_handler(number, frame)

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield came  # ignored, as in a shell's background jobs, or somebody else's to handle
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _tell(error: BaseException) -> None:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return
    if isinstance(error, click.UsageError) and error.ctx is not None:
        click.echo(error.ctx.get_usage(), err=True)
    coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    prefix = click.style("Error:", fg="red") if coloured else "Error:"
    for line in exit_codes.message(error).splitlines() or [""]:
        click.echo(f"{prefix} {line}", err=True)
    if isinstance(error, click.UsageError) and error.ctx is not None:
        click.echo(f"Help: {error.ctx.command_path} --help", err=True)
    if not exit_codes.is_expected(error):
        click.echo("Unexpected; run the same command with --debug to see where.", err=True)
