"""Queries whose derivatives are taken: at all times, in classes and unions, guided, and without one of the samples."""

from __future__ import annotations

from typing import Any

import torch
from closed_form import normal

from oracle_engine import Guidance, OracleDataset

TIMES = torch.tensor([0.05, 0.3, 0.6, 0.8, 0.95], dtype=torch.float64)
# no derivative is taken at the edges of the interval
INTERVAL = Guidance(4.0, 0.25, 0.85)
# some of no class, some of a union
UNIONS = torch.tensor([[0, 1], [2, -1], [-1, -1], [1, 2], [0, -1]])
SCALES = torch.tensor([2.0, -1.0, 3.0, 1.0, 0.0], dtype=torch.float64)
ASKED: dict[str, dict[str, Any]] = {
    "plain": {},
    "class": {"labels": 1},
    "unions": {"labels": UNIONS},
    "guided": {"labels": UNIONS, "guidance": SCALES},
    "interval": {"labels": 2, "guidance": INTERVAL},
    "left out": {"exclude": torch.tensor([3, -1, 0, 29, 7]), "labels": UNIONS, "guidance": 1.5},
}


def weighted(generator: torch.Generator, offset: float = 0.0) -> OracleDataset:
    """Return 30 weighted samples of three classes around `offset`."""
    weights = torch.rand(30, generator=generator) + 0.1
    return OracleDataset(normal(30, 3, generator) + offset, torch.arange(30) % 3, weights)
