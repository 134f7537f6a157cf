"""Find the fastest launch configurations of this GPU and keep them: `python -m oracle_engine.kernels.gpu.tools.tune`.

What is written is read by :mod:`..core.configs`, and should be committed with the bench results of the same GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
import triton

from ....base.errors import invalid
from ..core.configs import choose, plain, scored_with, tuned_file
from ..core.devices import Device, device_of
from ..core.tables import ROW_KINDS
from ..core.tiles import TileChoice
from .tile_trials import (
    DEFAULT_TUNING,
    Problem,
    Trial,
    Tuned,
    Tuning,
    fastest_trial,
    tune_digits,
    tune_score,
    tune_weigh,
)


def document(
    device: Device, found: Mapping[str, Sequence[tuple[TileChoice, Trial]]], tuning: Tuning = DEFAULT_TUNING
) -> dict[str, Any]:
    """Return what is written for a device: the choices with the times that made them, and what measured them.

    device: the GPU. found: choices and trials by kind of dtype. tuning: what was timed.
    """
    kinds = {
        kind: [{**plain(choice), "milliseconds": trial.milliseconds, "error": trial.error} for choice, trial in entries]
        for kind, entries in found.items()
    }
    versions = {"torch": torch.__version__, "triton": triton.__version__}
    return {"gpu": device.name, "versions": versions, "count": tuning.count, "dim": tuning.dim, "kinds": kinds}


def tune(
    device: torch.device, dtypes: Sequence[torch.dtype], tuning: Tuning = DEFAULT_TUNING
) -> dict[str, list[tuple[TileChoice, Trial]]]:
    """Return the fastest choices and their trials by kind of dtype, for batches in growing order.

    device: the GPU. dtypes: one storage dtype of every kind. tuning: what is tried, and how it is timed.
    """
    facts = device_of(device)
    found: dict[str, list[tuple[TileChoice, Trial]]] = {}
    for stored, (batch, reach) in product(dtypes, tuning.batches):
        problem = Problem.of(stored, batch, device, tuning)
        best = [fastest_trial(trials(problem, facts), own) for trials, own in _contests(facts, problem)]
        # of two ways to score, the first in the file is taken, and the other is there to be asked for
        for won in sorted(filter(None, best), key=lambda won: won.milliseconds or 0.0):
            found.setdefault(ROW_KINDS[stored], []).append((TileChoice(won.config, batch=reach), won))
            print(f"{ROW_KINDS[stored]:6} up to {reach}: {won}", flush=True)
    return found


Contest = tuple[Callable[[Problem, Device], Iterator[Trial]], Tuned]


def _contests(device: Device, problem: Problem) -> list[Contest]:
    """Return what is tuned, each with the configuration that must be beaten."""
    work = (device, problem.rows.stored.dtype, len(problem.query), problem.rows.dim)
    with scored_with("parts"):
        parts = choose(*work)
    with scored_with("digits"):
        digits = choose(*work)
    return [(tune_score, parts.score), (tune_digits, digits.score), (tune_weigh, parts.weigh)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Tune, write kernels/gpu/tuned/<gpu>.json, and return 0.

    arguments: those of the command line where None.

    Raises InputError without a CUDA device.
    """
    parser = argparse.ArgumentParser(prog="python -m oracle_engine.kernels.gpu.tools.tune", description=__doc__)
    parser.add_argument("--output", type=Path, help="default: where kernels.gpu.core.configs looks for this GPU")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        raise invalid("device", "must be a CUDA device to be tuned", "none", "run it on the machine of the GPU")
    device = torch.device("cuda", torch.cuda.current_device())
    found = tune(device, tuple({kind: dtype for dtype, kind in ROW_KINDS.items()}.values()))
    path = options.output or tuned_file(device_of(device).name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document(device_of(device), found), indent=1) + "\n", "utf-8")
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
