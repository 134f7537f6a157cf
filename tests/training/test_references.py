"""Targets over references with the own sample average to the oracle; one reference is conditional flow matching."""

from __future__ import annotations

import itertools

import pytest
import torch
from closed_form import normal
from refusals import refused
from target_cases import PREDICTIONS, TIMES, doubled, pictures
from tolerances import assert_rows_close
from torch import Tensor

from oracle_engine import Flip, OracleDataset, OracleEngine, OracleTarget, References, conditional_target, path_sample
from oracle_engine.training.targets import PredictionName


def chosen_references(rows: Tensor) -> References:
    """Return an estimate over the own sample and these rows, [n], instead of random ones."""
    return References(len(rows) + 1, draw_rows=lambda *_: rows)


def enumerated(
    engine: OracleEngine, x: Tensor, t: float, count: int, labels: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the mean and mean square of the targets over `count` references at one x [1, *shape] and t.

    Over every source, by its posterior weight, and every choice of references, by their prior weights.
    """
    data = engine.data
    assert data.rows.log_weights is not None
    found = engine.posterior(x, t, labels=labels, top_k=len(data))
    pool = torch.arange(len(data)) if labels is None else torch.arange(len(data))[data.segments[labels].start :]
    pool = pool[: len(data) if labels is None else len(data.segments[labels])]
    prior = data.rows.log_weights.exp()[pool] / data.rows.log_weights.exp()[pool].sum()
    mean, square = torch.zeros_like(x), torch.zeros_like(x)
    for chosen in itertools.product(range(len(pool)), repeat=count - 1):
        target = OracleTarget(engine, estimate=chosen_references(pool[list(chosen)]))
        for source, gamma in zip(found.top_indices[0], found.top_weights[0], strict=True):
            if source < 0:
                continue
            value = target(x, t, labels, source[None])
            weight = float(gamma * prior[list(chosen)].prod())
            mean, square = mean + weight * value, square + weight * value.square()
    return mean, square


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("width", [0.0, 0.2])
@pytest.mark.parametrize("labels", [None, 1])
def test_references_with_the_own_sample_average_to_the_oracle(
    t: float, width: float, labels: int | None, generator: torch.Generator
) -> None:
    # as wide as the noise, so that several samples may have made x
    data = pictures(9 if labels else 3, generator, scale=1 - t)
    engine = OracleEngine(data, point_std=width, backend="reference")
    x = (1 - t) * torch.randn(1, 2, 3, generator=generator, dtype=torch.float64)
    oracle, spread = engine.velocity(x, t, labels=labels), []
    for count in (1, 2, 3):
        mean, square = enumerated(engine, x, t, count, labels)
        assert_rows_close(mean, oracle, "float64")
        spread.append(float((square - mean.square()).sum()))
    # the more references, the less variance; one is CFM
    assert spread[0] > spread[1] > spread[2] > 0


def test_references_without_the_own_sample_would_be_biased(generator: torch.Generator) -> None:
    data = OracleDataset(normal(3, 6, generator))
    x = torch.randn(1, 6, generator=generator, dtype=torch.float64)
    pairs = itertools.product(range(3), repeat=2)
    biased = torch.stack([OracleEngine(OracleDataset(data[torch.tensor(pair)]))(x, 0.5) for pair in pairs]).mean(0)
    oracle = OracleEngine(data)(x, 0.5)
    assert float((biased - oracle).norm()) > 0.05 * float(oracle.norm())


@pytest.mark.parametrize("width", [0.0, 0.2])
def test_flipped_references_average_to_the_oracle_of_both_copies(width: float, generator: torch.Generator) -> None:
    data, flip = pictures(3, generator), Flip(probability=0.3)
    x = torch.randn(1, 2, 3, generator=generator, dtype=torch.float64)
    engine = OracleEngine(data, point_std=width, backend="reference")
    stored = OracleEngine(doubled(data, flip), point_std=width, backend="reference")
    both = stored.posterior(x, 0.4, top_k=6)
    # either orientation may have made x: the weight of a source is that of its two copies
    weights = torch.zeros(6, dtype=torch.float64).index_copy(0, both.top_indices[0], both.top_weights[0])
    mean = torch.zeros_like(x)
    assert data.rows.log_weights is not None
    prior = data.rows.log_weights.exp()
    for rows in itertools.product(range(3), repeat=2):
        index = torch.tensor(rows)
        target = OracleTarget(engine, estimate=chosen_references(index), augmentation=flip)
        for source in range(3):
            share = weights[source] + weights[source + 3]
            mean = mean + share * prior[index].prod() * target(x, 0.4, source=source)
    assert_rows_close(mean, stored(x, 0.4), "float64")


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_one_reference_is_conditional_flow_matching(prediction: PredictionName, generator: torch.Generator) -> None:
    engine = OracleEngine(pictures(20, generator), "gvp")
    source = torch.tensor([0, 3, 4, 5])
    x1, eps = engine.data[source], torch.randn(4, 2, 3, generator=generator, dtype=torch.float64)
    x = path_sample("gvp", x1, eps, TIMES)
    target = OracleTarget(engine, prediction, estimate=References(1))(x, TIMES, source=source)
    assert_rows_close(target, conditional_target("gvp", x1, eps, TIMES, prediction=prediction), "float64")


def test_references_of_a_class_are_drawn_from_it(generator: torch.Generator) -> None:
    points = torch.randn(30, 2, generator=generator) + 100 * (torch.arange(30) % 3)[:, None]
    engine = OracleEngine(OracleDataset(points, torch.arange(30) % 3))
    source = torch.tensor([3, 4, 5, 9])
    labels = torch.tensor([0, 1, 2, -1])
    target = OracleTarget(engine, "denoiser", estimate=References(8, generator))
    # the first times are early: every reference counts alike
    found = target(torch.ones(4, 2), 1e-6, labels, source)
    own_class = points[source]
    assert bool(((found - own_class)[:3].abs() < 10).all())
    with refused("`labels` must be the class of the sample that made x_t, or -1; received class 1 for a sample of "):
        target(0.5 * points[source], 0.5, torch.tensor([1, 1, 2, -1]), source)
