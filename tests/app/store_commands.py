"""Runs commands of `store` as a shell would, in this process."""

import json
from typing import Any

import pytest

from ferkd_pipeline import cli


def run(*words: str) -> int:
    return cli.main(["store", *words])


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert run(*words, "--json") == 0
    return json.loads(capsys.readouterr().out)
