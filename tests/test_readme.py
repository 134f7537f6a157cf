"""What README.md shows works: its Python blocks run, one after the other, and its commands parse."""

from __future__ import annotations

import gc
import shlex
from pathlib import Path

import pytest
import torch
from documents import commands, python_blocks, run_blocks
from servers import served

from oracle_engine import OracleEngine, load_dataset
from oracle_engine.cli.main import build_parser
from oracle_engine.serving import create_app

README = Path(__file__).resolve().parent.parent / "README.md"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_python_blocks_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    text = README.read_text("utf-8")
    assert len(python_blocks(text)) == text.count("```python") > 0
    with served(create_app(OracleEngine(load_dataset("digits")))) as server:
        run_blocks(text.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}"), str(README))
        # clients that nobody closes end here, and in no other test
        gc.collect()
    # the output that the page shows, in the lines under its block
    assert f"\n    {capsys.readouterr().out.splitlines()[0]}\n" in text


def test_it_is_read_in_minutes() -> None:
    lines = README.read_text("utf-8").splitlines()
    assert len(lines) <= 150
    headings = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    assert headings == [
        *("Install", "In 60 seconds", "Which call", "Training, sampling, late times", "Serving, and many machines"),
        *("Data", "Speed", "More"),
    ]


@pytest.mark.parametrize("command", commands(README.read_text("utf-8")))
def test_the_commands_parse(command: str) -> None:
    arguments = build_parser().parse_args(shlex.split(command)[1:])
    assert callable(arguments.run)


def test_there_are_commands_to_check() -> None:
    assert len(commands(README.read_text("utf-8"))) >= 4


def test_a_block_that_fails_is_found_at_its_line() -> None:
    text = "# Title\n\n```python\nx = 1\n```\n\nwords\n\n```python\nassert x == 1\nassert x == 2\n```\n"
    assert len(python_blocks(text)) == 2
    with pytest.raises(AssertionError) as caught:
        run_blocks(text, "document")
    assert caught.traceback[-1].lineno + 1 == 11


def test_a_command_that_does_not_exist_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    found = commands("words\n\n    oracle-engine stages --data patches   # comment\n    oracle-engine dance --now\n")
    assert found == ["oracle-engine stages --data patches", "oracle-engine dance --now"]
    with pytest.raises(SystemExit):
        build_parser().parse_args(shlex.split(found[1])[1:])
    assert "invalid choice" in capsys.readouterr().err
