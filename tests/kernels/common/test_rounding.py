"""What rounding does to logits stays below the law that decides what is scored again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from closed_form import normal
from row_cases import EVERYTHING, assert_state_parity, make_query
from tolerances import assert_within
from torch import Tensor

from oracle_engine import load_dataset
from oracle_engine.kernels import (
    PosteriorState,
    Query,
    Rows,
    Span,
    native_state,
    posterior_state,
    prepare_rows,
    reference_logits,
)
from oracle_engine.kernels.common.accumulate import dropped_constant
from oracle_engine.kernels.common.matmul import ieee_products
from oracle_engine.kernels.common.rounding import WORST_CASE, logit_error, product_size
from oracle_engine.kernels.common.work import Work
from oracle_engine.kernels.portable.blocks import BlockLogits

TIMES = (0.02, 0.1, 0.3, 0.5, 0.8, 0.99)

# samples with less than e^-20 of the posterior may err by more
MATTERS = 20.0


def coarse_truth(rows: Rows, query: Query) -> Tensor:
    """Coarse logits in float64: without what all samples of a query share."""
    return reference_logits(rows, query, Span(0, len(rows))) + dropped_constant(rows, query)[:, None]


def moved(rows: Rows, query: Query, by: float) -> Query:
    """The same queries with samples added to them: far off the path, and not as noise would be."""
    point = query.point + by * (rows.gather(torch.arange(len(query))) - rows.centre)
    return Query(point, query.alpha, query.inverse_variance, query.excluded)


@pytest.mark.parametrize("off", [0.0, 5.0])
@pytest.mark.parametrize("offset", [0.0, 1.5])
def test_products_are_no_larger_than_the_partition_says(off: float, offset: float, generator: torch.Generator) -> None:
    rows = prepare_rows((normal(200, 90, generator) + offset).float(), None)
    query = moved(rows, make_query(rows, generator, times=TIMES), off)
    logits = coarse_truth(rows, query)
    partition = logits.logsumexp(1)
    products = query.gain[:, None] * (query.point @ rows.stored.double().T)
    largest = torch.where(logits > partition[:, None] - MATTERS, products.abs(), 0.0).amax(1)
    size = product_size(rows, query, partition)
    assert (largest <= size + MATTERS).all()
    assert (size <= product_size(rows, query) * (1.0 + 1e-12)).all()


@pytest.mark.parametrize("batch", [1, 4, 24])
@pytest.mark.parametrize("data", ["patches", "digits", "noise"])
def test_errors_of_logits_stay_below_their_law(data: str, batch: int, generator: torch.Generator) -> None:
    if data == "noise":
        values = normal(300, 1200, generator).float() + 0.5
    else:
        samples = load_dataset("patches", count=400) if data == "patches" else load_dataset(data)
        values = samples[torch.arange(400)].flatten(1)
    rows = prepare_rows(values, None)
    for t in TIMES:
        query = make_query(rows, generator, batch, (t,))
        scores = BlockLogits(Work(rows, query, Span(0, len(rows))), torch.float32)
        with ieee_products("cpu"):
            found = torch.cat([scores.of(block).double() for block in scores.blocks()], dim=1)
        true = coarse_truth(rows, query)
        partition = true.logsumexp(1)
        error = torch.where(true > partition[:, None] - MATTERS, found - true, torch.nan)
        relative = error / logit_error(rows, query, torch.float32, partition)[:, None]
        assert_within(relative.square().nanmean().sqrt(), "rounding law")
        assert float(relative.abs().nan_to_num().max()) < WORST_CASE


@pytest.mark.parametrize("state", [native_state, posterior_state])
@pytest.mark.parametrize("dim", [40, 256])
@pytest.mark.parametrize("far", [1e2, 1e3, 1e4, 1e5])
def test_samples_that_differ_only_across_the_way_to_a_far_query(
    generator: torch.Generator, state: Callable[[Work], PosteriorState], dim: int, far: float
) -> None:
    # products are sums of large terms of either sign, and next to nothing themselves
    way = normal(1, dim, generator)[0]
    way /= way.norm()
    points = normal(50, dim, generator)
    rows = prepare_rows((points - (points @ way)[:, None] * way).float(), None)
    ones = torch.ones(8, dtype=torch.float64)
    point = far * dim**0.5 * way + 0.3 * normal(8, dim, generator)
    query = Query(point, ones, 12.0 / dim * ones, torch.zeros(8, 0, 2, dtype=torch.int64))
    work = Work(rows, query, Span(0, len(rows)), EVERYTHING)
    assert_state_parity(state(work), work)
