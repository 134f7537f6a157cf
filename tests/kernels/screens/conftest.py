"""Screens without the native kernels."""

from __future__ import annotations

import pytest


@pytest.fixture
def portable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave all products to torch."""
    monkeypatch.setenv("ORACLE_NATIVE", "off")
