"""Find the fastest launch configurations of this GPU and keep them: `python -m oracle_engine.kernels.gpu.tools.tune`.

A configuration is timed only after its result agrees with float64. What is written is read by kernels.configs, and
wants to be committed together with the bench results of the same GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
import triton

from ....base.errors import invalid
from ...common.prepare import prepare_rows
from ...common.rows import Query, Rows, Span
from ..configs import ANY, KINDS, Choice, DigitConfig, ScoreConfig, WeighConfig, choose, plain, scored_with, tuned_file
from ..devices import Device, device_of
from ..digits import DigitOperand
from ..logits import Scores, score
from ..logits_int8 import score_digits
from ..operands import BlockOperand, QueryOperand, operand_dtype, operand_rows, shared_bound
from ..weighted_sum import ListedPairs, Reference, weigh, weights_of

# batches that are tuned, and how far each choice reaches; the last one reaches everywhere
BATCHES = ((16, 16), (64, 64), (256, ANY))

# rows and values of D that are timed: 256 MB in 16 bits, several times a last-level cache
COUNT, DIM = 1 << 16, 2048

# largest relative difference from float64 of a result that may be timed; wrong ones differ by far more
TOLERANCE = 1e-3

# a choice of the tables is kept unless something is faster by this much
GAIN = 0.03

# every combination of these that fits is tried
SCORE_GRID = {
    "block_n": (64, 128),
    "block_b": (16, 64, 128),
    "block_d": (32, 64, 128),
    "warps": (4, 8),
    "stages": (2, 3, 4),
}
WEIGH_GRID = {
    "block_n": (32, 64),
    "block_b": (16, 64, 128),
    "block_d": (64, 128, 256),
    "warps": (4, 8),
    "stages": (3, 4),
}


# digits are a byte each: tiles twice as long in D move as much
DIGIT_GRID = {**SCORE_GRID, "block_d": (64, 128, 256)}

# scores the rows whose weighted sum is timed, on every device
TILE = ScoreConfig(64, 16, 64, 4, 2)

Tuned = ScoreConfig | DigitConfig | WeighConfig


@dataclass(frozen=True)
class Trial:
    """What came of one configuration: relative difference from float64, and the median time where that is small."""

    config: Tuned
    error: float
    milliseconds: float | None


Config = TypeVar("Config", ScoreConfig, DigitConfig, WeighConfig)


def candidates(
    grid: Mapping[str, tuple[int, ...]], kind: type[Config], batch: int, shared: int, stored: torch.dtype
) -> Iterator[Config]:
    """Yield the configurations of a grid that fit into `shared` bytes and leave less than half a query tile idle."""
    for values in product(*grid.values()):
        config = kind(**dict(zip(grid, values, strict=True)))
        if shared_bound(config, stored) <= shared and config.block_b < 2 * max(batch, 16):
            yield config


def fastest(trials: Iterable[Trial], current: Tuned) -> Trial | None:
    """Return the fastest correct trial, the current configuration where nothing is clearly faster; None without any."""
    correct = [trial for trial in trials if trial.milliseconds is not None and trial.error <= TOLERANCE]
    best = min(correct, key=lambda trial: trial.milliseconds or 0.0, default=None)
    own = next((trial for trial in correct if trial.config == current), None)
    if best is None or own is None:
        return best
    return best if (best.milliseconds or 0.0) < (1.0 - GAIN) * (own.milliseconds or 0.0) else own


def document(device: Device, found: Mapping[str, Sequence[tuple[Choice, Trial]]]) -> dict[str, Any]:
    """Return what is written: the choices by kind with the times that made them, and what measured them."""
    kinds = {
        kind: [{**plain(choice), "milliseconds": trial.milliseconds, "error": trial.error} for choice, trial in entries]
        for kind, entries in found.items()
    }
    versions = {"torch": torch.__version__, "triton": triton.__version__}
    return {"gpu": device.name, "versions": versions, "count": COUNT, "dim": DIM, "kinds": kinds}


@dataclass(frozen=True)
class Problem:
    """One batch over random rows, both as the kernels see them, and its logits in float64."""

    rows: Rows
    query: Query
    logits: torch.Tensor

    @property
    def values(self) -> torch.Tensor:
        """The rows as they are multiplied, float64: 8-bit ones without their centre."""
        return self.rows.stored.double() - (self.rows.centre - self.rows.operand_centre)

    @classmethod
    def of(cls, stored: torch.dtype, batch: int, device: torch.device) -> Problem:
        """Draw rows in `stored`, and queries at noise that leaves many rows alive."""
        generator = torch.Generator(device).manual_seed(0)
        values = torch.randn(COUNT, DIM, generator=generator, device=device)
        points = (values * 40 + 128).clamp(0, 255) if KINDS[stored] == "byte" else values
        rows = operand_rows(prepare_rows(points.to(stored), None))
        point = rows.gather(torch.arange(batch, device=device)) * 0.02
        point += (
            torch.randn(batch, DIM, generator=generator, device=device, dtype=torch.float64) * rows.radius / DIM**0.5
        )
        alpha = torch.full((batch,), 0.02, dtype=torch.float64, device=device)
        inverse_variance = torch.full_like(alpha, DIM / rows.radius**2)
        excluded = torch.zeros(batch, 0, 2, dtype=torch.int64, device=device)
        query = Query(point, alpha, inverse_variance, excluded)
        scaled, taken = (query.gain[:, None] * point).T, rows.centre - rows.operand_centre
        product = torch.cat([(part.double() - taken) @ scaled for part in rows.stored.split(8192)])
        return cls(rows, query, product - (query.gain * alpha)[None] * rows.half_norms[:, None])


def tune_score(problem: Problem, device: Device) -> Iterator[Trial]:
    """Try every score configuration with queries in floating point numbers that fits."""
    block, operand = _operands(problem, device)
    for config in candidates(SCORE_GRID, ScoreConfig, len(problem.query), device.shared_bytes, block.rows.dtype):
        yield _score_trial(problem, config, partial(score, operand, block, config, 1))


def tune_digits(problem: Problem, device: Device) -> Iterator[Trial]:
    """Try every score configuration with queries in digits that fits, for 8-bit rows where the device has the unit."""
    block = BlockOperand.of(problem.rows, Span(0, COUNT))
    if KINDS[block.rows.dtype] != "byte" or not device.multiplies_digits:
        return
    # what is taken off for the centre is laid out in tiles of D
    operands = {size: DigitOperand.of(problem.query, problem.rows, size) for size in DIGIT_GRID["block_d"]}
    for config in candidates(DIGIT_GRID, DigitConfig, len(problem.query), device.shared_bytes, block.rows.dtype):
        yield _score_trial(problem, config, partial(score_digits, operands[config.block_d], block, config, 1))


def _score_trial(problem: Problem, config: ScoreConfig | DigitConfig, call: Callable[[], Scores]) -> Trial:
    def difference(scores: Scores) -> torch.Tensor:
        return scores.logits[:, : len(problem.query)].double() - problem.logits

    return trial(config, call, difference, float(problem.logits.abs().max()))


def tune_weigh(problem: Problem, device: Device) -> Iterator[Trial]:
    """Try every configuration of the weighted sum that fits, with all rows alive."""
    block, operand = _operands(problem, device)
    batch = len(problem.query)
    chosen = choose(device, block.rows.dtype, batch, DIM)
    scores = score(operand, block, TILE, 1)
    origin = problem.logits.logsumexp(0)
    everything = Reference(
        origin.float(), torch.full_like(origin, -1e30).float(), torch.full_like(origin, 1e30).float()
    )
    true = (problem.logits - origin).exp().T @ problem.values
    shares = chosen.weigh_shares(COUNT, batch, DIM)
    for config in candidates(WEIGH_GRID, WeighConfig, batch, device.shared_bytes, block.rows.dtype):
        weights = weights_of(scores, block, everything, ListedPairs.empty(batch, 1, origin.device), config, mean=True)
        yield trial(
            config,
            lambda config=config, weights=weights: weigh(  # type: ignore[misc]
                weights, block, batch, operand.precision, config, shares
            ),
            lambda total: total - true,
            float(true.abs().max()),
        )


def trial(
    config: Tuned,
    call: Callable[[], Any],
    difference: Callable[[Any], torch.Tensor],
    scale: float,
) -> Trial:
    """Run one configuration, compare, and time it where it is correct."""
    try:
        error = float(difference(call()).abs().max()) / scale
    except (triton.runtime.errors.OutOfResources, triton.compiler.errors.CompilationError):
        return Trial(config, float("inf"), None)
    return Trial(config, error, _milliseconds(call) if error <= TOLERANCE else None)


def _operands(problem: Problem, device: Device) -> tuple[BlockOperand, QueryOperand]:
    block = BlockOperand.of(problem.rows, Span(0, COUNT))
    return block, QueryOperand.of(problem.query, operand_dtype(block.rows.dtype), device.precision)


def _milliseconds(call: Callable[[], Any], rounds: int = 20) -> float:
    times = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(float(begin.elapsed_time(end)))
    return median(times)


def tune(device: torch.device, dtypes: Sequence[torch.dtype]) -> dict[str, list[tuple[Choice, Trial]]]:
    """Return the fastest choices of every kind, for batches in growing order."""
    facts = device_of(device)
    found: dict[str, list[tuple[Choice, Trial]]] = {}
    for stored, (batch, reach) in product(dtypes, BATCHES):
        problem = Problem.of(stored, batch, device)
        best = [fastest(trials(problem, facts), own) for trials, own in _contests(facts, stored, batch)]
        # of two ways to score, the first in the file is taken, and the other is there to be asked for
        for won in sorted(filter(None, best), key=lambda won: won.milliseconds or 0.0):
            found.setdefault(KINDS[stored], []).append((Choice(won.config, batch=reach), won))
            print(f"{KINDS[stored]:6} up to {reach}: {won}", flush=True)
    return found


Contest = tuple[Callable[[Problem, Device], Iterator[Trial]], Tuned]


def _contests(device: Device, stored: torch.dtype, batch: int) -> list[Contest]:
    """Return what is tuned, each with the configuration to be beaten."""
    with scored_with("parts"):
        parts = choose(device, stored, batch, DIM)
    with scored_with("digits"):
        digits = choose(device, stored, batch, DIM)
    return [(tune_score, parts.score), (tune_digits, digits.score), (tune_weigh, parts.weigh)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Tune, and write kernels/tuned/<gpu>.json."""
    parser = argparse.ArgumentParser(prog="python -m oracle_engine.kernels.gpu.tools.tune", description=__doc__)
    parser.add_argument("--output", type=Path, help="default: where kernels.configs looks for this GPU")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        raise invalid("device", "must be a CUDA device to be tuned", "none", "run it on the machine of the GPU")
    device = torch.device("cuda", torch.cuda.current_device())
    found = tune(device, (torch.float16, torch.uint8, torch.float32))
    path = options.output or tuned_file(device_of(device).name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document(device_of(device), found), indent=1) + "\n", "utf-8")
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
