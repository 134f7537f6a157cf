"""Where there are matrix units, rows of more than 8 bits are multiplied in planes of digits, as fine as float32 is."""

from __future__ import annotations

import pytest
import torch
from closed_form import FAMILIES, normal, stored_as
from row_cases import EVERYTHING, MEAN_ONLY, make_query, native_scan, whole

from oracle_engine.base.arrays import Tensor
from oracle_engine.kernels import Query, Rows, Span, Wanted, Work, native_library, prepare_rows
from oracle_engine.kernels.native.scan import NATIVE_LIMITS, NativeLimits

pytestmark = pytest.mark.skipif(native_library().library is None, reason=native_library().reason)

# the only library that has them
PLANES = "amx"

DTYPES = (torch.float16, torch.bfloat16, torch.float32)

EARLY = (0.001, 0.01)

ALONE = NativeLimits(block_rows=24, whole_rows=60, threads=1)


def weighed_share(
    rows: Rows, query: Query, span: Span | None = None, wanted: Wanted = MEAN_ONLY, limits: NativeLimits = ALONE
) -> float:
    """Compare the scan with the reference; return the share of the pairs whose weights were digits."""
    work = Work(rows, query, span or whole(rows), wanted)
    scan, _ = native_scan(work, limits)
    return float(scan.asked.weighed) / (len(work.span) * len(query))


@pytest.mark.parametrize("batch", [33, 64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_parity_where_most_rows_have_weight(
    generator: torch.Generator, target: str, dtype: torch.dtype, batch: int
) -> None:
    for dim in (128, 133, 784):
        rows = prepare_rows(stored_as(normal(2000, dim, generator), dtype), None)
        query = make_query(rows, generator, batch, EARLY)
        share = weighed_share(rows, query)
        weighed_share(rows, query, Span(5, 1391), EVERYTHING, NATIVE_LIMITS)
        assert share > 0.5 if target == PLANES else share == 0.0


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_parity_of_mixed_times_with_weights_and_excluded_ranges(generator: torch.Generator, name: str) -> None:
    weights = torch.rand(2000, generator=generator, dtype=torch.float64)
    weights[1:][torch.rand(1999, generator=generator) < 1 / 3] = 0.0
    rows = prepare_rows(stored_as(FAMILIES[name](2000, 132, generator), torch.float32), weights)
    query = make_query(rows, generator, 48, (*EARLY, 0.1, 0.3, 0.9), excluded=2)
    weighed_share(rows, query, wanted=EVERYTHING)


def spread(count: int, dim: int, large: int, generator: torch.Generator) -> Tensor:
    """Return rows of which some coordinates are a thousand times larger than the others."""
    points = 1e-3 * torch.randn(count, dim, generator=generator, dtype=torch.float64)
    places = torch.rand(count, dim, generator=generator).argsort(1)[:, :large]
    return points.scatter(1, places, torch.randn(count, large, generator=generator, dtype=torch.float64).sign())


@pytest.mark.parametrize("large", [1, 2, 8, 64])
def test_parity_where_few_coordinates_are_large(generator: torch.Generator, target: str, large: int) -> None:
    rows = prepare_rows(spread(2000, 256, large, generator).float(), None)
    share = weighed_share(rows, make_query(rows, generator, 40, EARLY))
    weighed_share(rows, make_query(rows, generator, 40, (0.1, 0.3, 0.5)), wanted=EVERYTHING)
    if large <= 2:
        # too few digits are left for the others: such rows are multiplied as they are
        assert share == 0.0
    if large == 64 and target == PLANES:
        assert share > 0.3


def test_rows_at_the_centre_count_as_nothing(generator: torch.Generator) -> None:
    points = normal(1200, 128, generator)
    points[::3] = 0.0
    points[7::3] = points[7]
    rows = prepare_rows(torch.cat([points, -points]).float(), None)
    weighed_share(rows, make_query(rows, generator, 40, (*EARLY, 0.5)), wanted=EVERYTHING)
    zero = prepare_rows(torch.zeros(1200, 128), None)
    weighed_share(zero, make_query(zero, generator, 40, EARLY), wanted=EVERYTHING)


@pytest.mark.parametrize("scale", [1e-36, 1e-33, 1e-30, 1e18])
def test_rows_of_any_size_have_the_posterior_of_their_size(generator: torch.Generator, scale: float) -> None:
    # the finest unit of a very small row is beyond what single precision can count
    rows = prepare_rows((scale * normal(1200, 128, generator)).float(), None)
    query = make_query(prepare_rows(normal(1200, 128, generator).float(), None), generator, 40, (*EARLY, 0.5))
    ones = torch.ones_like(query.alpha)
    near = Query(scale * query.point, query.alpha, ones, query.excluded)
    weighed_share(rows, near, wanted=EVERYTHING)
