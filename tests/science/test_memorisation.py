"""Copies are found: nearest samples against brute force, planted copies, energies of straight ways, shells."""

from __future__ import annotations

import math

import pytest
import torch
from tolerances import assert_close, assert_within

from oracle_engine import InputError, OracleDataset, OracleEngine, samplers
from oracle_engine.science.memorisation import copy_rate, kinetic_energy, nearest_samples, shell_radius


def test_nearest_samples_are_those_of_brute_force(generator: torch.Generator) -> None:
    data = OracleDataset(torch.randint(0, 256, (300, 3, 4), dtype=torch.uint8, generator=generator))
    x = torch.rand(50, 3, 4, generator=generator) * 3 - 1.5
    found = nearest_samples(OracleEngine(data), x)
    wanted = torch.cdist(x.double().flatten(1), data[:].double().flatten(1)).topk(2, largest=False)
    assert torch.equal(found.index, wanted.indices)
    assert_close(found.distance, wanted.values, "float64")
    assert bool((found.ratio <= 1.0).all())


def test_classes_and_single_samples_limit_the_search(generator: torch.Generator) -> None:
    data = OracleDataset(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([0, 0, 1]))
    found = nearest_samples(OracleEngine(data), torch.tensor([[0.1], [0.1], [1.9]]), labels=torch.tensor([0, 1, -1]))
    assert found.index.tolist() == [[0, 1], [2, -1], [2, 1]]
    assert found.distance[1, 1] == math.inf
    alone = nearest_samples(OracleEngine(OracleDataset(torch.zeros(1, 2))), torch.ones(2, 2))
    assert (alone.index.tolist(), alone.ratio.tolist()) == ([[0, -1], [0, -1]], [0.0, 0.0])


def test_planted_copies_are_counted_with_their_error(generator: torch.Generator) -> None:
    engine = OracleEngine(OracleDataset(torch.randn(200, 32, generator=generator)))
    fresh = torch.randn(300, 32, generator=generator)
    copies = engine.data[:100] + 1e-3 * torch.randn(100, 32, generator=generator)
    rate = copy_rate(nearest_samples(engine, torch.cat([fresh, copies])).ratio)
    assert rate.rate == 0.25
    assert rate.error == pytest.approx(math.sqrt(0.25 * 0.75 / 400), rel=0.1)
    assert rate.low < 0.25 < rate.high
    none = copy_rate(nearest_samples(engine, fresh).ratio)
    assert (none.rate, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(0.01)
    for bad in (0.0, 1.5):
        with pytest.raises(InputError, match="threshold"):
            copy_rate(torch.ones(3).double(), threshold=bad)


def test_a_straight_way_has_the_least_energy(generator: torch.Generator) -> None:
    engine = OracleEngine(OracleDataset(torch.randn(1, 5, generator=generator)))
    x = samplers.initial_noise(engine, 4, generator=generator)
    run = samplers.sample(engine, x, samplers.sampling_times(10), capture=samplers.Capture(states=True))
    straight = 0.5 * (run.x - x).double().square().sum(1)
    assert_close(kinetic_energy(run), straight, "float32 steps")
    bent = OracleEngine(OracleDataset(torch.randn(30, 5, generator=generator)))
    run = samplers.sample(bent, x, samplers.sampling_times(10), capture=samplers.Capture(states=True))
    assert bool((kinetic_energy(run) > 0.5 * (run.x - x).double().square().sum(1)).all())
    with pytest.raises(InputError, match="must have kept its states"):
        kinetic_energy(samplers.sample(engine, x, samplers.sampling_times(2)))


def test_training_queries_lie_on_the_shell_of_their_sample(generator: torch.Generator) -> None:
    engine = OracleEngine(OracleDataset(torch.randn(20, 400, generator=generator)))
    index = torch.arange(20)
    x = samplers.noised(engine, engine.data[index], 0.4, generator=generator)
    radius = shell_radius(engine, x, 0.4, index)
    assert_within((radius - 1.0) * math.sqrt(800), "standard errors")
    assert bool((shell_radius(engine, x, 0.4, (index + 1) % 20) > radius).all())
    with pytest.raises(InputError, match="must leave some noise"):
        shell_radius(engine, x, 1.0, index)


def test_weighted_data_are_refused() -> None:
    engine = OracleEngine(OracleDataset(torch.zeros(2, 2), weights=[1.0, 2.0]))
    with pytest.raises(InputError, match="equal weight"):
        nearest_samples(engine, torch.zeros(1, 2))
