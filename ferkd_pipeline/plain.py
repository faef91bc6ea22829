"""Text for one line of a terminal or a log."""


def one_line(text: str) -> str:
    """Return ``text`` with what does not print as escapes: names of files may hold line breaks."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
