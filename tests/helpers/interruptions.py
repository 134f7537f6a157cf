"""Ctrl-C in the middle of work, for tests of what is left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oracle_engine import OracleEngine


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
