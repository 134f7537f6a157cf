"""Where ORACLE_SANITIZED names a folder, the libraries in it are tested in place of those of the package."""

from __future__ import annotations

import os
from pathlib import Path

from oracle_engine.kernels.native import library

if "ORACLE_SANITIZED" in os.environ:
    # before any test module asks which library serves
    library.LIBRARIES = Path(os.environ["ORACLE_SANITIZED"])  # type: ignore[attr-defined]
