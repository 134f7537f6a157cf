"""Queries come to the coordinates of the rows in one launch as they do in torch."""

from __future__ import annotations

import pytest
import torch
from tolerances import assert_close

from oracle_engine.kernels.common.rows import GivenPoints, ValueQuery
from oracle_engine.kernels.gpu.operands.moved_query import make_ready, taken


@pytest.mark.parametrize("scale", [1.0, 2 / 255])
def test_points_and_variances_are_those_of_torch(scale: float, generator: torch.Generator) -> None:
    x = torch.randn(5, 70, generator=generator, dtype=torch.float64)
    alpha, variance = torch.rand(2, 5, generator=generator, dtype=torch.float64).unbind(0)
    base, ranges = torch.randn(70, generator=generator, dtype=torch.float64), torch.zeros(5, 1, 2, dtype=torch.int64)
    true, made = (ValueQuery(GivenPoints(x, scale, -1.0), alpha, variance, ranges, base) for _ in range(2))
    make_ready(made)
    assert {"point", "inverse_variance"} <= vars(made).keys()
    which = torch.tensor([3, 0, 3, 4])
    for found, own in ((made, true), (taken(true, which), true.take(which))):
        assert_close(found.point, own.point, "float64", 1 / scale)
        assert_close(found.inverse_variance, own.inverse_variance, "float64")
        assert torch.equal(found.alpha, own.alpha)
        assert found.given is not None
        assert torch.equal(found.given.x, own.given.x)
    assert taken(true, which).excluded.shape == (4, 0, 2)
