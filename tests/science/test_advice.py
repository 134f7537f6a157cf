"""Advice agrees with what it is made of: the transition, shifts that put the wished share before it, EFM variances."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import assert_refused, run_json

from oracle_engine import InputError, OracleDataset, OracleEngine
from oracle_engine.paths.time_grids import sampling_times
from oracle_engine.science.advice import advise, reference_variances


def test_advice_follows_from_the_transition(generator: torch.Generator) -> None:
    data = OracleDataset(2.0 * torch.randn(300, 16, generator=generator), torch.arange(300) % 3, name="wide")
    found = advise(OracleEngine(data), queries=64, variance=0.5)
    facts = json.loads(json.dumps(found.to_json()))["advice"]
    end = facts["transition"]["t"]
    shift = facts["timestep shift"]["from_noise"]["0.5"]
    starts = sampling_times(1000, shift=shift)[:-1]
    assert float((starts <= end).double().mean()) == pytest.approx(0.5, abs=0.01)
    assert facts["late share of a batch"]["uniform"] == pytest.approx(1 - end)
    # samples twice as wide are told apart at a quarter of the SNR
    before, after = facts["transition"]["predicted"], facts["normalisation"]["predicted_at_unit_std"]
    snr = [(t / (1 - t)) ** 2 for t in (before, after)]
    assert snr[1] / snr[0] == pytest.approx(data.variance_per_dim, rel=1e-6)
    assert 0.0 < facts["guidance interval"]["t_max"] < 1.0
    assert facts["guidance interval"]["from_class_mass"]
    lines = found.format_table().splitlines()
    # one screen
    assert len(lines) < 40
    assert max(map(len, lines[1:])) < 120


def test_references_lower_the_variance_and_all_samples_end_it(generator: torch.Generator) -> None:
    engine = OracleEngine(OracleDataset(torch.randn(200, 6, generator=generator)))
    one, some, most, everyone = reference_variances(engine, [1, 10, 100, 200]).values()
    assert one == pytest.approx(1.0)
    assert one > some > most
    assert everyone < 1e-12


def test_equal_samples_have_no_transition() -> None:
    found = advise(OracleEngine(OracleDataset(torch.ones(5, 3))), queries=4)
    assert found.items[0].value == "none in the grid of times"
    with pytest.raises(InputError, match="variance"):
        advise(OracleEngine(OracleDataset(torch.ones(5, 3))), variance=1.0)


def test_the_command_prints_one_screen(
    tmp_path: Path, generator: torch.Generator, capsys: pytest.CaptureFixture[str], unchecked: None
) -> None:
    path = tmp_path / "data.npy"
    np.save(path, torch.randn(60, 8, generator=generator).numpy())
    facts = run_json(capsys, "advise", "--data", path, "--queries", 16, "--batch", 8)
    assert facts["advice"]["exact targets"]["batch"] == 8
    assert_refused(capsys, "`--variance` must lie in (0, 1)", "advise", "--data", path, "--variance", 2)
    assert_refused(capsys, "`--per-class` needs data with labels", "advise", "--data", path, "--per-class")
