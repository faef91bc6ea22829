"""The chain as a tree for people."""

import sys
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from ferkd_pipeline.plain import one_line
from ferkd_pipeline.trace.node import Node

_WIDTH = 100
"""Columns where no terminal limits them."""
_DIGEST_LETTERS = 12
_STYLES = {
    "unchanged": "green",
    "changed": "bold red",
    "missing": "yellow",
    "elsewhere": "dim",
    "not recorded": "dim",
}


def show(node: Node) -> None:
    """Print the tree and, below it, whether everything is still there."""
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    console.print(_tree(node))
    console.print(Text(one_line(_verdict(node))))


def _tree(node: Node) -> Tree:
    tree = Tree(_label(node), guide_style="dim")
    for each in node.made_from:
        _add(tree, each)
    return tree


def _add(tree: Tree, node: Node) -> None:
    branch = tree.add(_label(node))
    for each in node.made_from:
        _add(branch, each)


def _label(node: Node) -> Text:
    text = Text(one_line(node.what), style="bold")
    if node.digest:
        text.append(f"  {node.digest[:_DIGEST_LETTERS]}", style="not bold cyan")
    text.append(f"  {one_line(_state(node))}", style=f"not bold {_STYLES[node.state]}")
    for fact in node.facts:
        text.append(f"\n{one_line(fact)}", style="not bold")
    return text


def _state(node: Node) -> str:
    because = f": {node.why}" if node.why else ""
    if node.state == "changed":
        now = f", now {node.now[:_DIGEST_LETTERS]}" if node.now else ""
        return f"CHANGED{now}{because}"
    if node.state == "missing":
        return f"no longer here{because}"
    if node.state == "elsewhere":
        return f"from elsewhere, not compared{because}"
    return f"{node.state}{because}"


def _verdict(node: Node) -> str:
    wrong = [each for each in node.walk() if each.state in ("changed", "missing")]
    unknown = [each for each in node.walk() if each.state == "not recorded"]
    if wrong:
        return f"Not what it was: {_named(wrong)}."
    if unknown:
        return f"What is recorded is unchanged; not recorded: {_named(unknown)}."
    return "Everything that made it is still as it was."


def _named(nodes: list[Node]) -> str:
    return ", ".join(dict.fromkeys(_names(nodes)))


def _names(nodes: list[Node]) -> Iterator[str]:
    for node in nodes:
        yield node.what
