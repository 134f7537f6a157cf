"""What is known of the training queries at one time, and the times at which their posterior has narrowed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from ...base.arrays import Float64, Tensor
from ..transition import crossing

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# a conditional velocity points where the oracle does when their cosine is above this
ALIGNED = 0.9

# of one time: a value for each of Q queries, by the names of QUERY_STATISTICS; NaN where a query has none
QueryStatistics = Mapping[str, Float64[Tensor, "Q"]]
QUERY_STATISTICS = (
    "top", "second", "ess", "entropy", "variance", "gap", "cosine", "own_first", "own_weight", "class_mass",
)  # fmt: skip


@dataclass(frozen=True)
class StagePoint:
    """The posterior of the queries at one time; quantiles over the queries are at 5, 25, 50, 75 and 95 %.

    t: the time, in [0, 1].
    top_weight, top_weight_quantiles: the weight of the heaviest sample, its mean and its quantiles, in (0, 1].
    margin: mean of the heaviest weight less the second heaviest, in [0, 1].
    ess_quantiles: of 1 / sum_j gamma_j^2, in [1, N]. entropy: median, in nats.
    velocity_variance: V(t) = E|u - v|^2 / D, the variance of the conditional velocity u around the oracle velocity v,
        from posterior moments: A^2 E[tr Cov] / D with A = d_alpha - alpha d_sigma / sigma.
    velocity_gap: the mean of |u - v|^2 / D over the queries themselves. For training queries both estimate V(t); for
        held-out ones it is larger: u leads to a sample that the oracle does not know.
    cosine: mean of cos(u, v). cosine_share: share of the queries with a cosine above .9.
    own_share: share of the queries whose heaviest sample is the one that made them, in [0, 1].
    own_weight: mean weight of the sample that made the query. nishimori: its difference from the mean of
        sum_j gamma_j^2, which is zero up to its error for training queries (the Nishimori identity).
    class_mass: mean weight of the query's class in the posterior over all classes.
    names ending in _error: standard errors over the queries, taken as independent draws.

    None stands for what is not defined: errors of a single query, the own sample of held-out queries, and classes of
    data without labels.
    """

    t: float
    top_weight: float
    top_weight_error: float | None
    top_weight_quantiles: tuple[float, ...]
    margin: float
    ess_quantiles: tuple[float, ...]
    entropy: float
    velocity_variance: float
    velocity_variance_error: float | None
    velocity_gap: float
    velocity_gap_error: float | None
    cosine: float
    cosine_error: float | None
    cosine_share: float
    own_share: float | None
    own_weight: float | None
    nishimori: float | None
    nishimori_error: float | None
    class_mass: float | None
    class_mass_error: float | None


@dataclass(frozen=True)
class TransitionTimes:
    """The times at which the posterior of the queries has narrowed, or their standard errors; None outside the grid.

    top_weight_50, top_weight_90, top_weight_99: when the mean top-1 weight reaches .5, .9 and .99.
    ess_2: when the median effective sample size falls to 2.
    entropy_2: when the median entropy falls to ln 2. own_50: when half of the queries have their own sample first.
    aligned_50: from when on half of the queries have cos(u, v) above .9; near t = 0 many have it too, since both lead
        away from the same noise.
    All are linear between the times of the grid (in log ESS for ess_2), on the running maximum, of aligned_50 on what
    is kept from there on.
    """

    top_weight_50: float | None
    top_weight_90: float | None
    top_weight_99: float | None
    ess_2: float | None
    entropy_2: float | None
    own_50: float | None
    aligned_50: float | None


# the definitions in words, by the names of TransitionTimes
DEFINITIONS = {
    "top_weight_50": "mean top-1 weight = .5",
    "top_weight_90": "mean top-1 weight = .9",
    "top_weight_99": "mean top-1 weight = .99",
    "ess_2": "median ESS = 2",
    "entropy_2": "median entropy = ln 2",
    "own_50": "own sample first, half of queries",
    "aligned_50": "cos(u, v) > .9, half of queries",
}


def stage_point(t: float, factor: float, found: QueryStatistics) -> StagePoint:
    """Return the summary of one time.

    t: the time. factor: A^2 / D, which turns tr Cov into V(t). found: the statistics of Q >= 1 queries.
    """
    top, variance, gap, cosine = (found[name] for name in ("top", "variance", "gap", "cosine"))
    nishimori = found["own_weight"] - 1.0 / found["ess"]
    return StagePoint(
        t=t,
        top_weight=float(top.mean()),
        top_weight_error=standard_error(top),
        top_weight_quantiles=_quantiles(top),
        margin=float((top - found["second"]).mean()),
        ess_quantiles=_quantiles(found["ess"]),
        entropy=float(found["entropy"].quantile(0.5)),
        velocity_variance=float(factor * variance.mean()),
        velocity_variance_error=standard_error(factor * variance),
        velocity_gap=float(gap.mean()),
        velocity_gap_error=standard_error(gap),
        cosine=float(cosine.mean()),
        cosine_error=standard_error(cosine),
        cosine_share=float((cosine > ALIGNED).double().mean()),
        own_share=_mean(found["own_first"]),
        own_weight=_mean(found["own_weight"]),
        nishimori=_mean(nishimori),
        nishimori_error=standard_error(nishimori),
        class_mass=_mean(found["class_mass"]),
        class_mass_error=standard_error(found["class_mass"]),
    )


def measure_transition(times: Sequence[float], curves: Mapping[str, Sequence[float]]) -> TransitionTimes:
    """Return the times at which the posterior narrows from many samples to one.

    times: increasing. curves: as :func:`narrowing_curves` returns them.
    """
    levels = {"top_weight_50": 0.5, "top_weight_90": 0.9, "top_weight_99": 0.99, "ess_2": -1.0}
    levels |= {"entropy_2": -math.log(2.0), "own_50": 0.5, "aligned_50": 0.5}
    return TransitionTimes(**{name: crossing(times, curves[name], level) for name, level in levels.items()})


def narrowing_curves(found: Mapping[str, Float64[Tensor, "T Q"]]) -> dict[str, list[float]]:
    """Return the curves of which a transition is a crossing, by the names of TransitionTimes, T values each.

    found: the statistics of Q queries at T times.
    """
    top = found["top"].mean(1).tolist()
    narrow = (-found["ess"].log2()).median(1).values.tolist()
    curves = {"top_weight_50": top, "top_weight_90": top, "top_weight_99": top, "ess_2": narrow}
    curves["entropy_2"] = (-found["entropy"]).median(1).values.tolist()
    curves["own_50"] = found["own_first"].mean(1).nan_to_num(-1.0).tolist()
    aligned = (found["cosine"] > ALIGNED).double().mean(1)
    # the least share from each time on
    curves["aligned_50"] = aligned.flip(0).cummin(0).values.flip(0).tolist()
    return curves


def standard_error(values: Float64[Tensor, "Q"]) -> float | None:
    """Return the standard error of the mean of independent values, or None where it is not defined."""
    error = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return error if math.isfinite(error) else None


def transition_names() -> tuple[str, ...]:
    """Return the names of the definitions of a transition."""
    return tuple(part.name for part in fields(TransitionTimes))


def _mean(values: Float64[Tensor, "Q"]) -> float | None:
    mean = float(values.mean())
    return mean if math.isfinite(mean) else None


def _quantiles(values: Float64[Tensor, "Q"]) -> tuple[float, ...]:
    return tuple(values.quantile(values.new_tensor(QUANTILES)).tolist())
