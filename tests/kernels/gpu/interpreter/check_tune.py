"""The tuner compares both ways to score 8-bit rows, and trusts only what agrees with float64."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from oracle_engine.kernels.gpu.core import configs, tiles
from oracle_engine.kernels.gpu.core.devices import Device, device_of
from oracle_engine.kernels.gpu.core.tiles import DigitConfig, ScoreConfig, WeighConfig
from oracle_engine.kernels.gpu.operands.digits import DigitOperand
from oracle_engine.kernels.gpu.tools import tile_trials, tune

GRID = tile_trials.TileGrid(block_n=(32,), block_b=(16,), block_d=(32, 64), warps=(4,), stages=(2,))
SMALL = tile_trials.Tuning(count=70, dim=96, batches=((16, tiles.ANY),), score=GRID, digits=GRID, weigh=GRID)


@pytest.mark.parametrize("quick", ["digits", "parts"])
def test_both_operands_are_tuned_and_the_faster_is_chosen(quick: str, tmp_path: Path) -> None:
    def milliseconds(call: Callable[[], Any]) -> float:
        operand = {"digits": "DigitOperand(", "parts": "QueryOperand("}[quick]
        return 1.0 if operand in repr(call) else 2.0

    tuning = replace(SMALL, clock=milliseconds)
    found = tune.tune(torch.device("cpu"), (torch.uint8, torch.float16), tuning)
    assert {type(choice.config) for choice, _ in found["byte"]} == {ScoreConfig, DigitConfig, WeighConfig}
    assert {type(choice.config) for choice, _ in found["half"]} == {ScoreConfig, WeighConfig}
    assert all(trial.error < 1e-5 for entries in found.values() for _, trial in entries)
    # choices are read once for each name
    device = Device(f"a card where {quick} are quick", "sm_90", 100, 227 << 10)
    configs.tuned_file(device.name, tmp_path).write_text(json.dumps(tune.document(device, found, tuning)))
    assert configs.choose(device, torch.uint8, 64, 96, folder=tmp_path).operand == quick


def test_a_wrong_product_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    tuning = replace(SMALL, clock=lambda call: pytest.fail("timed"))
    problem = tile_trials.Problem.of(torch.uint8, 16, torch.device("cpu"), tuning)
    wrong = torch.full((3, 1, 16), 1000, dtype=torch.int32)
    monkeypatch.setattr(DigitOperand, "shift", lambda operand, slices: wrong)
    trials = list(tile_trials.tune_digits(problem, device_of(torch.device("cpu"))))
    assert trials
    assert all(trial.milliseconds is None and trial.error > tile_trials.TOLERANCE for trial in trials)
