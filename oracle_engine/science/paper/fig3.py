"""Figure 3: the top-1 weight of independent Gaussians along t, for several D and N; exact, or as it was published."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ...base.arrays import Float, Float64, Tensor
from ...base.errors import invalid
from ...base.seeds import seeded
from ...data.dataset import OracleDataset
from ...engine.engine import OracleEngine
from .result import Cell, Curve, Panel, PaperResult, check_count

CURVE_TIMES = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1, 0.12)
DIMS, COUNTS = (512, 1024, 2048, 4096), (350, 700, 1400, 2800)
DIM, COUNT = 2048, 1400

FIG3_NOTE = (
    "Published: for N = 1400, D = 2048 the curve passes .061 / .166 / .392 at t = .03 / .05 / .07. Exact arithmetic "
    "gives another curve. Rounding the log-weights to bfloat16 before they are normalised (--as-published) gives the "
    "printed one within .03: at |x - alpha X|^2 / 2 sigma^2 near D / 2 = 1024 a step of bfloat16 is 4 to 8 nats."
)


def fig3(
    *,
    dims: Sequence[int] = DIMS,
    counts: Sequence[int] = COUNTS,
    times: Sequence[float] = CURVE_TIMES,
    queries: int = 256,
    seed: int = 0,
    as_published: bool = False,
) -> PaperResult:
    """Return the mean top-1 weight of training queries of i.i.d. unit Gaussians along t, rectified flow.

    dims: D of the curves with N = 1400. counts: N of the curves with D = 2048. times: in (0, 1). queries: at each.
    seed: of the draws. as_published: round log-weights to bfloat16.
    Costs a pass over each set for every time.
    """
    check_count("queries", queries, 1)
    if not all(0.0 < t < 1.0 for t in times):
        raise invalid("times", "must lie strictly between 0 and 1", list(times), "pass times such as 0.02, 0.05")
    curves: dict[tuple[int, int], Curve] = {}
    for count, dim in [*((COUNT, dim) for dim in dims), *((count, DIM) for count in counts)]:
        if (count, dim) not in curves:
            curves[count, dim] = top_weights(count, dim, times, queries=queries, seed=seed, as_published=as_published)
    left = tuple(_named(curves[COUNT, dim], f"D = {dim:,}") for dim in dims)
    right = tuple(_named(curves[count, DIM], f"N = {count:,}") for count in counts)
    kind = "log-weights rounded to bfloat16, as published" if as_published else "exact"
    return PaperResult(
        name="fig3",
        title=f"Independent Gaussians: {kind}",
        facts={"data": "i.i.d. unit Gaussians", "path": "RectifiedFlow", "queries": queries, "weights": kind},
        columns=("N", "D", "t", "top-1 weight", "+-"),
        rows=tuple(row for size, curve in curves.items() for row in _rows(size, curve)),
        note=FIG3_NOTE,
        panels=(
            Panel(f"N = {COUNT:,}", "t (0 noise, 1 data)", "mean top-1 weight", left, share=True),
            Panel(f"D = {DIM:,}", "t (0 noise, 1 data)", "mean top-1 weight", right, share=True),
        ),
    )


def top_weights(
    count: int, dim: int, times: Sequence[float], *, queries: int, seed: int, as_published: bool = False
) -> Curve:
    """Return the curve of `count` samples of `dim` values: the mean top-1 weight at each time, with its error."""
    draws = seeded(seed)
    points = torch.randn(count, dim, generator=draws)
    source = torch.arange(queries) % count
    noise = torch.randn(queries, dim, generator=draws)
    engine = OracleEngine(OracleDataset(points, name="gaussians"))
    means, errors = [], []
    for t in times:
        x = t * points[source] + (1.0 - t) * noise
        top = rounded_top_weight(points, x, t) if as_published else engine.posterior(x, t, top_k=1).top_weights[:, 0]
        means.append(float(top.mean()))
        errors.append(float(top.std()) / math.sqrt(queries))
    return Curve("", tuple(times), tuple(means), tuple(errors))


def rounded_top_weight(points: Float[Tensor, "N D"], x: Float[Tensor, "B D"], t: float) -> Float64[Tensor, "B"]:
    """Return the largest weight of each query when log-weights are rounded to bfloat16 before the softmax.

    points: the samples. x: the queries, at the time `t` of rectified flow. The log-weights are
    -|x - t X_j|^2 / 2 (1 - t)^2, in float32 until they are rounded; the softmax is taken in float32.
    """
    scaled = t * points
    squares = x.square().sum(1)[:, None] - 2.0 * x @ scaled.T + scaled.square().sum(1)
    rounded = (-squares / (2.0 * (1.0 - t) ** 2)).bfloat16()
    return rounded.float().softmax(1).amax(1).double()


def _rows(size: tuple[int, int], curve: Curve) -> list[tuple[Cell, ...]]:
    """Return a row of the table for each time of the curve of (N, D)."""
    errors = curve.errors or (None,) * len(curve.x)
    return [(*size, *row) for row in zip(curve.x, curve.y, errors, strict=True)]


def _named(curve: Curve, name: str) -> Curve:
    """Return the curve under another name."""
    return Curve(name, curve.x, curve.y, curve.errors)
