"""Ctrl-C in the middle of work, for tests of what is left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from oracle_engine import OracleEngine
from oracle_engine.jobs.spec import Unit
from oracle_engine.jobs.units import Units


def interrupt_engine(monkeypatch: pytest.MonkeyPatch, method: str, call: int) -> list[str]:
    """Interrupt a method of every engine in this call of it; return a list that grows with the calls."""
    exact, calls = getattr(OracleEngine, method), list[str]()

    def interrupted(self: OracleEngine, *arguments: Any, **options: Any) -> Any:
        calls.append(method)
        if len(calls) == call:
            raise KeyboardInterrupt
        return exact(self, *arguments, **options)

    monkeypatch.setattr(OracleEngine, method, interrupted)
    return calls


def interrupt_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt the writing of a figure when half of it is there."""

    def half(figure: object, path: Path, **options: object) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", half)


def interrupt_units(monkeypatch: pytest.MonkeyPatch, call: int) -> list[Unit]:
    """Interrupt the workers of a job in this unit that they begin; return a list of units that grows."""
    exact, begun = Units.state, list[Unit]()

    def interrupted(self: Units, unit: Unit) -> dict[str, Tensor]:
        begun.append(unit)
        if len(begun) == call:
            raise KeyboardInterrupt
        return exact(self, unit)

    monkeypatch.setattr(Units, "state", interrupted)
    return begun
