"""Small data sets of four classes, engines over them, and comparisons of all that two engines say of queries."""

from __future__ import annotations

from typing import Any

import torch
from closed_form import normal
from tolerances import assert_close, assert_rows_close
from torch import Tensor

from oracle_engine import OracleDataset, OracleEngine, Posterior

PREDICTIONS = ("velocity", "denoiser", "score", "noise")

# two queries of the engine over twenty samples
X = torch.zeros(2, 4)


def weighted_data(generator: torch.Generator, count: int = 60, dim: int = 5, **changes: Any) -> OracleDataset:
    """Return weighted float64 samples of four classes."""
    arguments = {
        "points": normal(count, dim, generator),
        "labels": torch.randint(4, (count,), generator=generator),
        "weights": torch.rand(count, generator=generator, dtype=torch.float64),
    }
    return OracleDataset(**(arguments | changes))


def twenty(generator: torch.Generator) -> OracleEngine:
    """Return an engine over twenty float32 samples, of which number 19 is alone in class 3."""
    labels = torch.arange(20) % 3
    labels[19] = 3
    return OracleEngine(OracleDataset(normal(20, 4, generator).float(), labels, name="twenty"))


def column(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def predictions(engine: OracleEngine, x: Tensor, t: float | Tensor, **options: Any) -> Tensor:
    """Return velocity, denoiser, score and noise, [4, B, *shape]."""
    return torch.stack([getattr(engine, name)(x, t, **options) for name in PREDICTIONS])


def assert_same_posterior(first: Posterior, second: Posterior, tolerance: str = "float64") -> None:
    for name in ("mean", "log_density", "ess", "entropy", "variance", "top_weights"):
        assert_close(getattr(first, name), getattr(second, name), tolerance)


def assert_same_answers(first: OracleEngine, second: OracleEngine, x: Tensor, t: Tensor, **options: Any) -> None:
    """Compare velocities and posteriors; `options` are for the first engine."""
    assert_rows_close(first.velocity(x, t, **options), second.velocity(x, t), "bar")
    assert_same_posterior(first.posterior(x, t, **options), second.posterior(x, t), "moment")
    assert_close(first.log_density(x, t, **options), second.log_density(x, t), "moment")
