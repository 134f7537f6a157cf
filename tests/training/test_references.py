"""Targets over references with the own sample average to the oracle; one reference is conditional flow matching."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from closed_form import normal
from draw_cases import every_draw
from refusals import refused
from target_cases import PREDICTIONS, TIMES, doubled, pictures
from tolerances import assert_rows_close
from torch import Tensor

from oracle_engine import Flip, OracleDataset, OracleEngine, OracleTarget, References, conditional_target, path_sample
from oracle_engine.kernels import Span
from oracle_engine.training.conditional import PredictionName
from oracle_engine.training.random_rows import draw_references

# asked thousands of times: annotations are checked where the same is asked once
pytestmark = pytest.mark.usefixtures("unchecked")


def averaged(
    engine: OracleEngine,
    x: Tensor,
    t: float,
    count: int,
    *,
    labels: int | None = None,
    flip: Flip | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the mean and mean square of the targets over `count` references at one x [1, *shape] and t.

    Over every source, by its posterior weight, and every draw of references, by its probability.
    """
    mean, square = torch.zeros_like(x), torch.zeros_like(x)
    for source, gamma in sources(engine, x, t, labels, flip):

        def evaluate(references: References, source: Tensor = source) -> Tensor:
            target: Tensor = OracleTarget(engine, estimate=references, augmentation=flip)(x, t, labels, source)
            return target

        total = 0.0
        for probability, value in every_draw(count, evaluate):
            weight, total = gamma * probability, total + probability
            mean, square = mean + weight * value, square + weight * value.square()
        assert total == pytest.approx(1.0)
    return mean, square


def sources(
    engine: OracleEngine, x: Tensor, t: float, labels: int | None, flip: Flip | None
) -> list[tuple[Tensor, float]]:
    """Return the samples that may have made x, in one orientation or the other, [1] each, and how likely."""
    stored = engine if flip is None else OracleEngine(doubled(engine.data, flip), point_std=engine.point_std)
    found, size = stored.posterior(x, t, labels=labels, top_k=len(stored.data)), len(engine.data)
    named = found.top_indices[0] >= 0
    weights = torch.zeros(size, dtype=torch.float64)
    weights.index_add_(0, found.top_indices[0][named] % size, found.top_weights[0][named])
    return [(torch.tensor([index]), float(weights[index])) for index in weights.nonzero()[:, 0].tolist()]


def evenly(data: OracleDataset) -> OracleDataset:
    """Return the samples with equal weights."""
    return OracleDataset(data[:], data.labels)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("t", [0.1, 0.9])
@pytest.mark.parametrize("width", [0.0, 0.2])
@pytest.mark.parametrize("labels", [None, 1])
def test_references_with_the_own_sample_average_to_the_oracle(
    weighted: bool, t: float, width: float, labels: int | None, generator: torch.Generator
) -> None:
    # as wide as the noise, so that several samples may have made x
    data = pictures(12 if labels else 4, generator, scale=1 - t)
    data = data if weighted else evenly(data)
    engine = OracleEngine(data, point_std=width, backend="reference")
    x = (1 - t) * torch.randn(1, 2, 3, generator=generator, dtype=torch.float64)
    oracle, spread = engine.velocity(x, t, labels=labels), []
    for count in (1, 2, 3):
        mean, square = averaged(engine, x, t, count, labels=labels)
        assert_rows_close(mean, oracle, "float64")
        spread.append(float((square - mean.square()).sum()))
    # the more references, the less variance; one is CFM
    assert spread[0] > spread[1] > spread[2] > 0


@pytest.mark.parametrize("labels", [None, 1])
@pytest.mark.parametrize("weighted", [False, True])
def test_references_to_a_whole_class_are_the_exact_target(
    weighted: bool, labels: int | None, generator: torch.Generator
) -> None:
    data = pictures(12, generator)
    engine = OracleEngine(data if weighted else evenly(data), point_std=0.1)
    index = torch.arange(1, 12, 3)
    x = torch.randn(4, 2, 3, generator=generator, dtype=torch.float64)
    for count in (4, 100) if labels else (12, 100):
        for flip in (None, Flip()):
            exact = OracleTarget(engine, augmentation=flip)(x, 0.5, labels)
            target = OracleTarget(engine, estimate=References(count), augmentation=flip)
            assert_rows_close(target(x, 0.5, labels, index), exact, "float64")


