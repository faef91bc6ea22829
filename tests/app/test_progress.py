import io
import threading

import pytest
from rich.console import Console

from ferkd_pipeline import progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lines_tell_rate_and_time_left() -> None:
    stream, clock = io.StringIO(), Clock()
    lines = progress.LineProgress(stream, seconds=5, clock=clock)
    lines.start("infer shard 3", 1000, "crops")
    for _ in range(4):
        clock.now += 2
        lines.advance(100)
    lines.note("a choice")
    lines.advance(600)
    clock.now += 2
    lines.close()
    assert stream.getvalue().splitlines() == [
        "infer shard 3: 300 of 1,000 crops (30%), 50 crops/s, 14 s left",
        "a choice",
        "infer shard 3: 1,000 crops in 10 s",
    ]


def test_a_new_task_ends_the_one_before_and_says_what_is_missing() -> None:
    stream = io.StringIO()
    lines = progress.LineProgress(stream, clock=Clock())
    lines.start("one", 10, "images")
    lines.advance(4)
    lines.start("two", 5, "images")
    lines.close()
    assert stream.getvalue().splitlines() == [
        "one: 4 of 10 images in 0.0 s",
        "two: 0 of 5 images in 0.0 s",
    ]


def test_calls_from_many_threads_are_all_counted() -> None:
    stream = io.StringIO()
    lines = progress.LineProgress(stream)
    lines.start("count", 8000, "rows")

    def advance() -> None:
        for _ in range(1000):
            lines.advance()

    threads = [threading.Thread(target=advance) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines.close()
    assert stream.getvalue().startswith("count: 8,000 rows in ")


def test_a_pipe_gets_lines_without_escape_codes() -> None:
    stream = io.StringIO()
    with progress.watched(stream) as watch:
        watch.start("index", 2, "images")
        watch.advance(2)
    assert stream.getvalue().startswith("index: 2 images in ")
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("no_color", [True, False])
def test_a_terminal_gets_a_bar(no_color: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    else:
        monkeypatch.delenv("NO_COLOR", raising=False)
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120)
    with progress.TerminalProgress(console) as bars:
        bars.start("infer [x]", 10, "crops")
        bars.advance(10)
        bars.start("next", 5, "crops")
        bars.note("something [unusual]")
    shown = stream.getvalue()
    assert "10/10" in shown and "crops" in shown
    assert "something [unusual]" in shown
    assert ("\x1b[38;5" in shown or "\x1b[32m" in shown) != no_color


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (99, "99 s"), (3000, "50 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert progress._duration(seconds) == text


def test_long_durations() -> None:
    assert progress._duration(8000) == "2 h 13 min"
