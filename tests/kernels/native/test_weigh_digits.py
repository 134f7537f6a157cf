"""Early in time weights of 8-bit rows are digits, whose sums are exact, where that is too fine to show in a mean."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from closed_form import FAMILIES, normal, stored_as
from row_cases import EVERYTHING, MEAN_ONLY, make_query, native_scan, whole
from tolerances import assert_rows_close

from oracle_engine.kernels import PosteriorState, Query, Rows, Span, Wanted, Work, native_library, prepare_rows
from oracle_engine.kernels.native.scan import NATIVE_LIMITS, NativeLimits

pytestmark = pytest.mark.skipif(native_library().library is None, reason=native_library().reason)

# sums whose weights are digits begin where enough was summed before
ALONE = NativeLimits(block_rows=48, threads=1)

EARLY = (0.001, 0.01)

# libraries whose products of bytes are summed to 32 bits
BYTE_PRODUCTS = ("v4", "amx")


def scanned(work: Work, limits: NativeLimits = ALONE) -> tuple[PosteriorState, float]:
    """Compare the scan with the reference; return its states, and the share of the pairs whose weights were digits."""
    scan, state = native_scan(work, limits)
    return state, float(scan.asked.weighed) / (len(work.span) * len(work.query))


def weighed_share(rows: Rows, query: Query, span: Span, wanted: Wanted, limits: NativeLimits = ALONE) -> float:
    """Return the share of the pairs whose weights were digits, of a scan that gives what the reference does."""
    return scanned(Work(rows, query, span, wanted), limits)[1]


@pytest.mark.parametrize("batch", [7, 40])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_parity_where_most_rows_have_weight(
    generator: torch.Generator, target: str, dtype: torch.dtype, batch: int
) -> None:
    for dim in (128, 180, 784):
        rows = prepare_rows(stored_as(normal(3000, dim, generator), dtype), None)
        query = make_query(rows, generator, batch, EARLY)
        share = weighed_share(rows, query, whole(rows), MEAN_ONLY)
        weighed_share(rows, query, Span(5, 2391), EVERYTHING, NATIVE_LIMITS)
        assert share > 0.5 if target in BYTE_PRODUCTS else share == 0.0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_parity_of_short_rows(generator: torch.Generator, target: str, dtype: torch.dtype) -> None:
    # a matrix unit multiplies as many values at once as these rows have
    for dim in (64, 70, 127):
        rows = prepare_rows(stored_as(normal(2000, dim, generator), dtype), None)
        share = weighed_share(rows, make_query(rows, generator, 24, EARLY), whole(rows), MEAN_ONLY)
        weighed_share(
            rows, make_query(rows, generator, 24, (*EARLY, 0.3, 0.9)), Span(5, 1391), EVERYTHING, NATIVE_LIMITS
        )
        assert share > 0.5 if target == "amx" else share == 0.0


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_parity_of_mixed_times_with_weights_and_excluded_ranges(generator: torch.Generator, name: str) -> None:
    weights = torch.rand(2000, generator=generator, dtype=torch.float64)
    weights[1:][torch.rand(1999, generator=generator) < 1 / 3] = 0.0
    rows = prepare_rows(stored_as(FAMILIES[name](2000, 132, generator), torch.uint8), weights)
    weighed_share(rows, make_query(rows, generator, 24, (*EARLY, 0.3, 0.9), excluded=2), whole(rows), EVERYTHING)


def test_a_few_heavy_rows_are_weighed_as_they_are(generator: torch.Generator) -> None:
    rows = prepare_rows(stored_as(normal(2000, 132, generator), torch.uint8), None)
    assert weighed_share(rows, make_query(rows, generator, 24, (0.9, 0.99)), whole(rows), MEAN_ONLY) == 0.0


@pytest.mark.parametrize("half", [3, 30, 300])
def test_rows_of_equal_weight_do_not_err_alike(target: str, half: int) -> None:
    # all rows of one of two samples lie midway between two numbers of the last digit: rounded to the same side, they
    # would move the mean by half of it, however many they are
    dim, count = 128, 3000
    one, other = torch.full((dim,), 120, dtype=torch.uint8), torch.full((dim,), 136, dtype=torch.uint8)
    stored = torch.stack([one, other])[torch.arange(count) % 2]
    rows = prepare_rows(stored, None)
    ratio = Fraction(2 * half + 1, 2 * 32639)
    # on the line between the samples the gap of the logits is linear in the place
    precision = 1e-3
    gap, apart = -math.log(ratio), float(dim * 16**2)
    place = 0.5 - gap / (precision * apart)
    point = (one.double() + place * 16.0 - rows.centre).expand(16, dim)
    ones = torch.ones(16, dtype=torch.float64)
    work = Work(rows, Query(point, ones, precision * ones, torch.zeros(16, 0, 2, dtype=torch.int64)), whole(rows))
    state, weighed = scanned(work)
    assert weighed > 0.5 if target in BYTE_PRODUCTS else weighed == 0.0
    share = float(ratio) / (1.0 + float(ratio))
    expected = one.double() + share * 16.0 - rows.centre
    assert_rows_close(state.mean, expected.expand(16, dim), "mean", rows.radius)
