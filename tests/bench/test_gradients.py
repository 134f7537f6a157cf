"""Gradients are timed beside those of autograd, and both are compared with float64."""

from __future__ import annotations

import json

import pytest
from tolerances import within

from bench import gradients


def test_sides_take_turns_and_are_held_to_float64(capsys: pytest.CaptureFixture[str]) -> None:
    gradients.main(["--data", "digits", "--batch", "3,9", "--t", ".1,.6", "--budget", "0"])
    rows = json.loads(capsys.readouterr().out)
    assert [(row["batch"], row["t"]) for row in rows] == [(3, 0.1), (3, 0.6), (9, 0.1), (9, 0.6)]
    for row in rows:
        assert set(row["ms"]) == {"velocity", "gradient", "autograd"}
        assert row["ratio"]["gradient"] == 1.0
        assert within(row["error"]["gradient"], "derivative")
        assert 0.0 < row["error"]["autograd"] < 1e-2
