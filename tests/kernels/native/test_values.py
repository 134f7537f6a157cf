"""Queries are taken in float64 as they are, and one number that is not finite is noticed wherever it stands."""

from __future__ import annotations

import pytest
import torch

from oracle_engine.kernels import float64_values


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 3, 4), (0, 7)])
def test_values_keep_their_numbers(generator: torch.Generator, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=generator).to(dtype)
    for given in (x, x.transpose(0, -1).contiguous().transpose(0, -1)):
        found, finite = float64_values(given, given[:1].numel() if len(given) else 7)
        assert torch.equal(found, x.double().reshape(len(x), -1 if len(x) else 7))
        assert finite in (True, None)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [0, 7, 8, 12])
def test_numbers_that_are_not_finite_are_noticed(wrong: float, place: int) -> None:
    x = torch.full((1, 13), 1e300, dtype=torch.float64)
    assert float64_values(x, 13)[1] is not False
    x[0, place] = wrong
    assert not float64_values(x, 13)[1]
