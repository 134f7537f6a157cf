"""Where navigation turns into refinement: predicted from N, D and the spectrum, and measured on a grid of times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from ..base.arrays import Float64, Int64, Tensor
from ..base.errors import invalid
from ..base.seeds import seeded
from ..data.checks import BLOCK_VALUES
from ..data.dataset import OracleDataset
from ..engine.engine import OracleEngine
from ..paths.paths import Path, coefficients
from ..paths.predictions import marginal_variance

# the spectrum is taken from this many samples at most, fewer where their Gram matrix would cost seconds
SPECTRUM_SAMPLES = 2048
SPECTRUM_PRODUCTS = 1 << 34

# the first time of the default grid, the share of its times around the predicted transition, their width in logit(t)
EARLIEST_TIME = 0.01
GRID_SHARE = 0.4
GRID_WIDTH = 0.4
# the share of the times that a grid spends where a curve changes
CHANGE_SHARE = 0.75


@dataclass(frozen=True)
class Predictor:
    """The predicted time at which all samples become distinguishable; no query is needed for it.

    isotropic, anisotropic: times in (0, 1), or None where the path never reaches the signal-to-noise ratio or there are
    no samples to tell apart. entropy: H, of the sample weights, in nats. variance_per_dim: v, of the data.
    spectrum_samples: number of samples from which the eigenvalues lambda_k are estimated.

    Both times solve a capacity equation for rho = alpha^2 / (sigma^2 + alpha^2 point_std^2), with H = ln N where the
    weights are equal:
    isotropic: D/2 log(1 + rho v) = H with v the variance per dimension, that is rho = (exp(2 H / D) - 1) / v.
    anisotropic: 1/2 sum_k log(1 + rho lambda_k) = H with lambda_k the eigenvalues of the covariance, scaled to
    the exact total variance.
    """

    isotropic: float | None
    anisotropic: float | None
    entropy: float
    variance_per_dim: float
    spectrum_samples: int


def predict_transition(data: OracleDataset, path: Path, point_std: float = 0.0, seed: int = 0) -> Predictor:
    """Return the times at which the posterior over `data` is predicted to narrow to few samples along `path`.

    data: N samples of D values. path: from noise to data. point_std: standard deviation of each sample, at least 0.
    seed: of the choice of samples whose spectrum is estimated.

    Costs the Gram or covariance matrix of at most 2,048 samples, whichever is smaller, and some Cholesky factors of it.
    """
    return predict_part(data, path, point_std, seed, rows=None)


def predict_part(
    data: OracleDataset, path: Path, point_std: float, seed: int, *, rows: Int64[Tensor, "n"] | None
) -> Predictor:
    """Return what :func:`predict_transition` does for the samples in `rows`, ascending, [n] int64; None for all."""
    entropy, count = prior_entropy(data, rows), len(data) if rows is None else len(rows)
    chosen = draw_rows(data, spectrum_size(count, data.dim), seed, rows)
    variance = data.variance_per_dim if rows is None else _variance(data, rows)
    if not (entropy > 0.0 and variance > 0.0):
        return Predictor(None, None, entropy, variance, len(chosen))
    even = math.expm1(2.0 * entropy / data.dim) / variance
    uneven = _solve_capacity(second_moments(data, chosen, data.dim * variance), entropy, even)
    isotropic, anisotropic = (time_of_snr(path, rho, point_std) for rho in (even, uneven))
    return Predictor(isotropic, anisotropic, entropy, variance, len(chosen))


def prior_entropy(data: OracleDataset, rows: Int64[Tensor, "n"] | None = None) -> float:
    """Return the entropy of the sample weights in nats: ln N where they are equal.

    data: the samples. rows: those that count, [n] int64; None for all.
    """
    weights = data.rows.log_weights
    if weights is None:
        return math.log(len(data) if rows is None else len(rows))
    chosen = weights if rows is None else weights[rows]
    return float(torch.special.entr(chosen.softmax(0)).sum())


def draw_rows(
    data: OracleDataset, count: int, seed: int, among: Int64[Tensor, "m"] | None = None
) -> Int64[Tensor, "n"]:
    """Return `count` rows drawn by their weights, one from each of `count` strata of equal weight, ascending, int64.

    data: whose rows are drawn; they are sorted by class, so classes are drawn in proportion. count: at least 0.
    seed: of the draws, which are made on the CPU and are the same for every device. among: the rows that may be drawn,
    ascending, [m] int64; None for all. The rows are on the device of `data`.
    """
    offsets = torch.rand(count, generator=seeded(seed), dtype=torch.float64)
    place, held = (torch.arange(count) + offsets) / max(count, 1), len(data) if among is None else len(among)
    if data.rows.log_weights is None:
        rows = (place * held).long()
    else:
        weights = data.rows.log_weights if among is None else data.rows.log_weights[among]
        total = weights.exp().cumsum(0).cpu()
        rows = torch.searchsorted(total, place * total[-1], right=True)
    rows = rows.clamp_max(held - 1).to(data.device)
    return rows if among is None else among[rows]


def spectrum_size(count: int, dim: int) -> int:
    """Return how many of `count` samples of `dim` values the spectrum is estimated from: at most 2,048."""
    return min(count, SPECTRUM_SAMPLES, max(64, math.isqrt(SPECTRUM_PRODUCTS // dim)))


def second_moments(data: OracleDataset, rows: Int64[Tensor, "n"], total: float) -> Float64[torch.Tensor, "k k"]:
    """Return a matrix with the non-zero eigenvalues of the covariance of some samples, [k, k] float64.

    data: samples of D values. rows: of the samples used, [n] int64. total: the trace that the result is scaled to, the
    total variance. The matrix is the covariance or the Gram matrix, whichever is smaller, k = min(n, D).
    """
    values = data.sample_values(rows).double().reshape(len(rows), -1)
    values -= values.mean(0)
    matrix = values @ values.T if len(rows) < data.dim else values.T @ values
    trace = float(matrix.trace())
    return matrix * (total / trace) if trace > 0.0 else matrix


def time_of_snr(path: Path, snr: float, point_std: float = 0.0) -> float | None:
    """Return the time in (0, 1) at which the signal-to-noise ratio reaches `snr`, or None where it never does.

    path: along which the ratio increases. snr: alpha^2 / (sigma^2 + alpha^2 point_std^2), above 0.
    point_std: standard deviation of each sample, at least 0. The time is found by 60 steps of bisection.
    """
    if not 0.0 < snr < math.inf or _snr(path, 1.0, point_std) < snr:
        return None
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if _snr(path, middle, point_std) >= snr else (middle, high)
    return high if low > 0.0 else None


def time_grid(
    around: float | None, *, count: int = 24, first: float = EARLIEST_TIME, last: float = 0.99
) -> list[float]:
    """Return increasing times, evenly spaced in logit(t) but denser at `around`.

    around: a time; None, or one outside of the interval, makes no part denser. count: number of times before rounding
    makes some of them equal. first, last: the ends, in (0, 1).
    """
    place = torch.linspace(_logit(first), _logit(last), 4097, dtype=torch.float64)
    share = torch.linspace(0.0, 1.0, 4097, dtype=torch.float64)
    if around is not None and first < around < last:
        bump = torch.sigmoid((place - _logit(around)) / GRID_WIDTH)
        share = (1 - GRID_SHARE) * share + GRID_SHARE * (bump - bump[0]) / (bump[-1] - bump[0])
    index = torch.searchsorted(share, torch.linspace(0.0, 1.0, count, dtype=torch.float64)).clamp_max(4096)
    digits = 3 if first >= 0.001 and last <= 0.999 else 6
    return sorted({round(time, digits) for time in torch.sigmoid(place[index]).tolist()})


def grid_where_it_changes(times: Sequence[float], done: Sequence[float], count: int) -> list[float]:
    """Return increasing times, most of them where a curve changes, the others evenly spaced in logit(t).

    times: increasing, in (0, 1), of which the result keeps the ends. done: the curve at these times, made increasing by
    its running maximum. count: number of times before rounding makes some of them equal.
    """
    place = torch.linspace(_logit(times[0]), _logit(times[-1]), 4097, dtype=torch.float64)
    best = list(accumulate(done, max))
    height = best[-1] - best[0]
    if not height > 0.0:
        return time_grid(None, count=count, first=times[0], last=times[-1])
    changed = [(value - best[0]) / height for value in best]
    known = torch.tensor([_logit(t) for t in times], dtype=torch.float64)
    after = torch.searchsorted(known, place).clamp(1, len(times) - 1)
    part = (place - known[after - 1]) / (known[after] - known[after - 1])
    curve = torch.tensor(changed, dtype=torch.float64)
    share = curve[after - 1] + part * (curve[after] - curve[after - 1])
    mixed = CHANGE_SHARE * share + (1.0 - CHANGE_SHARE) * torch.linspace(0.0, 1.0, 4097, dtype=torch.float64)
    index = torch.searchsorted(mixed, torch.linspace(0.0, 1.0, count, dtype=torch.float64)).clamp_max(4096)
    digits = 3 if times[0] >= 0.001 and times[-1] <= 0.999 else 6
    return sorted({round(time, digits) for time in torch.sigmoid(place[index]).tolist()})


def crossing(times: Sequence[float], values: Sequence[float], level: float) -> float | None:
    """Return the time at which `values` reach `level`, or None where they begin above it or never reach it.

    times: increasing. values: one for each time, replaced by their running maximum and linear in between.
    level: what is reached.
    """
    best = list(accumulate(values, max))
    index = next((index for index, value in enumerate(best) if value >= level), 0)
    if index == 0:
        return None
    part = (level - best[index - 1]) / (best[index] - best[index - 1])
    return times[index - 1] + part * (times[index] - times[index - 1])


def _variance(data: OracleDataset, rows: Int64[Tensor, "n"]) -> float:
    """Return the variance per dimension of the samples in `rows`, by their weights, in blocks."""
    weights = data.rows.log_weights
    shares = (torch.zeros(len(rows), device=rows.device) if weights is None else weights[rows]).double().softmax(0)
    first, squares = torch.zeros(data.dim, dtype=torch.float64, device=rows.device), 0.0
    parts = max(1, BLOCK_VALUES // data.dim)
    for block, share in zip(rows.split(parts), shares.split(parts), strict=True):
        values = data.sample_values(block).double().reshape(len(block), -1) - data.base
        first += share @ values
        squares += float(share @ values.square().sum(1))
    return max(0.0, squares - float(first.square().sum())) / data.dim


def _solve_capacity(matrix: Float64[Tensor, "k k"], entropy: float, start: float) -> float:
    """Return rho with 1/2 log det(1 + rho matrix) = entropy, from a `start` below it, by secants in log-log."""
    if float(matrix.trace()) <= 0.0:
        return math.inf
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)

    def gap(log_rho: float) -> float:
        """Return the log of the ratio between the two sides of the equation."""
        factor = torch.linalg.cholesky(eye + math.exp(log_rho) * matrix)
        return math.log(float(factor.diagonal().log().sum()) / entropy)

    # the capacity is concave in rho and zero at 0, so a step of slope one cannot pass the root
    place, height, slope = math.log(start), gap(math.log(start)), 1.0
    while abs(height) > 1e-9:
        step = -height / slope
        place, before, height = place + step, height, gap(place + step)
        slope = (height - before) / step
    return math.exp(place)


def _snr(path: Path, t: float, point_std: float) -> float:
    at = coefficients(path, torch.tensor([t], dtype=torch.float64))
    return float(at.alpha_t.square() / marginal_variance(at, point_std))


def _logit(t: float) -> float:
    return math.log(t / (1.0 - t))


def stage_boundary(engine: OracleEngine, seed: int = 0) -> float:
    """Return the time in (0, 1) at which navigation is predicted to turn into refinement.

    engine: whose data, path and point_std are used. seed: of the choice of samples whose spectrum is estimated.

    The time solves 1/2 sum_k log(1 + rho lambda_k) = ln N for rho = alpha^2 / (sigma^2 + alpha^2 point_std^2), with
    lambda_k the eigenvalues of the covariance of the data: that of :attr:`Predictor.anisotropic`.
    Raises InputError where there is no such time, as for a single sample or equal samples. Costs a Gram or covariance
    matrix of at most 2,048 samples and some Cholesky factors of it.

    >>> import oracle_engine as oe
    >>> engine = oe.OracleEngine(oe.load_dataset("digits"))
    >>> round(oe.stage_boundary(engine), 2)
    0.53
    """
    found = predict_transition(engine.data, engine.path, engine.point_std, seed).anisotropic
    if found is None:
        requirement = "must have samples that can be told apart along the path"
        received = f"{engine.data.name!r}, {engine.data.describe_values()}"
        raise invalid("engine", requirement, received, "choose a time by hand")
    return found
