"""Draws from the posterior come as often as it says, and targets made of them average to the oracle."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from closed_form import normal
from target_cases import pictures
from tolerances import assert_close

from oracle_engine import Flip, OracleDataset, OracleEngine, OracleTarget, PosteriorDraw, posterior_draw

# asked thousands of times: annotations are checked where the same is asked once
pytestmark = pytest.mark.usefixtures("unchecked")


# all rows at once, and blocks of four rows for a thousand queries
@pytest.mark.parametrize("block_values", [1 << 22, 1 << 12])
@pytest.mark.parametrize("labels", [None, 1])
def test_draws_are_as_frequent_as_posterior_weights(
    block_values: int, labels: int | None, generator: torch.Generator
) -> None:
    data = pictures(20, generator)
    engine = OracleEngine(data)
    x, count = torch.randn(1, 2, 3, generator=generator), 4000
    options: dict[str, Any] = {"labels": labels, "exclude": 4}
    queries = x.expand(count, 2, 3)
    drawn = posterior_draw(engine, queries, 0.3, **options, generator=generator, block_values=block_values)
    found = engine.posterior(x, 0.3, **options, top_k=20)
    expected = torch.zeros(20, dtype=torch.float64)
    present = found.top_indices[0] >= 0
    expected[found.top_indices[0][present]] = found.top_weights[0][present]
    seen = drawn.bincount(minlength=20).double() / count
    assert bool((seen[expected == 0] == 0).all())
    assert float(seen[4]) == 0.0
    error = (expected * (1 - expected) / count).sqrt().clamp_min(1e-12)
    assert_close((seen - expected) / error * (expected > 0), torch.zeros(20), "standard errors", scale=1.0)


def test_a_draw_needs_no_more_memory_for_more_samples_and_repeats(generator: torch.Generator) -> None:
    engine = OracleEngine(OracleDataset(normal(300, 4, generator)))
    x = torch.randn(6, 4, generator=generator)
    first, again, other = (
        posterior_draw(engine, x, 0.1, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert posterior_draw(engine, x[:0], 0.1).shape == (0,)


def test_a_late_draw_is_the_sample_itself(generator: torch.Generator) -> None:
    points = normal(50, 8, generator)
    drawn = posterior_draw(OracleEngine(OracleDataset(points)), 0.999 * points, 0.999)
    assert torch.equal(drawn, torch.arange(50))


@pytest.mark.parametrize("augmentation", [None, Flip(probability=0.3)])
@pytest.mark.parametrize("guidance", [None, 2.0])
def test_drawn_targets_average_to_the_oracle(
    augmentation: Flip | None, guidance: float | None, generator: torch.Generator
) -> None:
    engine = OracleEngine(pictures(20, generator), point_std=0.1)
    x = torch.randn(1, 2, 3, generator=generator, dtype=torch.float64).expand(3000, 2, 3)
    estimate = PosteriorDraw(generator)
    options: dict[str, Any] = {"guidance": guidance, "augmentation": augmentation}
    drawn = OracleTarget(engine, estimate=estimate, **options)(x, 0.4, 1)
    oracle = OracleTarget(engine, **options)(x[:1], 0.4, 1)
    error = (drawn.mean(0) - oracle[0]) / (drawn.std(0) / math.sqrt(3000))
    assert_close(error, torch.zeros(2, 3), "standard errors", scale=1.0)


def test_a_drawn_target_points_to_a_sample_or_its_mirror_image(generator: torch.Generator) -> None:
    data = pictures(20, generator)
    x = torch.randn(40, 2, 3, generator=generator, dtype=torch.float64)
    drawn = OracleTarget(OracleEngine(data), "denoiser", estimate=PosteriorDraw(generator), augmentation=Flip())(x, 0.2)
    both = torch.cat([data[:], data[:].flip(-1)]).flatten(1)
    nearest = torch.cdist(drawn.flatten(1), both)
    assert float(nearest.amin(1).max()) < 1e-6
    assert {True, False} == set((nearest.argmin(1) < 20).tolist())
