"""How near the samples of a data set lie to one another, beside independent draws."""

from __future__ import annotations

import math

import torch

from ...base.arrays import Float64, Int64, Tensor
from ...engine.engine import OracleEngine
from ...samplers.fields import path_at
from .scope import StageQueries

# samples whose nearest other sample is searched, at most
SEARCHED = 64
# late, where the heaviest sample is told apart with all digits
NEAREST_TIME = 0.9


def neighbour_ratio(engine: OracleEngine, queries: StageQueries) -> float | None:
    """Return the median distance to the nearest other sample, relative to that of two independent draws.

    engine: over the data. queries: of whose samples at most 64 are searched, within what they are compared with.

    The unit is sqrt(2 D v), with v the variance per dimension: about 1 for draws of a wide distribution in many
    dimensions, far below for overlapping pictures and near copies. None where there is no other sample, or no spread.
    Costs one scan for the samples searched.
    """
    part = slice(0, min(SEARCHED, len(queries)))
    unit = math.sqrt(2.0 * engine.data.dim * engine.data.variance_per_dim)
    least = min(queries.scope.sizes())
    if not unit > 0.0 or least < 2:
        return None
    distance = nearest_distance(engine, queries, part)
    return float(distance.median() / unit)


def nearest_distance(engine: OracleEngine, queries: StageQueries, part: slice) -> Float64[Tensor, "b"]:
    """Return the Euclidean distances of the samples in `part` to the nearest other sample that they are compared with.

    engine: over the data. queries: made of samples of the data, which do not count, or of others.
    """
    values, data = queries.values(part), engine.data
    exclude = None if queries.rows is None else data.index_of(queries.rows[part])
    t = NEAREST_TIME if engine.t_max is None else min(NEAREST_TIME, engine.t_max)
    alpha = path_at(engine.path, t)[0]
    # of alpha X the sample nearest to X is the heaviest
    posterior = engine.posterior(alpha * values, t, labels=queries.labels(part), exclude=exclude, top_k=1)
    nearest = _rows(engine, posterior.top_indices[:, 0])
    return (values - nearest).reshape(len(values), -1).square().sum(1).sqrt()


def _rows(engine: OracleEngine, index: Int64[Tensor, "b"]) -> Float64[Tensor, "b ..."]:
    return engine.data.sample_values(engine.data.row_of(index)).to(torch.float64)
