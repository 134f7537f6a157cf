"""Prepared rows are the stored samples, with an exact centre, their norms and their variance."""

from __future__ import annotations

import pytest
import torch
from closed_form import far_from_zero, normal, stored_as
from row_cases import centred
from tolerances import assert_close

from oracle_engine.base.arrays import STORAGE_DTYPES
from oracle_engine.base.errors import InputError
from oracle_engine.kernels import prepare_rows, total_variance


@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
def test_prepared_rows_are_the_stored_ones_around_an_exact_centre(
    generator: torch.Generator, dtype: torch.dtype
) -> None:
    points = stored_as(far_from_zero(200, 7, generator) if dtype == torch.float32 else normal(200, 7, generator), dtype)
    rows = prepare_rows(points, None)
    assert rows.stored is points
    assert torch.equal(rows.centre, rows.centre.float().double() if dtype.is_floating_point else rows.centre.round())
    assert_close(2 * rows.half_norms, centred(rows).square().sum(1), "float64")
    assert_close(torch.tensor(rows.radius, dtype=torch.float64), centred(rows).norm(dim=1).max(), "float64")
    covariance = points.double().T.cov(correction=0)
    assert_close(torch.tensor(total_variance(rows), dtype=torch.float64), covariance.trace(), "float64")


def test_total_variance_follows_the_weights(generator: torch.Generator) -> None:
    points, weights = normal(50, 6, generator), torch.rand(50, generator=generator, dtype=torch.float64)
    expected = points.T.cov(aweights=weights, correction=0).trace()
    actual = torch.tensor(total_variance(prepare_rows(points, weights)), dtype=torch.float64)
    assert_close(actual, expected, "float64")


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_the_first_sample_that_is_not_finite_is_named(bad: float) -> None:
    points = torch.zeros(9, 4)
    points[6, 2], points[8, 0] = bad, torch.nan
    with pytest.raises(InputError, match="`points` must be finite; received a NaN or an infinity in sample 6"):
        prepare_rows(points, None)
