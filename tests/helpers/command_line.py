"""Commands as a shell runs them: their status, the JSON they print, and the one line they leave when they fail."""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jaxtyping
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


@dataclass(frozen=True)
class Outcome:
    """What a command returned, printed and left: its status, both streams, and the files that are new."""

    status: int
    out: str
    err: str
    files: list[str]


# a remedy that speaks of Python: name=value, a name of the library, an attribute
PYTHON_WORDS = re.compile(r"\b[a-z_]+=\S|Oracle[A-Z]|oracle_engine\.|\bNone\b|\b(engine|data|torch|points)\.[a-z_]+\(?")


@contextmanager
def empty_folder() -> Iterator[Path]:
    """Yield a folder that is the current one inside the block, and gone after it."""
    with TemporaryDirectory() as name, chdir(name):
        yield Path(name)


def outcome(*arguments: object) -> Outcome:
    """Run a command in the current folder as a shell does: annotations are not checked, and warnings are shown."""
    before, out, err = set(Path().rglob("*")), io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), redirect_stdout(out), redirect_stderr(err):
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        warnings.simplefilter("default")
        try:
            status = run(*arguments)
        except SystemExit as ended:
            status = int(ended.code or 0)
    files = sorted(path.as_posix() for path in set(Path().rglob("*")) - before)
    return Outcome(status, out.getvalue(), err.getvalue(), files)


def assert_answered_or_refused(found: Outcome) -> None:
    """Expect an answer, or status 2 with one line in the words of the command line and no new file."""
    assert found.status in (0, 2), found
    lines = found.err.splitlines()
    assert not [name for name in found.files if "partial" in name], found
    if found.status == 0:
        assert all(line.startswith("oracle-engine: warning: ") for line in lines), found
        return
    assert (len(lines), found.out, found.files) == (1, "", []), found
    assert lines[0].startswith("oracle-engine: error: "), found
    remedy = lines[0].partition(" Remedy: ")[2]
    assert remedy, found
    assert not PYTHON_WORDS.search(remedy), found
