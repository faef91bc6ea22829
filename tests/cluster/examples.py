"""Examples of docs/clusters.md."""

import re

from tests.cluster.watching import REPOSITORY

PAGE = REPOSITORY / "docs" / "clusters.md"


def written(language: str) -> str:
    """The page's one example in a language."""
    text = PAGE.read_text()
    [found] = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return str(found)
