"""What Triton's interpreter runs passes in a process of its own: interpreter/, and in small engine/test_cuda.py."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


EVERY_CASE = bool(os.environ.get("EVERY_CASE"))

CHECKS = sorted(path.relative_to(ROOT) for path in (Path(__file__).parent / "interpreter").glob("check_*.py"))

# processes that can run at once: one for each file, or few where most of their time would go to their start
CHECK_GROUPS = [[path] for path in CHECKS] if EVERY_CASE else [CHECKS[::2], CHECKS[1::2]]

# what the process needs of the options that all tests have; annotations are checked where the same code runs elsewhere
OPTIONS = ["-o", "addopts=--strict-markers --import-mode=importlib", "-o", "python_files=check_*.py"]


@pytest.mark.interpreter
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize(
    "tests",
    [*([*OPTIONS, *map(str, group)] for group in CHECK_GROUPS), ["-c", "tests/gpu.ini", "tests/engine/test_cuda.py"]],
    ids=[*("+".join(path.stem.removeprefix("check_") for path in group) for group in CHECK_GROUPS), "gpu"],
)
def test_kernels_in_the_interpreter(tests: list[str]) -> None:
    """Run the cases of the interpreter, and in small those of a card, with the variable set before triton is there.

    `make interpreter` runs all cases of every test, the others one.
    """
    plugins = ["-p", "patched_once", *([] if EVERY_CASE else ["-p", "few_cases"])]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT / "tests" / "helpers")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugins, *tests]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
