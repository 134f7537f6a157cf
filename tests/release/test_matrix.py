"""Versions that cannot be had are said to be untried, and no failure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from release import matrix
from release.environments import FailedError
from release.matrix import FAILED, PASSED, UNTRIED, Cell, cells, interpreter, lacking, main, to_install, tried

CELL = Cell("3.11", "2.9.*", "newest")


def reports(url: str) -> str:
    return json.dumps({"install": [{"download_info": {"url": url}}]})


def test_every_combination_is_a_cell() -> None:
    found = list(cells(("3.11", "3.13")))
    assert len(found) == len(set(found)) == 8
    assert CELL.requirements == ["torch==2.9.*", "numpy"]
    assert str(CELL) == "Python 3.11, torch 2.9.*, NumPy newest"


def test_a_torch_for_cards_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(matrix, "run", lambda command, folder: reports("https://x/torch-2.9.1-cp311-linux.whl"))
    assert lacking(CELL, "python", tmp_path) == "of torch==2.9.* only builds for CUDA can be had"
    assert to_install(CELL, "python", tmp_path, cuda=True) == CELL.requirements
    monkeypatch.setattr(matrix, "run", lambda command, folder: reports("file:///x/torch-2.9.1+cpu-cp311-linux.whl"))
    assert lacking(CELL, "python", tmp_path) is None
    assert to_install(CELL, "python", tmp_path) == CELL.requirements

    def none(command: object, folder: object) -> str:
        raise FailedError("nothing")

    monkeypatch.setattr(matrix, "run", none)
    assert lacking(CELL, "python", tmp_path) == "no wheel of torch==2.9.* for Python 3.11 can be had"


def test_the_tested_torch_stands_in_for_one_for_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    tested = f"torch=={matrix.pinned('torch')}"

    def run(command: list[str], folder: Path) -> str:
        return reports("file:///x/torch-2+cpu-x.whl" if command[-1] == tested else "https://x/torch-3-x.whl")

    monkeypatch.setattr(matrix, "run", run)
    assert to_install(Cell("3.11", "newest", "1.26.*"), "python", tmp_path) == [tested, "numpy==1.26.*"]


def test_an_interpreter_that_is_not_there_is_untried(tmp_path: Path) -> None:
    assert interpreter("2.0") is None
    outcome = tried(Cell("2.0", "newest", "newest"), tmp_path / "x.whl", only_look=False)
    assert (outcome.result, outcome.words) == (UNTRIED, "there is no such interpreter here")


def test_the_status_is_that_of_the_failures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = iter([PASSED, UNTRIED, FAILED, PASSED])
    monkeypatch.setattr(matrix, "native_wheel", lambda: Path("x.whl"))
    monkeypatch.setattr(matrix, "tried", lambda cell, wheel, **options: matrix.Outcome(cell, next(results), "so"))
    assert main(["--python", "3.11"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "2 passed, 1 failed, 1 untried"
    results = iter([PASSED, UNTRIED] * 2)
    assert main(["--python", "3.11"]) == 0


def test_without_a_wheel_there_is_nothing_to_try(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("release.environments.DIST", tmp_path)
    assert main([]) == 1
    assert "run python -m release.wheels" in capsys.readouterr().err
