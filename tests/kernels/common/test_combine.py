"""Norms of answers and of posterior means are those of the answers and of the means, in C++ and in torch."""

from __future__ import annotations

import pytest
import torch
from closed_form import normal
from tolerances import assert_close

from oracle_engine.kernels import Combination, combined, combined_norms


@pytest.mark.parametrize("library", ["auto", "off"])
@pytest.mark.parametrize(("batch", "dim"), [(1, 1), (3, 7), (5, 64), (2, 1001), (0, 5)])
def test_norms_are_those_of_the_answers(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, library: str, batch: int, dim: int
) -> None:
    if library == "off":
        monkeypatch.setenv("ORACLE_NATIVE", library)
    x, mean, base = normal(batch, dim, generator), normal(batch, dim, generator), normal(1, dim, generator)[0]
    alpha, direct, gap = (normal(1, batch, generator)[0] for _ in range(3))
    combination = Combination(x, alpha, direct, gap, 0.3, base)
    answer, length = combined_norms(combination, mean)
    assert_close(answer, combined(combination, mean, torch.float64).norm(dim=1), "float64")
    assert_close(length, mean.norm(dim=1), "float64")
