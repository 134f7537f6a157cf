"""Data sets of 300 samples, queries at all times, and engines whose index lets every query try the search."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from closed_form import clusters, near_duplicates, normal, stored_as
from torch import Tensor

from oracle_engine import Guidance, OracleDataset, OracleEngine
from oracle_engine.kernels.screens.bounds.costs import SearchCosts
from oracle_engine.kernels.screens.bounds.query_bounds import Knowledge
from oracle_engine.search.index import SearchIndex

TIMES = torch.tensor([0.0, 0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999]).double()

# what a call may come with, by name; the queries are made from samples 3, 6, 9, ...
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "labels": {"labels": torch.arange(len(TIMES)) % 5 - 1},
    "unions": {"labels": torch.stack([torch.arange(len(TIMES)) % 4, torch.full((len(TIMES),), -1)], 1)},
    "guidance": {"labels": 2, "guidance": Guidance(2.5, 0.1, 0.97)},
    "exclude": {"exclude": 3 * torch.arange(len(TIMES)) + 3},
    "source": {"source": 3 * torch.arange(len(TIMES)) + 3},
    "source and labels": {"source": 3 * torch.arange(len(TIMES)) + 3, "labels": 1},
}

DATA: dict[str, dict[str, Any]] = {
    "float32": {},
    "uint8": {"dtype": torch.uint8},
    "float64": {"dtype": torch.float64},
    "weights": {"weights": torch.linspace(0.1, 2.0, 300)},
    "duplicates": {"family": near_duplicates},
}


def make_data(
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
    weights: Tensor | None = None,
    family: Any = clusters,
    dim: int = 64,
) -> OracleDataset:
    """Return 300 samples of 4 classes, the last of which has one sample."""
    labels = torch.arange(300) % 3
    labels[17] = 3
    return OracleDataset(stored_as(family(300, dim, generator), dtype), labels, weights)


def eager(engine: OracleEngine) -> OracleEngine:
    """Let every query try the search, as it would among many more samples, whatever was measured on this machine."""
    assert engine.index is not None
    screen = engine.index.screen
    if screen is not None:
        no_thresholds = (0.0,) * len(screen.widths)
        # levels cost a quarter of a scan at most, whatever was measured
        cheap = SearchCosts.by_operations(screen.dim, [min(one, screen.dim // 4) for one in screen.operations])
        trying = replace(screen, thresholds=(no_thresholds,) * len(Knowledge), measured_costs=cheap)
        engine.index = replace(engine.index, screen=trying)
    return engine


@cache
def the_data(kind: str) -> OracleDataset:
    return make_data(torch.Generator().manual_seed(1), **DATA[kind])


@cache
def the_index(kind: str, spec: str) -> SearchIndex | None:
    return eager(OracleEngine(the_data(kind)).prepare(spec)).index


def prepared(kind: str = "float32", spec: str = "screen", **options: Any) -> OracleEngine:
    """Return an engine whose index lets every query try the search."""
    engine = OracleEngine(the_data(kind), **options)
    engine.index = the_index(kind, spec)
    return engine


def queries(data: OracleDataset, generator: torch.Generator, times: Tensor = TIMES) -> Tensor:
    """Return queries made from samples 3, 6, 9, ..., float64."""
    own = data[3 * torch.arange(len(times)) + 3].double().reshape(len(times), -1)
    return times[:, None] * own + (1 - times)[:, None] * normal(len(times), data.dim, generator)