def test_different_references_vary_less_than_repeated_ones(generator: torch.Generator) -> None:
    data = evenly(pictures(5, generator, scale=0.5))
    # weights that differ by a rounding are drawn by weight, with replacement
    nearly = OracleDataset(data[:], data.labels, torch.tensor([1.0, 1, 1, 1, 1 + 1e-9], dtype=torch.float64))
    x = 0.5 * torch.randn(1, 2, 3, generator=generator, dtype=torch.float64)
    spread = []
    for samples in (data, nearly):
        mean, square = averaged(OracleEngine(samples, backend="reference"), x, 0.5, 3)
        spread.append(float((square - mean.square()).sum()))
    assert 0 < spread[0] < 0.9 * spread[1]


@pytest.mark.parametrize("flip", [None, Flip(probability=0.3)])
def test_the_draws_of_a_generator_average_to_the_oracle(flip: Flip | None, generator: torch.Generator) -> None:
    engine = OracleEngine(evenly(pictures(4, generator)), backend="reference")
    x = torch.randn(1, 2, 3, generator=generator, dtype=torch.float64)
    mean = torch.zeros_like(x)
    for source, gamma in sources(engine, x, 0.4, None, flip):
        targets = OracleTarget(engine, estimate=References(3, generator), augmentation=flip)
        values = torch.cat([targets(x, 0.4, source=source) for _ in range(80)]).flatten(1)
        found = values.mul(1e9).round().unique(dim=0).div(1e9)
        # the own sample and two of three others: sets that are equally likely, and no more than these
        assert len(found) == 3
        mean += gamma * found.mean(0).reshape(x.shape)
    stored = engine if flip is None else OracleEngine(doubled(engine.data, flip), backend="reference")
    assert float((mean - stored(x, 0.4)).abs().max()) < 1e-8


@pytest.mark.parametrize(("size", "count"), [(4, 2), (4, 3), (7, 2), (7, 0)])
def test_every_ordered_choice_of_different_rows_is_equally_likely(
    size: int, count: int, generator: torch.Generator
) -> None:
    data = OracleDataset(torch.randn(size + 3, 2, generator=generator))
    drawn = [tuple(draw_references(data, Span(2, 2 + size), count, generator).tolist()) for _ in range(4000)]
    counts = Counter(drawn)
    possible = math.perm(size, count)
    assert set(counts) == set(itertools.permutations(range(2, 2 + size), count))
    expected = 4000 / possible
    squares = sum((number - expected) ** 2 / expected for number in counts.values())
    assert squares <= possible - 1 + 6 * math.sqrt(2 * (possible - 1))


def test_classes_of_a_batch_are_drawn_as_their_sizes_and_weights_need(generator: torch.Generator) -> None:
    labels = torch.tensor([0] * 2 + [1] * 5 + [2] * 5)
    weights = torch.where(labels == 2, torch.rand(12, generator=generator, dtype=torch.float64) + 0.5, 1.0)
    data = OracleDataset(normal(12, 6, generator), labels, weights)
    engine, source = OracleEngine(data, backend="reference"), torch.tensor([0, 2, 3, 7, 8, 1])
    asked = torch.tensor([0, 1, 1, 2, 2, -1])
    x = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    sizes: list[tuple[int, int]] = []

    def draw(data: OracleDataset, span: Span, count: int, generator: torch.Generator | None) -> Tensor:
        sizes.append((len(span), count))
        return draw_references(data, span, count, generator)

    target = OracleTarget(engine, estimate=References(3, generator, draw_rows=draw))
    together = target(x, 0.5, asked, source)
    # a class of two is taken whole, one of equal weights draws three, others two beside the own sample
    assert sizes == [(12, 2), (5, 3), (5, 2)]
    assert_rows_close(together[:1], engine.velocity(x[:1], 0.5, labels=0), "float64")


def test_references_without_the_own_sample_would_be_biased(generator: torch.Generator) -> None:
    data = OracleDataset(normal(3, 6, generator))
    x = torch.randn(1, 6, generator=generator, dtype=torch.float64)
    pairs = itertools.product(range(3), repeat=2)
    biased = torch.stack([OracleEngine(OracleDataset(data[torch.tensor(pair)]))(x, 0.5) for pair in pairs]).mean(0)
    oracle = OracleEngine(data)(x, 0.5)
    assert float((biased - oracle).norm()) > 0.05 * float(oracle.norm())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("width", [0.0, 0.2])
def test_flipped_references_average_to_the_oracle_of_both_copies(
    weighted: bool, width: float, generator: torch.Generator
) -> None:
    data, flip = pictures(4, generator), Flip(probability=0.3)
    data = data if weighted else evenly(data)
    x = torch.randn(1, 2, 3, generator=generator, dtype=torch.float64)
    engine = OracleEngine(data, point_std=width, backend="reference")
    stored = OracleEngine(doubled(data, flip), point_std=width, backend="reference")
    for count in (1, 2, 3):
        mean, _ = averaged(engine, x, 0.4, count, flip=flip)
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
