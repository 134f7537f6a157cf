"""The two stages of flow matching over a data set: early navigation among many samples, late refinement of one.

What "From Navigation to Refinement" (arXiv 2512.02826) looks at, computed from the exact posterior.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..base.arrays import Float64, Int64, Tensor
from ..base.errors import invalid
from ..base.progress import Progress
from ..base.settings import __version__
from ..data.dataset import OracleDataset
from ..engine.engine import OracleEngine
from ..paths.paths import Coefficients, coefficients, marginal_variance
from .pictures import is_picture
from .stage_report import QUANTILES, StagePoint, StageReport, Strip, measure_transition
from .transition import EARLIEST_TIME, crossing, draw_rows, predict_transition, prior_entropy, time_grid

QUERY_BATCH = 256
BATCH_VALUES = 1 << 24
STRIP_TIMES = 8
CONTEXT_SAMPLES = 512
CONTEXT_VALUES = 1 << 22


def analyse(
    engine: OracleEngine,
    times: Sequence[float] | None = None,
    queries: int = 256,
    seed: int = 0,
    progress: Progress | None = None,
    strip: int = 6,
) -> StageReport:
    """Return the two stages along t, over training queries x_t = alpha X_s + sigma eps.

    times: in [0, 1] where sigma > 0; None takes about 24, denser around the predicted transition.
    queries: how many. Their sources are stratified over the samples (by weight), and every time uses the same sources
        and the same noise. seed: of both.
    progress: called with (steps done, all steps) after each.
    strip: how many queries to follow for pictures, at about 8 times between which the posterior narrows evenly.
    Raises InputError for times that cannot be used and counts below 1.
    Costs one posterior for each query and time; memory is that of a batch of at most 256 queries.
    """
    began, data = time.perf_counter(), engine.data
    queries, strip = _counted("queries", queries), min(_counted("strip", strip), queries)
    grid = None if times is None else _checked_times(engine, times)
    if grid is None and engine.t_max is not None and engine.t_max <= EARLIEST_TIME:
        raise invalid("times", f"must be given where t_max is at most {EARLIEST_TIME}", None, "pass times=[t_max]")
    predicted = predict_transition(data, engine.path, engine.point_std, seed)
    grid = grid or time_grid(predicted.anisotropic, last=0.99 if engine.t_max is None else min(0.99, engine.t_max))
    run = _Run(engine, grid, draw_rows(data, queries, seed), seed)
    for done, total in run.steps():
        if progress is not None:
            progress(done, total)
    points = run.points()
    followed = _strip(engine, points, run.by_lateness(strip), seed)
    return StageReport(
        data=_described(data),
        path=repr(engine.path),
        queries=queries,
        seed=seed,
        device=str(data.device),
        versions={
            "oracle-velocity-engine": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        elapsed=time.perf_counter() - began,
        points=points,
        measured=measure_transition(points),
        predicted=predicted,
        strip=followed,
    )


class _Run:
    """Batches of queries at every time, and what they showed."""

    def __init__(self, engine: OracleEngine, times: Sequence[float], rows: Int64[Tensor, "Q"], seed: int) -> None:
        self.engine, self.times, self.rows = engine, list(times), rows
        self.noise = torch.Generator().manual_seed(seed)
        self.at = coefficients(engine.path, torch.tensor(self.times, dtype=torch.float64, device=rows.device))
        self.width = _width(engine, self.at)
        # top-1 weight, ESS, entropy, tr Cov, own sample heaviest
        self.seen = torch.empty(5, len(self.times), len(rows), dtype=torch.float64)

    def steps(self) -> Iterator[tuple[int, int]]:
        """Look at every batch of samples at every time; yield how many looks are done, and how many there are."""
        size = max(1, min(QUERY_BATCH, BATCH_VALUES // self.engine.data.dim))
        starts = range(0, len(self.rows), size)
        yield 0, len(starts) * len(self.times)
        for batch, start in enumerate(starts):
            part = slice(start, start + size)
            values = self.engine.data.sample_values(self.rows[part]).double()
            noise = torch.randn(values.shape, generator=self.noise, dtype=torch.float64).to(values.device)
            for index in range(len(self.times)):
                self._look(index, part, values, noise)
                yield batch * len(self.times) + index + 1, len(starts) * len(self.times)

    def _look(self, index: int, part: slice, values: Float64[Tensor, "b ..."], noise: Float64[Tensor, "b ..."]) -> None:
        x = self.at.alpha_t[index] * values + self.width[index] * noise
        posterior = self.engine.posterior(x, self.times[index], top_k=1)
        own = posterior.top_indices[:, 0] == self.engine.data.index_of(self.rows[part])
        seen = (posterior.top_weights[:, 0], posterior.ess, posterior.entropy, posterior.variance, own.double())
        self.seen[:, index, part] = torch.stack(seen).cpu()

    def points(self) -> tuple[StagePoint, ...]:
        """Return what was seen at each time, over all samples."""
        at = self.at
        factor = (at.d_alpha_t - at.alpha_t * at.d_sigma_t / at.sigma_t).square() / self.engine.data.dim
        return tuple(
            StagePoint(
                t=t,
                top_weight=float(top.mean()),
                top_weight_quantiles=_quantiles(top),
                ess_quantiles=_quantiles(ess),
                entropy=float(entropy.quantile(0.5)),
                velocity_variance=float(scale * variance.mean()),
                own_share=float(own.mean()),
            )
            for t, scale, (top, ess, entropy, variance, own) in zip(
                self.times, factor.tolist(), self.seen.unbind(1), strict=True
            )
        )

    def by_lateness(self, count: int) -> Int64[Tensor, "K"]:
        """Return the sources of `count` queries, from those that narrow early to those that narrow late.

        Of pictures it is, in each part of the queries, the one with the most contrast; else the middle one.
        """
        parts = self.seen[2].mean(0).argsort(stable=True).tensor_split(count)
        chosen = [part[len(part) // 2] for part in parts]
        if is_picture(self.engine.data.sample_shape):
            contrast = self._contrast()
            chosen = [part[contrast[part].argmax()] for part in parts]
        return self.rows[torch.stack(chosen).to(self.rows.device)]

    def _contrast(self) -> Float64[Tensor, "Q"]:
        data = self.engine.data
        blocks = self.rows.split(max(1, BATCH_VALUES // data.dim))
        return torch.cat([data.sample_values(part).double().flatten(1).var(1).cpu() for part in blocks])


def _strip(engine: OracleEngine, points: Sequence[StagePoint], rows: Int64[Tensor, "K"], seed: int) -> Strip:
    data, times = engine.data, _strip_times(points, prior_entropy(engine.data))
    values = data.sample_values(rows).double()
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    t = torch.tensor(times, dtype=torch.float64, device=rows.device).repeat(len(rows))
    at = coefficients(engine.path, t)
    alpha, width = (part.reshape(-1, *[1] * len(data.sample_shape)) for part in (at.alpha_t, _width(engine, at)))
    noisy = alpha * values.repeat_interleave(len(times), 0)
    noisy += width * noise.to(rows.device).repeat_interleave(len(times), 0)
    count = min(len(data), CONTEXT_SAMPLES, max(16, CONTEXT_VALUES // data.dim))
    noisy, denoised = (
        part.float().cpu().unflatten(0, (len(rows), len(times))) for part in (noisy, engine.denoiser(noisy, t))
    )
    return Strip(
        times=times,
        sources=tuple(data.index_of(rows).tolist()),
        noisy=noisy,
        denoised=denoised,
        samples=values.float().cpu(),
        context=data.sample_values(draw_rows(data, count, seed)).float().cpu(),
    )


def _strip_times(points: Sequence[StagePoint], entropy: float) -> tuple[float, ...]:
    """Return about 8 times by how far the posterior has narrowed, with closer steps at first."""
    times = [point.t for point in points]
    narrowed = [point.top_weight - point.entropy / max(entropy, 1e-300) for point in points]
    steps = torch.linspace(0.0, 1.0, STRIP_TIMES)[1:].pow(1.5)
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


def _described(data: OracleDataset) -> dict[str, Any]:
    return {
        "name": data.name,
        "description": repr(data),
        "samples": len(data),
        "dim": data.dim,
        "sample_shape": list(data.sample_shape),
        "storage": str(data.storage).removeprefix("torch."),
        "fingerprint": data.fingerprint,
    }
