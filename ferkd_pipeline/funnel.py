"""Every command runs through here: what goes wrong becomes one line and an exit code."""

import contextlib
import errno
import io
import os
import select
import sys
import traceback
from collections.abc import Sequence

import click

from ferkd_pipeline import exit_codes
from ferkd_pipeline.commands.root import root
from stages.shared import stopping

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
    _open_closed_streams()
    _take_any_letter()
    debug = "--debug" in arguments
    plain = [argument for argument in arguments if argument != "--debug"]
    with stopping.noticed(_left_late) as asked:
        return _run(plain, debug, asked)


def _run(arguments: Sequence[str], debug: bool, asked: stopping.Asked) -> int:
    streams = sys.stdout, sys.stderr
    try:
        _check_printable(arguments)
        result = root.main([*arguments], prog_name="ferkd-pipeline", standalone_mode=False)
        code = _flush()
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, SystemExit) and sys.stdout is not streams[0]:
            # So click ends where any pipe breaks, a worker's too: it wraps the streams, and exits.
            sys.stdout, sys.stderr = streams
            error = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        cause = error if asked.by is None else asked.by()
        if asked.by is not None:
            _leave()
        if isinstance(cause, BrokenPipeError) and _is_unread():
            _silence()
            return exit_codes.UNREAD
        with contextlib.suppress(OSError):  # nobody reads what is told, or there is no room for it
            if debug:
                traceback.print_exc()
            _tell(cause)
        if isinstance(cause, OSError):
            _silence()
        return exit_codes.exit_code(cause)
    if code is not None:
        return code
    # click returns the code of --help and of ctx.exit(), and else what the command returned.
    return result if isinstance(result, int) else 0


def _open_closed_streams() -> None:
    """Let a closed stdin, stdout or stderr (`>&-`) lead nowhere.

    Its number would else be that of the next file that is opened, such as one of the store, and a
    library that complains on stderr would write into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115


def _take_any_letter() -> None:
    """Let stdout and stderr show as an escape what their encoding has no letter for."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _check_printable(arguments: Sequence[str]) -> None:
    """Refuse an argument that would break the line in which a message names it, or is no text.

    YAML on the command line (`calibrate preview --try`) may have line breaks and tabs.
    """
    for before, argument in zip(("", *arguments), arguments, strict=False):
        is_yaml = before == "--try" or argument.startswith("--try=")
        text = argument.translate({9: None, 10: None}) if is_yaml else argument
        if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
            raise click.UsageError(f"the argument {argument!r} has control characters in it")
        if any("\ud800" <= letter <= "\udfff" for letter in text):  # libraries take no such paths
            raise click.UsageError(f"the argument {argument!r} is not UTF-8; rename what it names")


def _flush() -> int | None:
    """Write what waits for stdout; the command is done, so a reader that left is no failure."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _silence()
        return 0
    return None


def _is_unread() -> bool:
    """Whether nobody reads stdout or stderr any more: pipes break elsewhere too."""
    unread = select.poll()
    for number in (1, 2):
        unread.register(number, 0)
    return any(event & select.POLLERR for _, event in unread.poll(0))


def _silence() -> None:
    """Drop what waits for a stdout that takes nothing: Python would complain at exit."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _leave() -> None:
    """Take away what tells others that this process is at work."""
    stopping.end_workers()
    if lock := sys.modules.get("store.lock"):
        lock.give_back_leases()


def _left_late(by: type[KeyboardInterrupt]) -> int:
    """Tell of a stop that the command did not heed in time."""
    with contextlib.suppress(OSError):
        _tell(by())
    _leave()
    return exit_codes.exit_code(by())


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
