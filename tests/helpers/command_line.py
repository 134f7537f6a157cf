"""Commands as a shell runs them: their status, the JSON they print, and the one line they leave when they fail."""

from __future__ import annotations

import json
from typing import Any

import pytest

from oracle_engine.cli.main import main


def run(*arguments: object) -> int:
    """Return the status of a command."""
    return main([str(argument) for argument in arguments])


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """Return what a command prints with --json, and nothing beside it."""
    capsys.readouterr()
    assert run(*arguments, "--json") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    facts: dict[str, Any] = json.loads(captured.out)
    return facts


def assert_refused(capsys: pytest.CaptureFixture[str], message: str, *arguments: object) -> None:
    """Expect status 2 and one line that says why."""
    capsys.readouterr()
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("oracle-engine: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
