"""Every native library that this machine can run serves in turn."""

from __future__ import annotations

import pytest

from oracle_engine.kernels import native_library
from oracle_engine.kernels.native.library import library_path, usable_targets

TARGETS = [name for name in usable_targets() if library_path(name).is_file()]


@pytest.fixture(params=TARGETS or [""])
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Serve calls with each of the libraries; return its name."""
    name: str = request.param
    if not name:
        pytest.skip("no native library was built for this machine")
    monkeypatch.setenv("ORACLE_NATIVE", name)
    assert native_library().target == name
    return name
