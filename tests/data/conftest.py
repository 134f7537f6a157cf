"""A place of its own for what data sets keep."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, which is empty at first."""
    monkeypatch.setenv("ORACLE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
