"""Text for one line of a terminal or a log: names of files and classes may hold anything."""

import click


def one_line(text: str) -> str:
    """Return ``text`` with what does not print as escapes: line breaks, colours, odd bytes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(line: str = "", *, err: bool = False) -> None:
    """Print one line for people, whatever it names: on stdout, or with ``err`` on stderr."""
    click.echo(one_line(line), err=err)
