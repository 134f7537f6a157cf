"""Noise keeps its digits where samples are so far from zero that their coordinates hardly hold them."""

from __future__ import annotations

from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from closed_form import normal
from exact_answers import Still, exact_answer
from tolerances import assert_within

from oracle_engine import OracleDataset, OracleEngine, load_dataset
from oracle_engine.paths.paths import coefficients


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("dim", [3, 70])
@pytest.mark.parametrize(("size", "noise"), [(1e12, 1e-4), (1e12, 1e-2), (1e9, 1e-6), (1e6, 1e-8)])
def test_noise_of_samples_far_from_zero(
    generator: torch.Generator, tmp_path: Path, size: float, noise: float, dim: int, backend: str, streamed: bool
) -> None:
    points = size + noise * normal(30, dim, generator)
    data = OracleDataset(points)
    np.save(tmp_path / "points.npy", points.numpy())
    path = Still(1.0, noise)
    engine = OracleEngine(
        load_dataset(tmp_path / "points.npy") if streamed else data,
        path=path,
        backend=backend,
        resident="stream" if streamed else "auto",
    )
    x = (points[:2] + points[2:4]) / 2 + noise * normal(2, dim, generator)
    found, at = engine.velocity(x, 0.5), coefficients(path, torch.tensor([0.5], dtype=torch.float64))
    with mpmath.workdps(60):
        truths = [exact_answer(data, one, at) for one in x]
        errors = [float(true.error(one) / true.terms) for true, one in zip(truths, found, strict=True)]
    assert_within(torch.tensor(errors), "bar of the terms")
