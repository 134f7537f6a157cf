"""A report of the two stages outside of the run that made it: JSON, notebooks, figures of several."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from command_line import assert_refused, run, run_json

from oracle_engine import DataFileError, InputError, OracleDataset, OracleEngine, StageReport
from oracle_engine.science.stages.analysis import analyse
from oracle_engine.science.stages.curve_plots import curves_figure


@pytest.fixture
def report(generator: torch.Generator) -> StageReport:
    data = OracleDataset(torch.randn(40, 3, generator=generator), torch.arange(40) % 2, name="small & <round>")
    return analyse(OracleEngine(data), times=[0.05, 0.3, 0.5, 0.7, 0.95], queries=12, strip_times=2)


def test_a_report_is_read_back_from_its_json(report: StageReport, tmp_path: Path) -> None:
    path = tmp_path / "stages.json"
    path.write_text(json.dumps(report.to_json(), allow_nan=False))
    assert StageReport.from_json(path) == report
    assert StageReport.from_json(report.to_json()) == report
    assert StageReport.from_json(path).format_table() == report.format_table()


def test_what_is_no_report_is_refused(report: StageReport, tmp_path: Path) -> None:
    wrong = json.dumps(report.to_json()).replace('"t": 0.3', '"t": "0.3"')
    for number, text in enumerate(("{", "{}", "[1]", json.dumps(report.to_json() | {"points": []}), wrong)):
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        with pytest.raises(DataFileError, match="a report of `oracle-engine stages`"):
            StageReport.from_json(path)
    with pytest.raises(InputError, match=r"report\.to_json"):
        StageReport.from_json({"points": 3})


def test_notebooks_show_figure_and_table(report: StageReport, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = report._repr_png_()
    assert picture is not None
    assert picture.startswith(b"\x89PNG")
    shown = report._repr_html_()
    assert "data:image/png;base64," in shown
    assert "small &amp; &lt;round&gt;" in shown
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert report._repr_png_() is None
    assert "<img" not in report._repr_html_()


@pytest.mark.parametrize("linear", [False, True])
def test_figures_of_one_report_and_of_several(report: StageReport, linear: bool) -> None:
    pytest.importorskip("matplotlib")
    read = StageReport.from_json(report.to_json())
    for figure in (read.figure(linear=linear), read.figure("paper", linear=linear)):
        assert figure.get_size_inches()[0] <= 7.8
    several = curves_figure([report, read], linear=linear, names=["one", "two"])
    words = [text.get_text() for text in several.texts]
    assert any(word.startswith("two: N = 40, D = 3") for word in words)
    assert [len(axes.get_lines()) >= 2 for axes in several.axes] == [True] * 3
    with pytest.raises(InputError, match="layout"):
        report.figure("wide")


def test_the_command_compares_reports(
    report: StageReport, tmp_path: Path, capsys: pytest.CaptureFixture[str], unchecked: None
) -> None:
    pytest.importorskip("matplotlib")
    source, out = tmp_path / "a.json", tmp_path / "new" / "cmp.pdf"
    source.write_text(json.dumps(report.to_json()))
    facts = run_json(capsys, "plot", source, source, "--names", "a", "b", "--out", out)
    assert [row["name"] for row in facts["reports"]] == ["a", "b"]
    assert facts["reports"][0]["median ESS = 2"] == report.measured.ess_2
    assert out.read_bytes().startswith(b"%PDF")
    assert_refused(capsys, "`--names` must name every report", "plot", source, "--names", "a", "b", "--out", out)
    assert_refused(capsys, "must end in .png", "plot", source, "--out", tmp_path / "cmp.txt")
    assert_refused(capsys, "No such file", "plot", tmp_path / "none.json", "--out", out)


def test_stages_takes_classes_held_out_files_and_formats(
    generator: torch.Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str], unchecked: None
) -> None:
    pytest.importorskip("matplotlib")
    points, data, unseen = torch.randn(50, 3, generator=generator).numpy(), tmp_path / "a.npz", tmp_path / "b.npz"
    import numpy as np

    for path in (data, unseen):
        np.savez(path, points=points, labels=np.arange(50) % 2)
    options = ("--queries", 6, "--times", 0.2, 0.5, "--out", tmp_path)
    facts = run_json(
        capsys, "stages", "--data", data, *options, "--per-class", "--labels", 1, "--layout", "paper", "--format", "svg"
    )
    assert "25 samples" in facts["scope"]
    assert b"<svg" in (tmp_path / "stages.svg").read_bytes()
    assert run_json(capsys, "stages", "--data", data, *options, "--held-out", unseen, "--no-figure")["held_out"]
    assert_refused(capsys, "`--labels` must be classes", "stages", "--data", data, *options, "--labels", 9)
    assert run("stages", "--data", data, *options, "--precision", 2) == 2
