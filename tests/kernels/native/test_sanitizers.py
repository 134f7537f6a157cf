"""The native kernels read and write nothing that is not theirs, and do nothing that C++ leaves undefined."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from oracle_engine.kernels import native_library
from oracle_engine.kernels.native import build
from oracle_engine.kernels.native.library import usable_targets

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent.parent

# every kernel, over shapes that fill no tile, block or vector
PROBLEMS = [
    *("test_scan.py", "test_segments.py", "test_pairs.py", "test_double.py", "test_covariance.py", "test_screens.py"),
    *("test_measure.py", "test_answer.py", "test_search.py", "test_leading_digits.py", "test_weigh_digits.py"),
    "test_planes.py",
    "-k",
    "odd_shapes and not 784 and not 1000 or storage or empty_state or maximum or windows or formula or late or none"
    " or few_rows_matter or most_rows_have_weight or coordinates_are_large",
]


@pytest.mark.slow
@pytest.mark.skipif("ORACLE_SANITIZED" in os.environ, reason="is running under the sanitizers already")
@pytest.mark.skipif(native_library().library is None, reason=native_library().reason)
def test_the_sanitizers_find_nothing(tmp_path: Path) -> None:
    # the one that serves; `make sanitize` takes all that this machine can run and the compiler knows
    targets = usable_targets() if os.environ.get("EVERY_CASE") else [str(native_library().target)]
    build.build(tmp_path, build.SANITIZED, targets)
    targets = [name for name in targets if name not in build.left_out(tmp_path)]
    runtime = [build.runtime_library(name) for name in ("libasan.so", "libubsan.so")]
    environment = {
        **os.environ,
        "ORACLE_SANITIZED": str(tmp_path),
        "LD_PRELOAD": " ".join(runtime),
        # the interpreter keeps what it allocates until it ends
        "ASAN_OPTIONS": "detect_leaks=0",
        "OMP_NUM_THREADS": "1",
    }
    # without the checks of annotations, which have nothing to do with what is tested here
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-s", "-o", "addopts=", "-p", "no:cacheprovider"]
    command += ["--import-mode=importlib", *PROBLEMS]
    for target in targets:
        asked = {**environment, "ORACLE_NATIVE": target}
        done = subprocess.run(command, cwd=HERE, env=asked, capture_output=True, text=True, check=False)
        # a sanitizer says on one of its first lines what it found, and where
        assert done.returncode == 0, f"{target}\n{done.stderr[:2000]}\n{done.stdout[-2000:]}"
        assert " passed" in done.stdout
