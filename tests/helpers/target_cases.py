"""Small weighted data sets of three classes, their mirror images stored, and noisy queries for targets."""

from __future__ import annotations

from typing import Any, get_args

import torch
from closed_form import normal
from torch import Tensor

from oracle_engine import Flip, OracleDataset, path_sample
from oracle_engine.training.conditional import PredictionName

PREDICTIONS: tuple[PredictionName, ...] = get_args(PredictionName)
TIMES = torch.tensor([0.05, 0.3, 0.6, 0.95], dtype=torch.float64)


def pictures(count: int, generator: torch.Generator, scale: float = 1.0, **options: Any) -> OracleDataset:
    """Return samples [2, 3] in three classes, out of order, with different weights."""
    weights = 0.5 + torch.rand(count, generator=generator, dtype=torch.float64)
    points = scale * normal(count, 6, generator).reshape(count, 2, 3)
    return OracleDataset(points, torch.arange(count) % 3, weights, **options)


def doubled(data: OracleDataset, flip: Flip, without: int | None = None) -> OracleDataset:
    """Return the samples and their mirror images, stored."""
    keep = torch.tensor([index for index in range(len(data)) if index != without])
    logs = data.rows.log_weights
    weights = torch.ones(len(keep)).double() if logs is None else logs.exp()[data.row_of(keep)]
    points, labels = data[keep], data.labels
    return OracleDataset(
        torch.cat([points, flip.apply(points)]),
        None if labels is None else labels[keep].repeat(2),
        torch.cat([weights * (1 - flip.probability), weights * flip.probability]),
    )


def queries(data: OracleDataset, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the sources of four queries and x_t, float64."""
    source = torch.tensor([0, 3, 4, 5])
    eps = torch.randn(4, *data.sample_shape, generator=generator, dtype=torch.float64)
    return source, path_sample("rectified_flow", data[source].double(), eps, TIMES)
