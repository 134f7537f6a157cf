"""How far the nearest other sample is at least: what late queries that know their own sample need to know."""

from __future__ import annotations

import math

import torch

from ..arrays import Float, Float64, Tensor
from .accuracy import UNIT_ROUNDOFF, WALK
from .matmul import ieee_products
from .probe import Source
from .rows import Query, Rows
from .screen import Progress, Screen

# products held at once: 16 MB
CHUNK_VALUES = 1 << 22


def nearest_distances(rows: Rows, screen: Screen, progress: Progress | None = None) -> Float[Tensor, "N"]:
    """Return a lower bound on the distance of every row to its nearest other row, [N] float32 in row units.

    Coordinates and block norms of a row form a vector whose distances are never larger than those of the rows: norms
    differ by no more than what they are norms of. Costs 2 N^2 w operations for the widest level, in 16 MB.
    """
    features = screen.features[-1][:, : screen.widths[-1] + 1]
    squares = features.square().sum(1)
    # both norms and their product are rounded
    error = WALK * UNIT_ROUNDOFF[torch.float32] * (math.sqrt(features.shape[1]) + 2.0) * 4.0 * rows.radius**2
    out = torch.empty_like(squares)
    step = max(1, CHUNK_VALUES // len(rows))
    with ieee_products(rows.device.type):
        for start in range(0, len(rows), step):
            part = features[start : start + step]
            distance = torch.addmm(squares, part, features.T, alpha=-2.0)
            own = torch.arange(len(part), device=rows.device)
            distance[own, own + start] = torch.inf
            nearest = distance.amin(1) + squares[start : start + step]
            out[start : start + step] = (nearest - error).clamp_min(0.0).sqrt()
            if progress is not None:
                progress(min(start + step, len(rows)), len(rows))
    return out


def source_log_omitted(rows: Rows, query: Query, source: Source, distances: Float[Tensor, "N"]) -> Float64[Tensor, "B"]:
    """Return the log of the weight of all rows but the source, relative to that of the source, at most, [B].

    x = alpha X_s + sigma eps with eps independent of the data, so with probability 1 - failure every other row at
    distance d has log w_i - log w_s - rho d^2 / 2 + d sqrt(rho) c, rho = alpha^2 / sigma^2, c^2 = 2 ln(N / failure): a
    Gaussian tail for each, and the union bound. The term falls in d beyond c / sqrt(rho); nothing is proved below.
    distances: from each row to the nearest other one, at least. Sources have to be known.
    """
    deviation = query.inverse_variance.rsqrt()
    tall = math.sqrt(2.0 * math.log(len(rows) / source.failure)) + source.blur / deviation
    scaled = distances[source.row].double() * query.alpha / deviation
    if rows.log_weights is None:
        others = torch.full_like(scaled, math.log(len(rows) - 1) if len(rows) > 1 else -math.inf)
    else:
        own = rows.log_weights[source.row]
        others = torch.log1p(-own.exp()) - own
    # d times the term must fall as well: it bounds the error of the mean
    falling = scaled * (scaled - tall) >= 1.0
    return torch.where(falling, others - 0.5 * scaled.square() + tall * scaled, torch.inf)
