"""Samples that nearly equal each other share rounding errors: groups of them are answered as well as one sample."""

from __future__ import annotations

import pytest
import torch
from closed_form import normal, stored_as
from tolerances import assert_within
from torch import Tensor

from oracle_engine import OracleDataset, OracleEngine
from oracle_engine.kernels import counted_copies, prepare_rows


def two_groups(copies: int, dim: int, apart: float, generator: torch.Generator) -> Tensor:
    """Return `copies` of each of two samples, `apart` from each other in every coordinate, and 300 other samples."""
    groups = normal(2, dim, generator).repeat_interleave(copies, 0)
    return torch.cat([groups + apart * normal(len(groups), dim, generator), normal(300, dim, generator)])


def between(data: OracleDataset, copies: int, noise: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return 64 queries between the two groups, with less noise than the path has, and their times."""
    t = torch.linspace(0.05, 0.95, 64, dtype=torch.float64)
    middle = (data[0].double() + data[copies].double()) / 2
    return t[:, None] * middle + noise * (1 - t)[:, None] * normal(64, data.dim, generator), t


@pytest.mark.parametrize("apart", [0.0, 1e-6, 1e-3])
@pytest.mark.parametrize(("copies", "dim"), [(1, 128), (4, 768), (32, 128), (128, 192), (128, 768), (512, 128)])
def test_groups_of_copies(generator: torch.Generator, copies: int, dim: int, apart: float) -> None:
    data = OracleDataset(two_groups(copies, dim, apart, generator).float())
    for noise in (0.25, 1.0):
        x, t = between(data, copies, noise, generator)
        truth = OracleEngine(data, backend="reference").velocity(x, t)
        engine = OracleEngine(data)
        for size in (1, 64):
            parts = [engine.velocity(x[i : i + size], t[i : i + size]) for i in range(0, 64, size)]
            assert_within((torch.cat(parts) - truth).norm(dim=1) / truth.norm(dim=1), "bar")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16])
def test_groups_of_copies_in_every_storage(generator: torch.Generator, dtype: torch.dtype) -> None:
    data = OracleDataset(stored_as(two_groups(64, 192, 0.0, generator), dtype))
    x, t = between(data, 64, 0.25, generator)
    truth = OracleEngine(data, backend="reference").velocity(x, t)
    assert_within((OracleEngine(data).velocity(x, t) - truth).norm(dim=1) / truth.norm(dim=1), "bar")


def test_copies_are_counted(generator: torch.Generator) -> None:
    distinct = normal(500, 100, generator).float()
    assert prepare_rows(distinct, None).copies == 1
    assert prepare_rows(torch.ones(7, 3), None).copies == 7
    for copies in (2, 10, 100):
        rows = prepare_rows(torch.cat([distinct, distinct[:1].repeat(copies - 1, 1)]), None)
        assert copies <= rows.copies <= 2 * copies
        assert counted_copies(rows).copies == rows.copies
