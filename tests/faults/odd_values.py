"""Values and files that a params.yaml should never hold."""

import codecs
from typing import Any

NAN, INFINITY = float("nan"), float("inf")

KINDS: dict[type, tuple[Any, ...]] = {
    str: (
        "",
        "a",
        "five",
        "x" * 5000,
        "é" * 200,
        "a\nb",
        "a\0b",
        "\x1b[31mred",
        "\ud800",
        "\u2028",
        "NaN",
        "1e5",
        "../../..",
        "/nowhere/at/all",
        "{}",
        "null",
    ),
    int: (0, -1, 1, 2**31, 2**62, 2**63, 2**64, -(2**63), 10**400, -(10**400)),
    float: (0.5, -0.5, 1.5, 1e308, -1e308, 5e-324, NAN, INFINITY, -INFINITY),
    bool: (True, False),
    list: ([], [1], ["a"], [None], [[]], [{}], [1.5, "a"], [True, True], [0] * 3000),
    dict: ({}, {"a": 1}, {"": {}}, {"a": {"a": {}}}, {"a\nb": 1}, {"k" * 400: 1}),
    type(None): (None,),
}
"""By their kind in JSON."""


def _aliases(depth: int) -> str:
    lines = ["sample:", "  a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for n in range(depth):
        lines.append(f"  a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]")
    return "\n".join(lines)


def _merges(depth: int) -> str:
    """Twice as many keys with each line."""
    lines = [f"a{n + 1}: &a{n + 1} {{<<: [*a{n}, *a{n}]}}" for n in range(depth)]
    return "\n".join(["a0: &a0 {x: 1}", *lines])


_BAD_TEXTS: dict[str, str] = {
    "a list": "- 1",
    "a number": "5",
    "a word": "text",
    "key twice": "sample: {num_crops: 1, num_crops: 2}",
    "section twice": "sample: {}\nindex: {images: x}\nsample: {}",
    "tab": "\tsample: {}",
    "tab below": "sample:\n\tnum_crops: 1",
    "two documents": "sample: {}\n---\nsample: {}",
    "anchor of nothing": "sample: *nope",
    "anchor section": "base: &x {num_crops: 3}\nsample: *x",
    "alias of itself": "sample: &s {a: *s}",
    "list of itself": "calibrate: {a: &l [*l]}",
    "arguments of themselves": "infer: {teacher: {name: a, model_kwargs: &k {b: *k}}}",
    "merging what merges it": "sample: &s {a: &t {<<: *s}, <<: *t}",
    "merges of merges": _merges(30),
    "alias as key": "sample: &s\n  ? *s\n  : 1",
    "a billion aliases": _aliases(12),
    "merging a number": "sample:\n  <<: 5",
    "merging what is wrong": "sample: {<<: {num_crops: 0}}",
    "list as key": "? [a, b]\n: c",
    "list as key below": "sample: {? [a] : 2}",
    "mapping as key": "? {a: b}\n: c",
    "number as section": "1: {}",
    "null as section": "null: {}",
    "number as key": "sample: {1: 2}",
    "python object": "sample: !!python/object/apply:os.system ['touch pwned']",
    "python name": "sample: !!python/name:os.system",
    "own tag": "sample: !foo 3",
    "int tag": "sample: !!int many",
    "float tag": "sample: !!float x",
    "bool tag": "sample: !!bool x",
    "timestamp tag": "sample: !!timestamp x",
    "binary tag": "sample: !!binary aGFsbG8=",
    "set tag": "sample: !!set {a}",
    "pairs tag": "sample: !!pairs [a: 1]",
    "yaml 3": "%YAML 3.0\n---\nsample: {}",
    "endless number": f"sample: {{num_crops: {'9' * 5000}}}",
    "endless hexadecimal": f"sample: {{num_crops: 0x{'f' * 5000}}}",
    "endless fraction": f"sample: {{flip: {'9' * 5000}.0}}",
    "deep lists": "[" * 5000,
    "deep mappings": "{a: " * 3000,
    "deep and closed": f"sample: {'[' * 500}{']' * 500}",
    "never closed": "sample: {num_crops: 'b",
    "zero byte": "sample: {}\n\0",
    "control character": "sample: {kind: \x01}",
    "escaped zero byte": 'index: {images: "a\\0b"}',
    "half a character": 'index: {images: "\\ud800"}',
    "line break in a section": '"a\\nb": {}',
    "line break in a key": 'sample: {"a\\nb": 1}',
    "long section": f"? {'k' * 5000}\n: 1",
    "long key": f"sample:\n  ? {'k' * 5000}\n  : 1",
    "block text": "sample: |\n  a\n  b\n",
    "old octal": "sample: {num_crops: 1_000}",
    "at sign": "@a: 1",
}

BAD_FILES: dict[str, bytes] = {
    **{name: text.encode("utf-8") for name, text in _BAD_TEXTS.items()},
    "UTF-16": "sample: {}".encode("utf-16"),
    "UTF-16 without a mark": "sample: {}".encode("utf-16-le"),
    "UTF-32": "sample: {}".encode("utf-32"),
    "Latin-1": "index: {images: Bäume}".encode("latin-1"),
    "a picture": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "half a character of UTF-8": b"sample: {}\n# \xc3",
    "too large": b"#" * (5 * 2**20),
}
"""Each is refused, with one line and exit code 2."""

_GOOD_TEXT = "sample: {num_crops: 3}\nindex: {images: images}\n"

GOOD_FILES: dict[str, bytes] = {
    "plain": _GOOD_TEXT.encode(),
    "byte order mark": codecs.BOM_UTF8 + _GOOD_TEXT.encode(),
    "CRLF": _GOOD_TEXT.replace("\n", "\r\n").encode(),
    "anchors": b"sample: &s {num_crops: 3}\nindex: {images: images}\n",
    "merged": b"sample: {<<: {num_crops: 2, flip: 0.5}, num_crops: 3}\nindex: {images: images}\n",
    "document marks": f"---\n{_GOOD_TEXT}...\n".encode(),
    "comments": f"# é\n{_GOOD_TEXT}# end".encode(),
}
"""Each says the same."""
