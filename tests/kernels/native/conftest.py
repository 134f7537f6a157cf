"""Every native library that this machine can run serves in turn.

Where ORACLE_SANITIZED names a folder, the libraries in it are tested in place of those of the package.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oracle_engine.kernels.native import library, native_library

if "ORACLE_SANITIZED" in os.environ:
    # before any test module asks which library serves
    library.LIBRARIES = Path(os.environ["ORACLE_SANITIZED"])  # type: ignore[attr-defined]

TARGETS = [name for name in library.usable_targets() if library.library_path(name).is_file()]


@pytest.fixture(params=TARGETS or [""])
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Serve calls with each of the libraries; return its name."""
    name: str = request.param
    if not name:
        pytest.skip("no native library was built for this machine")
    monkeypatch.setenv("ORACLE_NATIVE", name)
    found = native_library()
    if "may not use" in found.reason:
        pytest.skip(found.reason)
    assert found.target == name
    return name
