"""A cluster of Ray on this machine, for as long as a test needs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def cluster(cpus: int) -> Iterator[Any]:
    """Yield the module ray, connected to a cluster of its own with room for `cpus` processors; skips without ray."""
    ray = pytest.importorskip("ray", reason='needs pip install "ray[serve]"')
    # processes of Ray see what this one imports
    paths = f"{ROOT}:{Path(ray.__file__).parents[1]}"
    environment = {"PYTHONPATH": paths, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "OMP_NUM_THREADS": "1"}
    ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": environment})
    try:
        yield ray
    finally:
        ray.shutdown()
