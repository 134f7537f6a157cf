"""Directions along which posterior means are differentiated, and a comparison of their products."""

from __future__ import annotations

from collections.abc import Callable

import torch
from closed_form import normal
from tolerances import assert_within

from oracle_engine.kernels import (
    Directions,
    Query,
    Rows,
    Span,
    Wanted,
    Work,
    prepare_rows,
    reference_covariance_product,
    reference_state,
)

Product = Callable[[Rows, Directions, Span], torch.Tensor]


def vectors_of(
    rows: Rows, query: Query, generator: torch.Generator, size: float = 1.0, *, curved: bool = False
) -> Directions:
    """Return a random vector for each query, whose posterior is over all rows; curved: and about as much curvature."""
    state = reference_state(Work(rows, query, Span(0, len(rows)), Wanted()))
    vector = size * normal(len(query), rows.dim, generator)
    curvature = size * normal(len(query), 1, generator)[:, 0] * rows.dim**0.5 / (1.0 + rows.radius) if curved else None
    return Directions(query, state.lse, state.mean, vector, curvature)


def assert_product(product: Product, rows: Rows, vectors: Directions, span: Span) -> None:
    """Compare the derivative times a vector with that in float64, relative to both terms that velocities have."""
    gain = vectors.query.gain[:, None]
    found = gain * product(rows, vectors, span)
    true = gain * reference_covariance_product(rows, vectors, span)
    assert_within((found - true).norm(dim=1) / (vectors.vector.norm(dim=1) + true.norm(dim=1)), "derivative")


def late_between_near_samples(dim: int, sigma: float, generator: torch.Generator) -> tuple[Rows, Query]:
    """Return 300 samples and a query between two of them that are as near to each other as its noise is large."""
    points = normal(300, dim, generator)
    points[1] = points[0] + sigma * normal(1, dim, generator)[0] / dim**0.5
    rows = prepare_rows(points, None)
    alpha = torch.tensor([1.0 - sigma], dtype=torch.float64)
    point = alpha * (rows.stored[:2].double() - rows.centre).mean(0, keepdim=True)
    precision, none = torch.tensor([sigma**-2], dtype=torch.float64), torch.empty(1, 0, 2).long()
    return rows, Query(point, alpha, precision, none)
