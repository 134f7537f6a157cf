"""Pairs of float64 hold twice the digits, so logits between far samples are right where float64 alone is not."""

from __future__ import annotations

import mpmath
import pytest
import torch
from closed_form import generators, normal
from hypothesis import given
from hypothesis import strategies as st
from tolerances import assert_within

from oracle_engine.kernels import Query, prepare_rows
from oracle_engine.kernels.common.compensated import DoubleDouble as Pair
from oracle_engine.kernels.common.compensated import compensated_logits, total, two_product, two_sum

numbers = st.floats(-1e100, 1e100, allow_subnormal=False)


def exactly(pair: Pair) -> list[mpmath.mpf]:
    with mpmath.workprec(3000):
        highs, lows = pair.high.reshape(-1).tolist(), pair.low.reshape(-1).tolist()
        return [mpmath.mpf(high) + mpmath.mpf(low) for high, low in zip(highs, lows, strict=True)]


@given(numbers, numbers)
def test_sums_and_products_are_exact(first: float, second: float) -> None:
    a, b = (torch.tensor([value], dtype=torch.float64) for value in (first, second))
    with mpmath.workprec(3000):
        assert exactly(two_sum(a, b)) == [mpmath.mpf(first) + mpmath.mpf(second)]
        # below 1e-290 the low part of a product has no digits left
        if abs(first * second) > 1e-270 or 0.0 in (first, second):
            assert exactly(two_product(a, b)) == [mpmath.mpf(first) * mpmath.mpf(second)]


@given(generators(), st.integers(1, 40))
def test_sums_keep_twice_the_digits(generator: torch.Generator, count: int) -> None:
    # terms that cancel to a billionth of their size
    terms = normal(3, count, generator) * 10.0 ** torch.randint(0, 9, (3, count), generator=generator)
    terms[:, -1] -= terms.sum(1)
    found = total(Pair(terms, torch.zeros_like(terms)))
    with mpmath.workprec(400):
        for value, row in zip(exactly(found), terms.tolist(), strict=True):
            true = sum((mpmath.mpf(term) for term in row), mpmath.mpf(0))
            assert abs(value - true) <= mpmath.mpf(2) ** -95 * max(abs(term) for term in row)


@pytest.mark.parametrize("sigma", [1e-2, 1e-4, 1e-6])
def test_gaps_between_far_samples_are_those_of_exact_arithmetic(generator: torch.Generator, sigma: float) -> None:
    rows = prepare_rows(normal(2, 50, generator), None)
    alpha = torch.tensor([1.0 - sigma], dtype=torch.float64)
    point = alpha[:, None] * (rows.stored - rows.centre).mean(0)
    query = Query(point, alpha, torch.tensor([sigma**-2], dtype=torch.float64), torch.empty(1, 0, 2).long())
    both, same = torch.arange(2), torch.zeros(2, dtype=torch.int64)
    found = exactly(compensated_logits(rows, query, which=same, row=both, samples=rows.stored))
    with mpmath.workprec(400):
        centred = [
            [mpmath.mpf(v) - mpmath.mpf(c) for v, c in zip(r, rows.centre.tolist(), strict=True)]
            for r in rows.stored.tolist()
        ]
        true = []
        for row in centred:
            pairs = zip(point[0].tolist(), row, strict=True)
            square = sum(((mpmath.mpf(x) - mpmath.mpf(float(alpha)) * r) ** 2 for x, r in pairs), mpmath.mpf(0))
            true.append(-square * mpmath.mpf(float(query.inverse_variance)) / 2)
        gap, expected = found[1] - found[0], true[1] - true[0]
    assert_within(torch.tensor([float(abs(gap - expected))], dtype=torch.float64), "float64")
