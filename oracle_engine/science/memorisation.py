"""Whether generated samples are copies: nearest samples, distance ratios, copy rates, energies of runs, shells."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from ..base.arrays import Float, Float64, Int64, Tensor, check_floating
from ..base.errors import invalid
from ..base.foreign import is_foreign, lent
from ..base.seeds import seeded
from ..engine.arguments import check_engine
from ..engine.engine import OracleEngine
from ..queries.classes import batch_slices
from ..samplers.fields import path_at
from ..samplers.runs import Run

# late, where the heaviest sample is told apart with all digits
SEARCH_TIME = 0.9
SEARCH_BATCH = 256
# a sample is a copy where its nearest sample is this much nearer than the second one (Yoon et al. 2023)
COPY_RATIO = 1.0 / 3.0
# draws of the bootstrap, binomial ones
RATE_RESAMPLES = 2000


@dataclass(frozen=True)
class Nearest:
    """The two samples of the data that are nearest to each of B points.

    index: of these samples, nearest first, [B, 2] int64; -1 where the data hold one sample alone.
    distance: Euclidean distances in value space, [B, 2] float64, infinite where there is no second sample.
    """

    index: Int64[Tensor, "B 2"]
    distance: Float64[Tensor, "B 2"]

    @property
    def ratio(self) -> Float64[Tensor, "B"]:
        """Distance to the nearest sample over that to the second, in [0, 1]; 1 where both are zero, by duplicates."""
        first, second = self.distance.unbind(1)
        return torch.where(second > 0.0, first / second, 1.0)


@dataclass(frozen=True)
class CopyRate:
    """The share of generated samples that are copies of samples of the data.

    rate: the share, in [0, 1]. error: its standard error, by the bootstrap over the generated samples.
    low, high: the interval of 95 %, by the same; by the rule of three where none or all are copies.
    count: how many were generated. threshold: the largest distance ratio of a copy.
    """

    rate: float
    error: float
    low: float
    high: float
    count: int
    threshold: float


def nearest_samples(
    engine: OracleEngine, x: Float[Tensor, "B ..."], *, labels: Int64[Tensor, "B"] | None = None
) -> Nearest:
    """Return the two samples nearest to each point, exactly, by the engine's own search.

    engine: over data whose samples weigh the same. x: points in value space, [B, *sample_shape], floating, finite.
    labels: search the samples of these classes alone, [B] int64, -1 for all samples.

    The posterior of alpha x at a late time is heaviest at the sample nearest to x; the second is found when the first
    is left out. Raises InputError for weighted data, and as OracleEngine.posterior does. Costs two scans.

    >>> import torch, oracle_engine as oe
    >>> from oracle_engine.science.memorisation import nearest_samples
    >>> engine = oe.OracleEngine(oe.OracleDataset(torch.tensor([[0.0], [1.0], [5.0]])))
    >>> nearest_samples(engine, torch.tensor([[0.9]])).index.tolist()
    [[1, 0]]
    """
    check_engine(engine)
    check_floating("x", x)
    if engine.data.rows.log_weights is not None:
        raise invalid("engine", "must be over samples of equal weight", "weights", "make the data set without weights")
    index = torch.full((len(x), 2), -1, dtype=torch.int64, device=x.device)
    for part in batch_slices(len(x), engine.data.dim, SEARCH_BATCH):
        points, named = x[part].double(), None if labels is None else labels[part]
        index[part, 0] = first = _nearest(engine, points, named, None)
        others = _population(engine, named, len(points)) > 1
        if bool(others.any()):
            named = None if named is None else named[others]
            second = _nearest(engine, points[others], named, first[others])
            index[part, 1] = index[part, 1].masked_scatter(others, second)
    distances = [distance_to(engine, x, index[:, place]) for place in (0, 1)]
    return Nearest(index, torch.stack(distances, 1))


def distance_to(engine: OracleEngine, x: Float[Tensor, "B ..."], index: Int64[Tensor, "B"]) -> Float64[Tensor, "B"]:
    """Return the Euclidean distance of each point to one sample, from direct differences in float64.

    engine: over the data. x: points, [B, *sample_shape]. index: of a sample each, -1 for none, which is at infinity.
    """
    data, found = engine.data, []
    for part in batch_slices(len(x), data.dim, SEARCH_BATCH):
        samples = data.sample_values(data.row_of(index[part].clamp_min(0))).double()
        found.append((x[part].double() - samples).reshape(len(samples), -1).norm(dim=1))
    distance = torch.cat(found) if found else torch.zeros(0, dtype=torch.float64, device=x.device)
    return torch.where(index < 0, math.inf, distance)


def copy_rate(ratio: Float64[Tensor, "B"], *, threshold: float = COPY_RATIO, seed: int = 0) -> CopyRate:
    """Return the share of generated samples whose distance ratio is below a threshold, with its error.

    ratio: of B >= 1 generated samples, as `Nearest.ratio` gives it. threshold: in (0, 1]. seed: of the bootstrap.

    Raises InputError for no samples and for a threshold outside (0, 1].
    """
    if len(ratio) < 1:
        raise invalid("ratio", "must hold one or more numbers", "none", "generate samples")
    if not 0.0 < threshold <= 1.0:
        raise invalid("threshold", "must lie in (0, 1]", threshold, "pass 1 / 3")
    copied, count = (ratio < threshold).double().cpu(), len(ratio)
    rate, draws = float(copied.mean()), seeded(seed)
    # a resample of a share is a binomial draw
    counts, rates = torch.full((RATE_RESAMPLES,), float(count)), torch.full((RATE_RESAMPLES,), rate)
    drawn = torch.binomial(counts, rates, draws) / count
    low, high = drawn.quantile(torch.tensor([0.025, 0.975])).tolist()
    low, high = (low if rate < 1.0 else 1.0 - 3.0 / count), (high if rate > 0.0 else 3.0 / count)
    return CopyRate(rate, float(drawn.std()), max(0.0, low), min(1.0, high), count, threshold)


def kinetic_energy(run: Run[Any]) -> Float64[Tensor, "B"]:
    """Return the kinetic energy of the way of each sample, 1/2 int |dx/dt|^2 dt, [B] float64.

    run: of a sampler with `capture=Capture(states=True)`.

    The way is straight between the states: 1/2 sum |x_(i+1) - x_i|^2 / (t_(i+1) - t_i). Runs of one start and one end
    have the least energy where the way is straight, at constant speed: 1/2 |x_1 - x_0|^2 / (t_1 - t_0).
    Raises InputError for a run that kept no states.
    """
    if run.states is None:
        requirement = "must have kept its states"
        raise invalid("run", requirement, "one without", "pass capture=samplers.Capture(states=True) to `sample`")
    states = lent(run.states, None) if is_foreign(run.states) else run.states
    steps = run.times.diff().to(states.device)
    energy = torch.zeros(states.shape[1], dtype=torch.float64, device=states.device)
    for index, step in enumerate(steps):
        moved = states[index + 1].double() - states[index].double()
        energy += 0.5 * moved.reshape(len(energy), -1).square().sum(1) / step
    return energy


def shell_radius(
    engine: OracleEngine, x: Float[Tensor, "B ..."], t: float, index: Int64[Tensor, "B"]
) -> Float64[Tensor, "B"]:
    """Return |x - alpha X_i| / (sigma sqrt(D)), on which shell around a sample each state lies, [B] float64.

    engine: over the data and along the path. x: states, [B, *sample_shape]. t: their time, with sigma(t) > 0.
    index: the sample of each state, [B] int64.

    Training queries of a sample lie on its shell of radius 1, up to 1 / sqrt(2 D). The sample that is nearest to
    x / alpha has the smallest radius. Raises InputError where no noise is left.
    """
    alpha, sigma, _, _ = path_at(engine.path, t)
    if not (alpha > 0.0 and sigma > 0.0):
        raise invalid("t", "must leave some noise and some data: alpha, sigma > 0", t, "pass a time inside of (0, 1)")
    return alpha * distance_to(engine, x.double() / alpha, index) / (sigma * math.sqrt(engine.data.dim))


def _nearest(
    engine: OracleEngine, points: Float64[Tensor, "b ..."], labels: Tensor | None, exclude: Tensor | None
) -> Int64[Tensor, "b"]:
    """Return the nearest sample of each point, which is the heaviest of a late posterior."""
    t = SEARCH_TIME if engine.t_max is None else min(SEARCH_TIME, engine.t_max)
    scaled = path_at(engine.path, t)[0] * points
    return engine.posterior(scaled, t, labels=labels, exclude=exclude, top_k=1).top_indices[:, 0]


def _population(engine: OracleEngine, labels: Int64[Tensor, "b"] | None, count: int) -> Int64[Tensor, "b"]:
    """Return how many samples each point is compared with."""
    sizes = torch.full((count,), len(engine.data), device=engine.data.device)
    for label, span in engine.data.segments.items() if labels is not None else ():
        sizes[labels == label] = span.stop - span.start
    return sizes
