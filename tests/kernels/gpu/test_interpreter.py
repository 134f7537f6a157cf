"""What Triton's interpreter runs passes in a process of its own: interpreter/, and in small engine/test_cuda.py."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


# a process of its own for each of these, so that several can run at once
CASES = sorted((Path(__file__).parent / "interpreter").glob("check_*.py"))


@pytest.mark.interpreter
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize(
    "tests",
    [
        *(["-o", "python_files=check_*.py", str(path.relative_to(ROOT))] for path in CASES),
        ["-c", "tests/gpu.ini", "tests/engine/test_cuda.py"],
    ],
    ids=[*(path.stem for path in CASES), "gpu"],
)
def test_kernels_in_the_interpreter(tests: list[str]) -> None:
    """Run the cases of the interpreter, and in small those of a card, with the variable set before triton is there.

    `make interpreter` runs all cases of every test, the others one.
    """
    few = [] if os.environ.get("EVERY_CASE") else ["-p", "few_cases"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT / "tests" / "helpers")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *few, *tests]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
