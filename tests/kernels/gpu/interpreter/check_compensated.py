"""Late and between two samples, gaps of logits have more digits than float64: kernels take these in twice as many."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from closed_form import values_of
from kernel_problems import EDGE, small_backend
from tolerances import assert_close, assert_rows_close
from torch import Tensor

from oracle_engine import OracleDataset, OracleEngine
from oracle_engine.kernels.common.work import Work
from oracle_engine.kernels.gpu.operands.given import float32_parts
from oracle_engine.kernels.gpu.rescore.lists import RescoreList
from oracle_engine.kernels.gpu.rescore.rescored import Rescored
from oracle_engine.kernels.gpu.scans import scan
from oracle_engine.scans import backends


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines scan in small blocks."""
    monkeypatch.setitem(backends.BACKENDS, "triton", small_backend())


def engine_of(dtype: torch.dtype, dim: int, generator: torch.Generator, *, weighted: bool = False) -> OracleEngine:
    """Return an engine on the kernels over 40 samples of two classes."""
    values = torch.randn(40, dim, generator=generator)
    stored = values.to(dtype) if dtype.is_floating_point else (40 * values + 128).clamp(0, 255).to(dtype)
    weights = torch.rand(40, generator=generator).double() + 0.1 if weighted else None
    return OracleEngine(OracleDataset(stored, weights=weights, labels=torch.arange(40) // 20), backend="triton")


def between(engine: OracleEngine, t: Tensor, generator: torch.Generator, away: float = 0.0) -> Tensor:
    """Return queries between samples b and b + 2, with log-odds of order one, and `away` sigma of noise from both."""
    values = values_of(engine.data).flatten(1)
    batch, sigma = len(t), 1 - t
    first, second = values[:batch], values[2 : batch + 2]
    gap, middle = first - second, (first + second) / 2
    odds = torch.randn(batch, generator=generator).double()
    step = odds * sigma.square() / (t * gap.square().sum(1))
    noise = torch.randn(batch, values.shape[1], generator=generator).double()
    noise -= ((noise * gap).sum(1) / gap.square().sum(1))[:, None] * gap
    return t[:, None] * middle + step[:, None] * gap + away * sigma[:, None] * noise


def truth(engine: OracleEngine, x: Tensor, t: Tensor, classes: int | None = None) -> tuple[Tensor, Tensor]:
    """Return velocities [B, D] and weights [B, N] in extended precision, rounded once."""
    rows, unit = engine.data.rows, engine.data.value_map
    values = rows.stored.double().numpy().astype(np.longdouble) * unit.scale + unit.offset
    wide, alpha = x.numpy().astype(np.longdouble), t.numpy().astype(np.longdouble)[:, None]
    distance = ((wide[:, None] - alpha[:, :, None] * values) ** 2).sum(2)
    logs = torch.zeros(len(values)).double() if rows.log_weights is None else rows.log_weights
    usable = np.full(len(values), True) if classes is None else np.arange(len(values)) // 20 == classes
    logits = logs.numpy().astype(np.longdouble) - distance / (2 * (1 - alpha) ** 2)
    logits[:, ~usable] = -np.inf
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    velocity = (shares @ values - wide) / (1 - alpha)
    return torch.from_numpy(velocity.astype(np.float64)), torch.from_numpy(shares.astype(np.float64))


LATE = torch.tensor([0.99, 1 - EDGE], dtype=torch.float64)


@pytest.mark.parametrize(
    ("dtype", "dim", "weighted", "options"),
    [
        (torch.uint8, 150, True, {}),
        (torch.float16, 300, False, {"labels": 0}),
        (torch.float32, 75, True, {"labels": 0}),
        (torch.float16, 40, False, {}),
        (torch.float32, 2, True, {}),
    ],
    ids=str,
)
def test_velocities_between_two_samples_hold_the_bar(
    dtype: torch.dtype, dim: int, weighted: bool, options: dict[str, int], generator: torch.Generator
) -> None:
    engine = engine_of(dtype, dim, generator, weighted=weighted)
    x = between(engine, LATE, generator, 3.0)
    # both samples are of the first class
    assert_rows_close(engine.velocity(x, LATE, **options), truth(engine, x, LATE, options.get("labels"))[0], "bar")


def test_moments_and_heaviest_samples_have_the_same_digits(generator: torch.Generator) -> None:
    engine = engine_of(torch.uint8, 150, generator)
    x = between(engine, LATE, generator, 1.0)
    found, (_, shares) = engine.posterior(x, LATE, top_k=3), truth(engine, x, LATE)
    weights, index = shares.sort(dim=1, descending=True)
    assert torch.equal(found.top_indices[:, :2], index[:, :2])
    assert_close(found.top_weights, weights[:, :3], "moment")
    assert_close(found.ess, 1 / shares.square().sum(1), "moment")
    values = values_of(engine.data).flatten(1)
    mean = shares @ values
    variance = (shares * (values - mean[:, None]).square().sum(2)).sum(1)
    assert_close(found.variance, variance, "moment", variance)


def test_only_queries_whose_gaps_float64_lacks_are_weighed_again(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    bases: list[Tensor] = []

    class Kept(Rescored):
        @classmethod
        def compensated(cls, work: Work, rescore_list: RescoreList, best: Tensor, **sums: Tensor) -> Rescored:
            found = super().compensated(work, rescore_list, best, **sums)
            bases.append(found.base)
            return found

    monkeypatch.setattr(scan, "Rescored", Kept)
    engine = engine_of(torch.float16, 300, generator)
    t = torch.tensor([0.1, 0.5, 1 - EDGE], dtype=torch.float64)
    engine.velocity(between(engine, t, generator), t)
    assert [bool(value) for value in bases[0]] == [False, False, True]


@pytest.mark.parametrize("value", [1.0, 0.0, 2 / 255, -1.0, 1e-3, 1 / 3, 12345.678901234567])
def test_three_float32_numbers_hold_a_float64_one(value: float) -> None:
    parts = float32_parts(value)
    assert sum(parts) == value
    assert Counter(float(np.float32(part)) == part for part in parts) == {True: 3}
