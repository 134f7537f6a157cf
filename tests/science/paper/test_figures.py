"""Figures and tables of the paper: published numbers, identities, and models whose behaviour is known."""

from __future__ import annotations

import json

import pytest
import torch

from oracle_engine import InputError, OracleDataset, OracleEngine
from oracle_engine.science.paper import (
    RECIPES,
    Effort,
    Inputs,
    Quality,
    energy_distance,
    fig3,
    fig5,
    fig6,
    fig7,
    table1,
    table2,
    table3,
    trained,
)

TINY = Effort(8, 6, 4, 8, (4, 6), (64,), (20,), (0.1, 0.3))


def gaussians(generator: torch.Generator, count: int = 60, dim: int = 32) -> OracleEngine:
    return OracleEngine(OracleDataset(torch.randn(count, dim, generator=generator), name="gaussians"))


def general(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Return the velocity of infinitely many unit Gaussian samples along rectified flow: it knows none of them."""
    t = t[:, None].to(x.dtype)
    return (2.0 * t - 1.0) / (t.square() + (1.0 - t).square()) * x


def test_rounded_log_weights_give_the_printed_curve() -> None:
    times = (0.03, 0.05, 0.07)
    result = fig3(dims=(2048,), counts=(), times=times, queries=1400, seed=1, as_published=True)
    assert [row[3] for row in result.rows] == pytest.approx([0.061, 0.166, 0.392], abs=0.03)
    exact = fig3(dims=(2048,), counts=(), times=(0.07,), queries=300)
    # exact arithmetic is far from the printed value there
    assert float(exact.rows[0][3] or 0.0) > 0.46


def test_a_model_that_memorises_copies_from_the_start(generator: torch.Generator) -> None:
    engine = gaussians(generator)
    memory = fig5(engine, engine, switches=[0.0], count=24, steps=20)
    fresh = fig5(engine, general, switches=[0.0, 0.95], count=24, steps=20)
    assert memory.rows[0][1] == 1.0
    assert [row[1] for row in fresh.rows] == [0.0, 1.0]
    assert float(memory.rows[0][3] or 0.0) < 1e-3
    assert fresh.panels[0].curves[0].x == (0.0, 0.95)


def test_held_out_samples_are_lost_by_a_model_that_memorises(generator: torch.Generator) -> None:
    engine, unseen = gaussians(generator), torch.randn(16, 32, generator=generator)
    memory, fresh = (fig6(engine, model, unseen, times=[0.0, 0.9], steps=20) for model in (engine, general))
    assert [row[4] for row in memory.rows] == [1.0, 1.0]
    assert [row[4] for row in fresh.rows] == [0.0, 0.0]
    assert float(fresh.rows[1][1] or 0.0) < 0.2
    with pytest.raises(InputError, match="held_out"):
        fig6(engine, general, torch.zeros(3, 5))


def test_cfm_loss_is_oracle_loss_and_variance(generator: torch.Generator) -> None:
    engine = gaussians(generator, 40, 8)
    result = fig7(engine, {"general": general, "oracle": engine}, times=[0.1, 0.4], queries=3000)
    for name, _, cfm, _, oracle, _, variance, difference in result.rows:
        assert difference == pytest.approx(variance, rel=0.05)
        assert float(cfm or 0.0) - float(oracle or 0.0) == pytest.approx(difference, rel=1e-9)
        assert name == "general" or float(oracle or 1.0) < 1e-12
    with pytest.raises(InputError, match="must return finite"):
        fig7(engine, {"broken": lambda x, t: x / 0.0}, times=[0.1], queries=4)


def test_shares_of_steps_are_the_published_ones(generator: torch.Generator) -> None:
    result = table2(gaussians(generator), {"chosen": 0.2, "none": None})
    shares = [row[3] for row in result.rows if row[4] == "counted"]
    assert shares == pytest.approx([0.22, 0.28, 0.34, 0.46, 0.72])
    assert len(result.rows) == 7
    with pytest.raises(InputError, match="boundaries"):
        table2(gaussians(generator), {"none": None})


def test_tables_compare_pairs_of_models_and_intervals(generator: torch.Generator) -> None:
    engine = gaussians(generator)
    pairs = table1(engine, {"general": general}, count=12, steps=8, metric=lambda x, data: float(x.mean()))
    assert [row[:2] for row in pairs.rows] == [
        ("general", "general"),
        ("general", "oracle"),
        ("oracle", "general"),
        ("oracle", "oracle"),
    ]
    assert [row[4] for row in pairs.rows] == [0.0, 1.0, 0.0, 1.0]
    with pytest.raises(InputError, match="labels"):
        table3(engine)
    with pytest.raises(InputError, match="must be at least 2"):
        fig5(engine, general, count=1)
    with pytest.raises(InputError, match="must be at least 1"):
        fig3(queries=0)
    with pytest.raises(InputError, match="at least 10 samples"):
        RECIPES["fig6"](Inputs(OracleDataset(torch.zeros(4, 2))))
    data = OracleDataset(torch.randn(40, 8, generator=generator), torch.arange(40) % 4)
    guided = table3(OracleEngine(data), count=8, steps=6)
    assert [row[0] for row in guided.rows] == ["none", "navigation", "refinement", "everywhere"]
    assert all(row[4] == 1.0 for row in guided.rows)


def test_energy_distance_is_zero_for_draws_of_one_distribution(generator: torch.Generator) -> None:
    one, two = (torch.randn(120, 6, generator=generator) for _ in range(2))
    same, moved = energy_distance(one, two), energy_distance(one + 1.0, two)
    assert isinstance(same, Quality)
    assert same.error is not None
    assert moved.error is not None
    assert abs(same.value) < 4 * same.error + 0.02
    assert moved.value > 10 * moved.error


def test_training_leaves_torch_alone_and_lowers_the_loss(generator: torch.Generator) -> None:
    engine = gaussians(generator, 50, 4)
    before = torch.get_rng_state()
    first, *_, last = trained(engine, width=16, steps=60, stops=(0.02, 1.0))
    assert torch.equal(before, torch.get_rng_state())
    assert (first.step, last.step) == (1, 60)
    losses = [fig7(engine, {"one": part.model}, times=[0.3], queries=64).rows[0][4] for part in (first, last)]
    assert float(losses[1] or 1.0) < 0.7 * float(losses[0] or 0.0)


@pytest.mark.parametrize("name", RECIPES)
def test_every_figure_is_made_from_pictures_alone(name: str, generator: torch.Generator) -> None:
    pytest.importorskip("matplotlib")
    data = OracleDataset(torch.randn(60, 1, 4, 4, generator=generator), torch.arange(60) % 2, name="tiny")
    result = RECIPES[name](Inputs(data, effort=TINY))
    assert result.name == name
    assert result.note
    facts = json.loads(json.dumps(result.to_json()))
    assert len(facts["rows"]) == len(result.rows) > 0
    assert len({len(row) for row in result.rows} | {len(result.columns)}) == 1
    figure = result.figure()
    assert (figure is None) == name.startswith("table")
    assert figure is None or figure.get_size_inches()[0] < 7.0
    assert result.format_table().startswith(f"{name}: ")
