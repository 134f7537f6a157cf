"""The report of the two-stage analysis, as JSON and as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..base.arrays import Float, Tensor
from .transition import Predictor, crossing

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class StagePoint:
    """The posterior of the training queries at one time; quantiles over the queries are at 5, 25, 50, 75 and 95 %.

    t: the time, in [0, 1].
    top_weight, top_weight_quantiles: the weight of the heaviest sample, its mean and its quantiles, in (0, 1].
    ess_quantiles: of 1 / sum_j gamma_j^2, in [1, N]. entropy: median, in nats.
    velocity_variance: V(t) = E|u - v|^2 / D, the variance of the conditional velocity u around the oracle velocity v.
    own_share: share of the queries whose heaviest sample is the one that made them, in [0, 1].
    """

    t: float
    top_weight: float
    top_weight_quantiles: tuple[float, ...]
    ess_quantiles: tuple[float, ...]
    entropy: float
    velocity_variance: float
    own_share: float


@dataclass(frozen=True)
class TransitionTimes:
    """The times at which the posterior of the training queries has narrowed; None outside the grid of times.

    top_weight_50, top_weight_90, top_weight_99: when the mean top-1 weight reaches .5, .9 and .99.
    ess_2: when the median effective sample size falls to 2.
    All are linear between the times of the grid (in log ESS for the last), on the running maximum.
    """

    top_weight_50: float | None
    top_weight_90: float | None
    top_weight_99: float | None
    ess_2: float | None


@dataclass(frozen=True)
class Strip:
    """A few queries followed along t, for pictures; all tensors are float32 on the CPU.

    times: T increasing times. sources: the samples that made the K queries, from early to late refinement.
    noisy, denoised: x_t and E[X | x_t], [K, T, *shape]. samples: [K, *shape].
    context: up to 512 samples drawn over the whole data set, [M, *shape].
    """

    times: tuple[float, ...]
    sources: tuple[int, ...]
    noisy: Float[Tensor, "K T ..."]
    denoised: Float[Tensor, "K T ..."]
    samples: Float[Tensor, "K ..."]
    context: Float[Tensor, "M ..."]


@dataclass(frozen=True)
class StageReport:
    """The result of :func:`.stages.analyse`: one point for each time, the transition, and what it was computed from.

    data: name, description, samples (N), dim (D), sample_shape, storage, values (their map, range and variance in
    words), value_map, value_range, variance_per_dim, note and fingerprint of the data set.
    path: its repr. queries: number of training queries at each time. seed: of these queries. device: of the data.
    versions: of this package, torch and Python. elapsed: seconds of the analysis.
    points: one for each time, in increasing order. measured, predicted: times of the transition, from the points and
    from the data set alone. strip: a few queries followed along t; it takes no part in comparisons.
    """

    data: dict[str, Any]
    path: str
    queries: int
    seed: int
    device: str
    versions: dict[str, str]
    elapsed: float
    points: tuple[StagePoint, ...]
    measured: TransitionTimes
    predicted: Predictor
    strip: Strip = field(repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the strip's tensors as plain values that json can write."""
        json_rows = {name: getattr(self, name) for name in ("data", "path", "queries", "seed", "device", "versions")}
        return json_rows | {
            "elapsed": self.elapsed,
            "quantiles": list(QUANTILES),
            "points": [asdict(point) for point in self.points],
            "transition": {"measured": asdict(self.measured), "predicted": asdict(self.predicted)},
            "strip": {"times": list(self.strip.times), "sources": list(self.strip.sources)},
        }

    def format_table(self) -> str:
        """Return the points and the transition as aligned text."""
        data = self.data
        lines = [
            f"{data['name']}: N = {data['samples']:,} samples, D = {data['dim']:,} "
            f"({' x '.join(map(str, data['sample_shape'])) or 'scalar'}, {data['storage']})",
            data["values"],
            *([f"note: {data['note']}"] if data["note"] else []),
            f"{self.path}, {self.queries} training queries, seed {self.seed}",
            "",
            "           top-1                 ESS, quantiles over the queries              median             own is",
            "t           mean         5 %      25 %      50 %      75 %      95 %   entropy       V(t)  heaviest",
        ]
        lines += [_table_row(point) for point in self.points]
        return "\n".join([*lines, "", *_transition_rows(self.measured, self.predicted)])


def measure_transition(points: Sequence[StagePoint]) -> TransitionTimes:
    """Return the times at which the posterior narrows from many samples to one, from points in the order of t."""
    times = [point.t for point in points]
    top = [point.top_weight for point in points]
    narrowing = [-math.log2(point.ess_quantiles[2]) for point in points]
    half, most, all_but_one_percent = (crossing(times, top, level) for level in (0.5, 0.9, 0.99))
    return TransitionTimes(half, most, all_but_one_percent, crossing(times, narrowing, -1.0))


def _table_row(point: StagePoint) -> str:
    ess = "".join(f"{value:>10,.1f}" for value in point.ess_quantiles)
    return (
        f"{point.t:<6.4g} {point.top_weight:>10.4f} {ess} {point.entropy:>9.2f} {point.velocity_variance:>10.3g} "
        f"{100 * point.own_share:>7.1f} %"
    )


def _transition_rows(measured: TransitionTimes, predicted: Predictor) -> list[str]:
    rows = [
        ("measured", "mean top-1 weight = .5", measured.top_weight_50, ""),
        ("", "mean top-1 weight = .9", measured.top_weight_90, ""),
        ("", "mean top-1 weight = .99", measured.top_weight_99, ""),
        ("", "median ESS = 2", measured.ess_2, ""),
        ("predicted", "anisotropic", predicted.anisotropic, f"spectrum of {predicted.spectrum_samples:,} samples"),
        ("", "isotropic", predicted.isotropic, "N, D and the variance per dimension"),
    ]
    return [
        f"{head:<10} {what:<24} {'none in the grid' if t is None else f't = {t:.3f}':<10} {note}".rstrip()
        for head, what, t, note in rows
    ]
