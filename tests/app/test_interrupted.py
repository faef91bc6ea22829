"""Ctrl-C ends a command with 130, whatever the code that it meets makes of it."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import click
import pytest

from ferkd_pipeline import funnel
from ferkd_pipeline.commands.root import root
from store.errors import DataError


@click.command()
def swallow() -> None:
    """Stands for C code that turns an interrupt into an error of its own, without a cause."""
    with contextlib.suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    raise DataError("weights: not a readable file")


@click.command()
def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@click.command()
def fail() -> None:
    raise DataError("weights: not a readable file")


@pytest.fixture(autouse=True)
def commands(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(root, "commands", {c.name: c for c in (swallow, interrupt, fail)})
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


@pytest.mark.parametrize("name", ["swallow", "interrupt"])
def test_an_interrupt_is_one(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert funnel.run([name]) == 130
    assert (
        capsys.readouterr()
        .err.lstrip()
        .startswith("Error: interrupted; what was published is whole")
    )


def test_an_error_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert funnel.run(["fail"]) == 3
    assert funnel.run(["interrupt"]) == 130
    assert funnel.run(["fail"]) == 3


def test_ignored_interrupts_stay_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert funnel.run(["interrupt"]) == 0
    assert signal.signal(signal.SIGINT, signal.default_int_handler) is signal.SIG_IGN


def test_in_another_thread() -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(funnel.run(["fail"])))
    thread.start()
    thread.join()
    assert codes == [3]
