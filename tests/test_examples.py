"""The programs of examples/ run and print something; so do the notebooks, each of which is also a script."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

FOLDER = Path(__file__).resolve().parent.parent / "examples"
EXAMPLES = sorted(FOLDER.glob("[0-9]*.py"))
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# its server is part of its own test
NEEDS_SERVER = "remote_oracle"


@pytest.mark.parametrize("example", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_an_example_runs(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out.strip()
    assert not any(tmp_path.iterdir())


def test_examples_are_numbered() -> None:
    assert [int(path.name[:2]) for path in EXAMPLES] == list(range(1, len(EXAMPLES) + 1))


def cells_of(notebook: Path) -> list[dict[str, Any]]:
    """Return the cells of a notebook."""
    cells: list[dict[str, Any]] = json.loads(notebook.read_text("utf-8"))["cells"]
    return cells


@pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS if path.stem != NEEDS_SERVER])
def test_a_notebook_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    namespace: dict[str, object] = {"__name__": name}
    for cell in cells_of(FOLDER / f"{name}.ipynb"):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), name, "exec"), namespace)
    plt.close("all")
    assert capsys.readouterr().out.strip()
    # a figure is the value of a cell
    assert "figure" in namespace


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_and_its_script_are_a_pair(notebook: Path) -> None:
    jupytext = pytest.importorskip("jupytext", reason='needs pip install -e ".[dev]"')
    script = jupytext.read(notebook.with_suffix(".py"))
    cells = cells_of(notebook)
    assert [(cell.cell_type, cell.source) for cell in script.cells] == [
        (cell["cell_type"], "".join(cell["source"])) for cell in cells
    ]
    assert all(not cell["outputs"] for cell in cells if cell["cell_type"] == "code")
