"""The two stages of flow matching over a data set: early navigation among many samples, late refinement of one.

The quantities are those of "From Navigation to Refinement" (arXiv 2512.02826), computed from the exact posterior.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..base.arrays import Float64, Int64, Tensor
from ..base.errors import invalid
from ..base.progress import Progress
from ..base.seeds import seeded
from ..base.settings import __version__
from ..data.dataset import OracleDataset
from ..data.values import is_picture
from ..engine.engine import OracleEngine
from ..paths.paths import Coefficients, coefficients, marginal_variance
from .stage_report import QUANTILES, StagePoint, StageReport, Strip, measure_transition
from .transition import EARLIEST_TIME, Predictor, crossing, draw_rows, predict_transition, prior_entropy, time_grid

# values of a batch of queries at most, so that large samples are answered in smaller batches
BATCH_VALUES = 1 << 24
# samples of the context of a strip at most, and their values
CONTEXT_SAMPLES = 512
CONTEXT_VALUES = 1 << 22


def analyse(
    engine: OracleEngine,
    *,
    times: Sequence[float] | None = None,
    queries: int = 256,
    seed: int = 0,
    progress: Progress | None = None,
    strip: int = 6,
    strip_times: int = 8,
    batch: int = 256,
) -> StageReport:
    """Return how the posterior narrows along t, over training queries x_t = alpha(t) X_s + sigma(t) eps.

    engine: whose data, path and point_std are analysed.
    times: in [0, 1], at most t_max of the engine, with sigma > 0; None takes about 24 in [0.01, 0.99], denser around
        the predicted transition.
    queries: number of training queries at each time, at least 1. Their samples X_s are drawn from strata of equal
        weight; every time uses the same samples and the same noise eps.
    seed: of these samples and this noise. The same seed gives the same numbers on one machine.
    progress: called with (steps done, all steps) after each batch of queries at one time, and before the first.
    strip: number of queries that are kept for pictures, at least 1; at most `queries` are kept.
    strip_times: number of times of these pictures, at least 1. Between them the posterior narrows by similar steps.
    batch: queries that are answered at once, at least 1; fewer where samples are large.

    The report holds one StagePoint for each time, the measured and the predicted transition, and what it was computed
    from; `report.format_table()` and `report.to_json()` show it.
    Raises InputError for times that cannot be used, for counts below 1, and where t_max of the engine is at most 0.01
    and no times are given. Costs one posterior for each query and time; memory is that of one batch.

    >>> import oracle_engine as oe
    >>> engine = oe.OracleEngine(oe.load_dataset("digits"))
    >>> report = oe.analyse(engine, times=[0.2, 0.5, 0.9], queries=64)
    >>> [round(point.top_weight, 1) for point in report.points]
    [0.0, 0.4, 1.0]
    >>> report.points[0].t, report.data["samples"]
    (0.2, 1797)
    """
    began = time.perf_counter()
    queries, size = _counted("queries", queries), min(_counted("batch", batch), max(1, BATCH_VALUES // engine.data.dim))
    strip, strip_times = min(_counted("strip", strip), queries), _counted("strip_times", strip_times)
    grid = None if times is None else _checked_times(engine, times)
    if grid is None and engine.t_max is not None and engine.t_max <= EARLIEST_TIME:
        raise invalid("times", f"must be given where t_max is at most {EARLIEST_TIME}", None, "pass times=[t_max]")
    predicted = predict_transition(engine.data, engine.path, engine.point_std, seed)
    run = _Run(engine, grid or _default_times(engine, predicted), queries, seed)
    run.measure(size, progress)
    points = run.points()
    followed = _Follower(engine, run.by_lateness(strip), seed).strip(_strip_times(engine, points, strip_times))
    return StageReport(
        **_origin(engine),
        queries=queries,
        seed=seed,
        elapsed=time.perf_counter() - began,
        points=points,
        measured=measure_transition(points),
        predicted=predicted,
        strip=followed,
    )


class _Run:
    """Training queries at every time, and the statistics of their posteriors."""

    def __init__(self, engine: OracleEngine, times: Sequence[float], queries: int, seed: int) -> None:
        self.engine, self.times = engine, list(times)
        self.rows = draw_rows(engine.data, queries, seed)
        self.noise = seeded(seed)
        self.at = coefficients(engine.path, torch.tensor(self.times, dtype=torch.float64, device=self.rows.device))
        self.width = _width(engine, self.at)
        # top-1 weight, ESS, entropy, tr Cov, whether the sample that made the query is the heaviest
        self.statistics = torch.empty(5, len(self.times), queries, dtype=torch.float64)

    def measure(self, size: int, progress: Progress | None) -> None:
        """Fill the statistics in batches of `size` queries."""
        for done, total in self._steps(size):
            if progress is not None:
                progress(done, total)

    def _steps(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield the numbers of steps done and of all steps, before the first step and after each."""
        starts = range(0, len(self.rows), size)
        yield 0, len(starts) * len(self.times)
        for batch, start in enumerate(starts):
            part = slice(start, start + size)
            values = self.engine.data.sample_values(self.rows[part]).double()
            noise = torch.randn(values.shape, generator=self.noise, dtype=torch.float64).to(values.device)
            for index in range(len(self.times)):
                self._measure_batch(index, part, values, noise)
                yield batch * len(self.times) + index + 1, len(starts) * len(self.times)

    def _measure_batch(
        self, index: int, part: slice, values: Float64[Tensor, "b ..."], noise: Float64[Tensor, "b ..."]
    ) -> None:
        x = self.at.alpha_t[index] * values + self.width[index] * noise
        posterior = self.engine.posterior(x, self.times[index], top_k=1)
        own = posterior.top_indices[:, 0] == self.engine.data.index_of(self.rows[part])
        found = (posterior.top_weights[:, 0], posterior.ess, posterior.entropy, posterior.variance, own.double())
        self.statistics[:, index, part] = torch.stack(found).cpu()

    def points(self) -> tuple[StagePoint, ...]:
        """Return the statistics of each time, over all queries."""
        at = self.at
        factors = (at.d_alpha_t - at.alpha_t * at.d_sigma_t / at.sigma_t).square() / self.engine.data.dim
        parts = zip(self.times, factors.tolist(), self.statistics.unbind(1), strict=True)
        return tuple(_point(t, factor, statistics) for t, factor, statistics in parts)

    def by_lateness(self, count: int) -> Int64[Tensor, "K"]:
        """Return the rows of `count` queries, from those whose posterior narrows early to those where it does late.

        The queries are divided into `count` parts by their mean entropy; each gives the picture with the most contrast,
        or its middle query where samples are no pictures.
        """
        parts = self.statistics[2].mean(0).argsort(stable=True).tensor_split(count)
        chosen = [part[len(part) // 2] for part in parts]
        if is_picture(self.engine.data.sample_shape):
            contrast = self._contrast()
            chosen = [part[contrast[part].argmax()] for part in parts]
        return self.rows[torch.stack(chosen).to(self.rows.device)]

    def _contrast(self) -> Float64[Tensor, "Q"]:
        data = self.engine.data
        blocks = self.rows.split(max(1, BATCH_VALUES // data.dim))
        return torch.cat([data.sample_values(part).double().flatten(1).var(1).cpu() for part in blocks])


@dataclass(frozen=True)
class _Follower:
    """Follows queries made of the samples in `rows` along t."""

    engine: OracleEngine
    rows: Int64[Tensor, "K"]
    seed: int

    def strip(self, times: tuple[float, ...]) -> Strip:
        """Return the queries at these times, with their denoisers, for pictures."""
        data = self.engine.data
        values = data.sample_values(self.rows).double()
        t = torch.tensor(times, dtype=torch.float64, device=self.rows.device).repeat(len(self.rows))
        noisy = self._noisy(values, t)
        pair = (noisy, self.engine.denoiser(noisy, t))
        noisy, denoised = (part.float().cpu().unflatten(0, (len(self.rows), len(times))) for part in pair)
        return Strip(
            times=times,
            sources=tuple(data.index_of(self.rows).tolist()),
            noisy=noisy,
            denoised=denoised,
            samples=values.float().cpu(),
            context=self._context(),
        )

    def _noisy(self, values: Float64[Tensor, "K ..."], t: Float64[Tensor, "B"]) -> Float64[Tensor, "B ..."]:
        count, axes = len(t) // len(values), [1] * (values.ndim - 1)
        noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(self.seed), dtype=torch.float64)
        at = coefficients(self.engine.path, t)
        alpha, width = (part.reshape(-1, *axes) for part in (at.alpha_t, _width(self.engine, at)))
        noisy = alpha * values.repeat_interleave(count, 0)
        return noisy + width * noise.to(values.device).repeat_interleave(count, 0)

    def _context(self) -> Tensor:
        data = self.engine.data
        count = min(len(data), CONTEXT_SAMPLES, max(16, CONTEXT_VALUES // data.dim))
        return data.sample_values(draw_rows(data, count, self.seed)).float().cpu()


def _point(t: float, factor: float, statistics: Float64[Tensor, "5 Q"]) -> StagePoint:
    top, ess, entropy, variance, own = statistics
    return StagePoint(
        t=t,
        top_weight=float(top.mean()),
        top_weight_quantiles=_quantiles(top),
        ess_quantiles=_quantiles(ess),
        entropy=float(entropy.quantile(0.5)),
        velocity_variance=float(factor * variance.mean()),
        own_share=float(own.mean()),
    )


def _default_times(engine: OracleEngine, predicted: Predictor) -> list[float]:
    last = 0.99 if engine.t_max is None else min(0.99, engine.t_max)
    return time_grid(predicted.anisotropic, last=last)


def _strip_times(engine: OracleEngine, points: Sequence[StagePoint], count: int) -> tuple[float, ...]:
    """Return about `count` times by how far the posterior has narrowed, with closer steps at first."""
    times, entropy = [point.t for point in points], max(prior_entropy(engine.data), 1e-300)
    narrowed = [point.top_weight - point.entropy / entropy for point in points]
    steps = torch.linspace(0.0, 1.0, count)[1:].pow(1.5)
    # the last step is taken at 99 %: the end is approached on a plateau
    levels = narrowed[0] + (max(narrowed) - narrowed[0]) * steps.clamp_max(0.99)
    found = (crossing(times, narrowed, level) for level in levels.tolist())
    return tuple(sorted({times[0], *(round(t, 3) for t in found if t is not None)}))


def _width(engine: OracleEngine, at: Coefficients) -> Float64[Tensor, "B"]:
    return marginal_variance(at, engine.point_std).sqrt()


def _counted(name: str, count: int) -> int:
    if count < 1:
        raise invalid(name, "must be at least 1", count, "leave it out for the default")
    return count


def _checked_times(engine: OracleEngine, times: Sequence[float]) -> list[float]:
    grid = sorted({float(t) for t in times})
    last = 1.0 if engine.t_max is None else engine.t_max
    if not grid or not all(0.0 <= t <= last for t in grid):
        raise invalid("times", f"must be one or more numbers in [0, {last:g}]", grid, "pass times such as 0.05 0.1 0.2")
    at = coefficients(engine.path, torch.tensor(grid, dtype=torch.float64))
    if not bool((at.sigma_t > 0).all()):
        bad = grid[int((at.sigma_t <= 0).nonzero()[0])]
        raise invalid("times", "must leave some noise: sigma(t) > 0", f"t = {bad}", "stop before the end, at 0.99")
    return grid


def _quantiles(values: Float64[Tensor, "Q"]) -> tuple[float, ...]:
    return tuple(values.quantile(values.new_tensor(QUANTILES)).tolist())


def _origin(engine: OracleEngine) -> dict[str, Any]:
    """Return the fields of a report that say what it was computed from."""
    versions = {"oracle-velocity-engine": __version__, "torch": torch.__version__, "python": platform.python_version()}
    device = str(engine.data.device)
    return {"data": _described(engine.data), "path": repr(engine.path), "device": device, "versions": versions}


def _described(data: OracleDataset) -> dict[str, Any]:
    return {
        "name": data.name,
        "description": repr(data),
        "samples": len(data),
        "dim": data.dim,
        "sample_shape": list(data.sample_shape),
        "storage": str(data.storage).removeprefix("torch."),
        **data.value_facts(),
        "fingerprint": data.fingerprint,
    }
