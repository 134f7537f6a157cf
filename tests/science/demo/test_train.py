"""The demonstration trains what it says it trains, and reports what can be checked against the engine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from closed_form import normal
from interruptions import interrupt_engine, interrupt_figures

from oracle_engine import InputError, MissingDependencyError, OracleDataset, OracleEngine
from oracle_engine.cli.main import main
from oracle_engine.science.demo.batches import LAST_TIME
from oracle_engine.science.demo.plots import train_figure
from oracle_engine.science.demo.report import TrainReport
from oracle_engine.science.demo.settings import TrainSettings
from oracle_engine.science.demo.train import train
from oracle_engine.science.demo.velocity_net import VelocityNet
from oracle_engine.science.stages.analysis import analyse

TINY = TrainSettings(steps=20, batch=16, width=16, references=8, bins=4, draws=20, seed=3)


@pytest.fixture(scope="module")
def data() -> OracleDataset:
    return OracleDataset(normal(300, 12, torch.Generator().manual_seed(1)).float().reshape(300, 1, 3, 4), name="clouds")


@pytest.fixture(scope="module")
def report(data: OracleDataset) -> TrainReport:
    return train(data, TINY)


def test_the_variance_of_the_targets_falls_from_cfm_to_the_oracle(data: OracleDataset, report: TrainReport) -> None:
    for part in report.bins[:2]:
        assert part.target_variance.cfm > 1.5 * part.target_variance.efm > 0
        assert part.target_variance.oracle == 0.0
        assert part.gradient_variance.cfm > part.gradient_variance.efm > part.gradient_variance.oracle > 0
    # V(t) of the analysis, over all samples instead of those that are kept
    first = report.bins[0]
    middle = 0.5 * (first.first + first.last)
    known = analyse(OracleEngine(data), times=[middle], queries=200).points[0].velocity_variance
    assert first.target_variance.cfm == pytest.approx(known, rel=0.4)


def test_late_targets_and_gradients_are_the_same(report: TrainReport) -> None:
    last = report.bins[-1]
    assert last.target_variance.cfm < 1e-3 * report.bins[0].target_variance.cfm
    assert last.gradient_variance.cfm == pytest.approx(last.gradient_variance.oracle, rel=0.01)


def test_training_lowers_every_loss(report: TrainReport) -> None:
    first, last = report.checkpoints[0], report.checkpoints[-1]
    assert (first.step, last.step) == (0, 20)
    for name in ("navigation", "refinement", "held_out"):
        before, after = getattr(first, name), getattr(last, name)
        # all start from the same parameters
        assert len(set(before)) == 1
        assert len(set(after)) == 3
        assert all(end < start for start, end in zip(before, after, strict=True))
        gain = report.gains[name]
        assert gain.oracle == pytest.approx(after.cfm - after.oracle)
        assert gain.efm == pytest.approx(after.cfm - after.efm)
        assert gain.oracle_error > 0


def test_the_same_seed_gives_the_same_numbers_and_leaves_torch_alone(data: OracleDataset, report: TrainReport) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    seen: list[tuple[int, int]] = []
    again = train(data, TINY, progress=lambda done, total: seen.append((done, total)))
    assert torch.equal(torch.get_rng_state(), state)
    assert (again.bins, again.checkpoints) == (report.bins, report.checkpoints)
    assert seen == [(done, 100) for done in range(1, 101)]
    more = train(data, TrainSettings(**{**vars(TINY), "references": 9, "bins": 1}))
    # how many references there are changes EFM alone
    assert more.checkpoints[-1].navigation.cfm == report.checkpoints[-1].navigation.cfm
    assert more.checkpoints[-1].navigation.efm != report.checkpoints[-1].navigation.efm


def test_the_report_says_the_same_in_json_and_as_a_table(report: TrainReport) -> None:
    facts = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert facts["data"]["held_out"] == 30
    assert facts["bins"][0]["target_variance"]["cfm"] == report.bins[0].target_variance.cfm
    assert facts["bins"][-1]["last"] == pytest.approx(LAST_TIME)
    assert facts["target_shares"]["oracle"] == pytest.approx(
        facts["target_seconds"]["oracle"] / (facts["target_seconds"]["oracle"] + facts["step_seconds"])
    )
    table = report.format_table()
    assert "clouds: N = 270 samples, D = 12; 30 held out" in table
    assert f"{report.checkpoints[-1].navigation.oracle:.4f}" in table
    assert f"oracle {1e3 * report.target_seconds.oracle:,.1f} ms, {100 * report.target_shares.oracle:.0f} %" in table


def test_the_network_carries_x_and_knows_the_time() -> None:
    torch.manual_seed(0)
    network, x = VelocityNet(6, 8), torch.randn(3, 2, 3)
    early, late = (network(x, torch.full((3,), t)) for t in (0.1, 0.9))
    assert early.shape == x.shape
    assert not torch.allclose(early, late, atol=1e-3)
    # more directions than hidden units
    wide = VelocityNet(40, 4)
    jacobian = torch.func.jacrev(lambda x: wide(x[None], torch.full((1,), 0.5))[0])(torch.randn(40))
    assert int(torch.linalg.matrix_rank(jacobian)) == 40


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_figure_is_written_whole_or_not_at_all(
    report: TrainReport, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_figure(report, tmp_path / f"train{suffix}")
    assert [file.name for file in tmp_path.iterdir()] == [f"train{suffix}"]
    assert (tmp_path / f"train{suffix}").stat().st_size > 5000
    interrupt_figures(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train_figure(report, tmp_path / "other.png")
    assert [file.name for file in tmp_path.iterdir()] == [f"train{suffix}"]
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r'pip install -e "\.\[plot\]"'):
        train_figure(report, tmp_path / "other.png")


@pytest.mark.parametrize("name", ["steps", "batch", "width", "references", "bins", "draws"])
def test_settings_below_their_least_value_are_refused(name: str) -> None:
    values: dict[str, Any] = {name: 0}
    with pytest.raises(InputError, match=f"`{name}` must be at least"):
        TrainSettings(**values)


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(InputError, match="`data` must have at least 20 samples"):
        train(OracleDataset(torch.eye(8)), TINY)


OPTIONS = ["--steps", "4", "--batch", "8", "--width", "8", "--references", "4", "--bins", "2", "--draws", "2"]


def test_the_command_writes_its_report_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "folder"
    assert main(["train-demo", "--data", "digits", "--count", "200", "--out", str(out), *OPTIONS]) == 0
    printed = capsys.readouterr().out
    assert "digits: N = 180 samples, D = 64; 20 held out" in printed
    assert "its share of the step: CFM" in printed
    assert sorted(file.name for file in out.iterdir()) == ["train.json", "train.png"]
    assert json.loads((out / "train.json").read_text())["settings"]["draws"] == 2


def test_digits_stand_in_for_files_that_are_not_there_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    where = ["--folder", str(empty), "--count", "100", "--no-figure", "--json", "--out", str(tmp_path / "out")]
    assert main(["train-demo", *where, *OPTIONS]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["data"]["name"] == "digits"
    assert facts["notes"][0].startswith("fashion-mnist was not found")
    # asked for by name it is an error
    assert main(["train-demo", "--data", "fashion-mnist", *where, *OPTIONS]) == 2
    assert "train-images-idx3-ubyte" in capsys.readouterr().err


def test_an_interrupted_demonstration_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = interrupt_engine(monkeypatch, "velocity", 3)
    assert main(["train-demo", "--data", "digits", "--count", "100", "--out", str(tmp_path), *OPTIONS]) == 130
    assert len(calls) == 3
    assert list(tmp_path.iterdir()) == []
