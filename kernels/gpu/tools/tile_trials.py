"""Launch configurations that are tried on a problem, each timed only after its result agrees with float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass
from functools import partial
from itertools import product
from statistics import median
from typing import Any, TypeVar

import torch
import triton

from ...common.prepare import prepare_rows
from ...common.rows import Query, Rows, Span
from ...common.state import Wanted
from ..core.configs import choose
from ..core.devices import Device
from ..core.tables import ROW_KINDS
from ..core.tiles import ANY, DigitConfig, ScoreConfig, WeighConfig
from ..operands.digits import DigitOperand
from ..operands.parts import QueryOperand
from ..operands.rows import BlockOperand, operand_rows
from ..operands.splits import operand_dtype, shared_bound
from ..products.logits import Scores, score
from ..products.logits_int8 import score_digits
from ..products.weighted_sum import weigh
from ..products.weights import Reference, weights_of
from ..rescore.listed_pairs import ListedPairs

# largest relative difference from float64 of a result that may be timed; wrong ones differ by far more
TOLERANCE = 1e-3

# a choice of the tables is kept unless something is faster by this much
GAIN = 0.03

# scores the rows whose weighted sum is timed, on every device
SCORE_TILE = ScoreConfig(64, 16, 64, 4, 2)

Tuned = ScoreConfig | DigitConfig | WeighConfig

Clock = Callable[[Callable[[], Any]], float]


def median_milliseconds(call: Callable[[], Any], rounds: int = 20) -> float:
    """Return the median time of `call` on the current CUDA device over `rounds` calls, in milliseconds."""
    times = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(float(begin.elapsed_time(end)))
    return median(times)


@dataclass(frozen=True)
class TileGrid:
    """The tiles that are tried: every combination of these values.

    block_n, block_b, block_d: rows, queries and values of D. warps, stages: warps and pipeline stages of a program.
    """

    block_n: tuple[int, ...]
    block_b: tuple[int, ...]
    block_d: tuple[int, ...]
    warps: tuple[int, ...]
    stages: tuple[int, ...]


@dataclass(frozen=True)
class Tuning:
    """What is timed, and how.

    count, dim: rows, and values of D, of the problems. batches: how many queries are timed, and the largest batch that
    the fastest tile is then chosen for. score, digits, weigh: tiles of the three kernels that are tried.
    clock: returns the time of a call in milliseconds.
    """

    # 256 MB in 16 bits, several times a last-level cache
    count: int = 1 << 16
    dim: int = 2048
    batches: tuple[tuple[int, int], ...] = ((16, 16), (64, 64), (256, ANY))
    score: TileGrid = TileGrid((64, 128), (16, 64, 128), (32, 64, 128), (4, 8), (2, 3, 4))
    # digits are a byte each: tiles twice as long in D move as much
    digits: TileGrid = TileGrid((64, 128), (16, 64, 128), (64, 128, 256), (4, 8), (2, 3, 4))
    weigh: TileGrid = TileGrid((32, 64), (16, 64, 128), (64, 128, 256), (4, 8), (3, 4))
    clock: Clock = median_milliseconds


DEFAULT_TUNING = Tuning()


@dataclass(frozen=True)
class Trial:
    """What came of one configuration.

    config: the tile. error: largest difference from float64, relative to the largest value. milliseconds: the median
    time, None where the error is too large.
    """

    config: Tuned
    error: float
    milliseconds: float | None


TunedConfig = TypeVar("TunedConfig", ScoreConfig, DigitConfig, WeighConfig)


def candidates(
    grid: TileGrid, kind: type[TunedConfig], batch: int, *, shared: int, stored: torch.dtype
) -> Iterator[TunedConfig]:
    """Yield the configurations of a grid that fit and leave less than half of a tile of queries idle.

    grid: the tiles. kind: of configuration. batch: number of queries. shared: shared memory of a program, in bytes.
    stored: dtype of the rows.
    """
    for values in product(*astuple(grid)):
        config = kind(*values)
        if shared_bound(config, stored) <= shared and config.block_b < 2 * max(batch, 16):
            yield config


def fastest_trial(trials: Iterable[Trial], current: Tuned) -> Trial | None:
    """Return the fastest correct one of `trials`, that of `current` where none is clearly faster; None without any."""
    correct = [trial for trial in trials if trial.milliseconds is not None and trial.error <= TOLERANCE]
    best = min(correct, key=lambda trial: trial.milliseconds or 0.0, default=None)
    own = next((trial for trial in correct if trial.config == current), None)
    if best is None or own is None:
        return best
    return best if (best.milliseconds or 0.0) < (1.0 - GAIN) * (own.milliseconds or 0.0) else own


@dataclass(frozen=True)
class Problem:
    """One batch over random rows, both as the kernels see them, and its logits in float64.

    rows: [n, D]. query: [B] queries. logits: [n, B] float64. tuning: what is tried on it, and how it is timed.
    """

    rows: Rows
    query: Query
    logits: torch.Tensor
    tuning: Tuning

    @property
    def values(self) -> torch.Tensor:
        """The rows as they are multiplied, [n, D] float64: 8-bit ones without their centre."""
        return self.rows.stored.double() - (self.rows.centre - self.rows.operand_centre)

    @property
    def block(self) -> BlockOperand:
        """All rows as one block."""
        return BlockOperand.of(self.rows, Span(0, len(self.rows)))

    @classmethod
    def of(cls, stored: torch.dtype, batch: int, device: torch.device, tuning: Tuning = DEFAULT_TUNING) -> Problem:
        """Draw rows, and queries at noise that leaves many rows with weight.

        stored: dtype of the rows. batch: number of queries. device: where they are. tuning: how many rows and values.
        """
        generator, dim = torch.Generator(device).manual_seed(0), tuning.dim
        values = torch.randn(tuning.count, dim, generator=generator, device=device)
        points = (values * 40 + 128).clamp(0, 255) if ROW_KINDS[stored] == "byte" else values
        rows = operand_rows(prepare_rows(points.to(stored), None))
        noise = torch.randn(batch, dim, generator=generator, device=device, dtype=torch.float64)
        point = rows.gather(torch.arange(batch, device=device)) * 0.02 + noise * rows.radius / dim**0.5
        alpha = torch.full((batch,), 0.02, dtype=torch.float64, device=device)
        inverse_variance = torch.full_like(alpha, dim / rows.radius**2)
        query = Query(point, alpha, inverse_variance, torch.zeros(batch, 0, 2, dtype=torch.int64, device=device))
        scaled, taken = (query.gain[:, None] * point).T, rows.centre - rows.operand_centre
        products = torch.cat([(part.double() - taken) @ scaled for part in rows.stored.split(8192)])
        return cls(rows, query, products - (query.gain * alpha)[None] * rows.half_norms[:, None], tuning)

    def candidates(self, grid: TileGrid, kind: type[TunedConfig], device: Device) -> Iterator[TunedConfig]:
        """Yield the configurations of `kind` in `grid` that fit this problem and `device`."""
        dtype = self.rows.stored.dtype
        return candidates(grid, kind, len(self.query), shared=device.shared_bytes, stored=dtype)


def tune_score(problem: Problem, device: Device) -> Iterator[Trial]:
    """Try every tile on `device` that scores `problem` with queries in floating point numbers."""
    block, operand = problem.block, _operand(problem)
    for config in problem.candidates(problem.tuning.score, ScoreConfig, device):
        yield _score_trial(problem, config, partial(score, operand, block, config, 1))


def tune_digits(problem: Problem, device: Device) -> Iterator[Trial]:
    """Try every tile on `device` that scores `problem` with queries in digits; none unless the rows have 8 bits."""
    block, grid = problem.block, problem.tuning.digits
    if ROW_KINDS[block.rows.dtype] != "byte" or not device.multiplies_digits:
        return
    # what is taken off for the centre is laid out in tiles of D
    operands = {size: DigitOperand.of(problem.query, problem.rows, size) for size in grid.block_d}
    for config in problem.candidates(grid, DigitConfig, device):
        yield _score_trial(problem, config, partial(score_digits, operands[config.block_d], block, config, 1))


def _score_trial(problem: Problem, config: ScoreConfig | DigitConfig, call: Callable[[], Scores]) -> Trial:
    def error(scores: Scores) -> float:
        """Return the largest difference from the true logits, relative to the largest of these."""
        difference = scores.logits[:, : len(problem.query)].double() - problem.logits
        return float(difference.abs().max()) / float(problem.logits.abs().max())

    return trial(config, call, error, problem.tuning.clock)


def tune_weigh(problem: Problem, device: Device) -> Iterator[Trial]:
    """Try every tile on `device` for the weighted sum of `problem`, in which all rows have weight."""
    block, operand = problem.block, _operand(problem)
    batch, dim = len(problem.query), problem.rows.dim
    scores = score(operand, block, SCORE_TILE, 1)
    origin = problem.logits.logsumexp(0)
    everything = Reference(
        origin.float(), torch.full_like(origin, -1e30).float(), torch.full_like(origin, 1e30).float()
    )
    true = (problem.logits - origin).exp().T @ problem.values
    shares = choose(device, block.rows.dtype, batch, dim).weigh_shares(len(block), batch, dim)

    def error(total: torch.Tensor) -> float:
        """Return the largest difference from the true sum, relative to the largest of its values."""
        return float((total.sum(0, dtype=torch.float64) - true).abs().max()) / float(true.abs().max())

    for config in problem.candidates(problem.tuning.weigh, WeighConfig, device):
        listed = ListedPairs.empty(torch.zeros_like(origin, dtype=torch.int32), 1)
        weights = weights_of(scores, block, everything, listed, config=config, wanted=Wanted())
        call = partial(weigh, weights, block, config, shares=shares)
        yield trial(config, call, error, problem.tuning.clock)


def trial(
    config: Tuned, call: Callable[[], Any], error: Callable[[Any], float], clock: Clock = median_milliseconds
) -> Trial:
    """Run a configuration once, compare its result with float64, and time it where it is correct.

    config: the tile. call: runs it. error: returns the relative error of what the call returned. clock: as in Tuning.
    The error is infinite where the tile does not compile or fit.
    """
    try:
        found = error(call())
    except (triton.runtime.errors.OutOfResources, triton.compiler.errors.CompilationError):
        return Trial(config, float("inf"), None)
    return Trial(config, found, clock(call) if found <= TOLERANCE else None)


def _operand(problem: Problem) -> QueryOperand:
    return QueryOperand.of(problem.query, operand_dtype(problem.rows.stored.dtype))
