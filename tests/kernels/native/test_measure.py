"""What preparation knows of rows is the same from the native kernels and in torch, and takes one pass."""

from __future__ import annotations

import pytest
import torch
from closed_form import normal, stored_as
from tolerances import assert_close

from oracle_engine.base.arrays import STORAGE_DTYPES
from oracle_engine.kernels import native_prepared, prepare_rows, total_variance
from oracle_engine.kernels.common.copies import random_directions
from oracle_engine.kernels.common.prepare import centre_of, measured
from oracle_engine.kernels.native.measure import native_measured

pytestmark = pytest.mark.usefixtures("target")


@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
@pytest.mark.parametrize(("count", "dim"), [(1, 1), (2, 3), (37, 8), (50, 37), (33, 64)])
def test_every_storage_and_odd_shapes(generator: torch.Generator, dtype: torch.dtype, count: int, dim: int) -> None:
    stored = stored_as(normal(count, dim, generator) + 0.5, dtype)
    centre, directions = centre_of(stored), random_directions(dim, stored.device)
    ours, theirs = (measure(stored, centre, directions) for measure in (native_measured, measured))
    assert_close(ours.half_norms, theirs.half_norms, "float64")
    assert_close(ours.projected, theirs.projected, "float64")
    assert_close(ours.total, theirs.total, "float64", scale=float(stored.double().abs().sum()))
    assert ours.largest_square == pytest.approx(theirs.largest_square)
    assert (ours.low, ours.high) == (float(stored.min()), float(stored.max())) == (theirs.low, theirs.high)


def test_rows_that_are_a_part_of_others(generator: torch.Generator) -> None:
    whole = normal(40, 11, generator).float()
    part = whole[3:33:2, 2:9]
    ours, theirs = (prepare(part, None) for prepare in (native_prepared, prepare_rows))
    assert_close(ours.half_norms, theirs.half_norms, "float64")
    assert ours.stored_radius == pytest.approx(theirs.stored_radius)
    assert ours.copies == theirs.copies


@pytest.mark.usefixtures("two_threads")
def test_the_maximum_of_threads_changes_no_bit(generator: torch.Generator) -> None:
    stored = normal(500, 30, generator).float()
    together = native_prepared(stored, None)
    torch.set_num_threads(1)
    alone = native_prepared(stored, None)
    assert torch.equal(together.half_norms, alone.half_norms)
    assert total_variance(together) == total_variance(alone)


def test_a_sample_that_is_not_finite_is_found(generator: torch.Generator) -> None:
    stored = normal(5000, 3, generator).float()
    stored[4321, 1] = torch.nan
    with pytest.raises(ValueError, match="received a NaN or an infinity in sample 4321"):
        native_prepared(stored, None)
