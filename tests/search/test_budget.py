"""Estimates from a budget of samples: what they look at, that they are right on average, and that they say how sure."""

from __future__ import annotations

from typing import Any

import mpmath
import pytest
import torch
from closed_form import normal
from late_cases import make_data, prepared, queries, the_data
from tolerances import assert_rows_close, assert_within
from torch import Tensor

from oracle_engine import InputError, OracleDataset, OracleEngine
from oracle_engine.kernels import Rows
from oracle_engine.kernels.screens.searches.unseen import unforeseen_square
from oracle_engine.queries.modes import Budget

# asked thousands of times: annotations are checked where the same is asked once
pytestmark = pytest.mark.usefixtures("unchecked")

TIMES = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.5, 0.8]).double()
SEEDS = 100


def estimates(rows: int, x: Tensor, **given: Any) -> tuple[Tensor, Tensor]:
    """Return velocities [S, B, D] and standard errors [S, B] of as many seeds, on the scale of the velocities."""
    engines = [prepared(spec="pca", mode=Budget(rows, seed)) for seed in range(SEEDS)]
    velocity = torch.stack([engine.velocity(x, TIMES, **given) for engine in engines])
    relative = torch.stack([engine.posterior(x, TIMES, **given).standard_error for engine in engines])
    return velocity, relative * velocity.norm(dim=2)


@pytest.mark.parametrize("given", [{}, {"labels": 1}, {"labels": torch.tensor([0, 2])}], ids=["all", "class", "union"])
def test_estimates_are_right_on_average_and_know_their_spread(
    generator: torch.Generator, given: dict[str, Any]
) -> None:
    data = the_data("float32")
    x = queries(data, generator, TIMES)
    if "labels" in given and torch.is_tensor(given["labels"]):
        given = {"labels": given["labels"].expand(len(x), 2)}
    velocity, stated = estimates(32, x, **given)
    truth = OracleEngine(data, backend="reference", mode="exact").velocity(x, TIMES, **given)
    spread = velocity.std(dim=0).norm(dim=1)
    moved = (velocity.mean(0) - truth).norm(dim=1)
    # self-normalised: a bias of the order of the variance of the weights remains beside the error of the mean
    bias = spread.square() / truth.norm(dim=1)
    assert_within((moved - bias).clamp_min(0.0) / (spread / SEEDS**0.5).clamp_min(1e-12), "standard errors")
    # interleaved parts tell the spread of the whole, and do not hide it: systematic draws spread less than they say
    typical = stated.square().mean(0).sqrt()
    some = spread > 1e-3 * truth.norm(dim=1)
    assert bool((typical[some] > 0.5 * spread[some]).all())
    # early that is all there is to know
    assert bool((typical < 4.0 * spread + 1e-3 * truth.norm(dim=1))[TIMES < 0.25].all())


@pytest.mark.parametrize("time", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("own", [True, False], ids=["of a sample", "of none"])
def test_estimates_know_what_they_may_not_have_seen(generator: torch.Generator, time: float, own: bool) -> None:
    # leading coordinates say next to nothing of these samples, and few of them hold all of a posterior
    data, chosen = OracleDataset(normal(1000, 64, generator).float()), torch.arange(64)
    x = time * data[chosen].double() + (1 - time) * normal(64, 64, generator)
    given: dict[str, Any] = {} if own else {"exclude": chosen}
    truth = OracleEngine(data).velocity(x, time, **given)
    engine = OracleEngine(data, mode=Budget(256)).prepare("pca", neighbours=False)
    velocity, stated = engine.velocity(x, time, **given), engine.posterior(x, time, **given).standard_error
    error, stated = (velocity - truth).norm(dim=1), stated * velocity.norm(dim=1)
    assert_within(error.norm() / (stated + 1e-5 * truth.norm(dim=1)).norm(), "standard errors")
    assert float((error <= 3.0 * stated + 1e-5 * truth.norm(dim=1)).double().mean()) > 0.9


@pytest.mark.parametrize("deviation", [0.0, 1e-3, 0.7, 5.0, 1e4])
@pytest.mark.parametrize("below", [-300.0, -30.0, -5.0, -1.0, -1e-3, 0.0, 2.0])
def test_what_is_unforeseen_of_a_share(below: float, deviation: float) -> None:
    def square(gaussian: float) -> Any:
        return mpmath.exp(2 * min(0.0, below + deviation * gaussian))

    bend = -below / max(deviation, 1e-9)
    places = sorted({-12.0, 12.0, *(min(12.0, max(-12.0, place)) for place in (bend, bend - 2.0 * deviation))})
    with mpmath.workdps(30):
        expected = mpmath.quad(lambda g: mpmath.npdf(g) * square(g), places) - square(0.0)
    found = unforeseen_square(*torch.tensor([[below], [deviation]], dtype=torch.float64))
    assert_within(found - max(0.0, float(expected)), "float64")


def test_more_samples_tell_more(generator: torch.Generator) -> None:
    data = make_data(generator)
    x = queries(data, generator, TIMES)
    truth = OracleEngine(data, mode="exact").velocity(x, TIMES)
    engines = [OracleEngine(data, mode=Budget(rows)).prepare() for rows in (8, 64, 512)]
    errors = [float((engine.velocity(x, TIMES) - truth).norm()) for engine in engines]
    stated = [float(engine.posterior(x, TIMES).standard_error.sum()) for engine in engines]
    assert errors == sorted(errors, reverse=True)
    assert stated == sorted(stated, reverse=True)


def test_an_answer_says_that_it_proves_nothing(generator: torch.Generator) -> None:
    engine = prepared(spec="pca", mode=Budget(30))
    x = queries(engine.data, generator, TIMES)
    p = engine.posterior(x, TIMES, top_k=5)
    assert set(p.route) == {"sampled"}
    assert bool(p.omitted_mass.isnan().all())
    assert bool(p.velocity_error.isnan().all())
    # a multiple of eight, so that its parts are alike
    assert p.survivors.tolist() == [32] * len(x)
    union = engine.posterior(x, TIMES, labels=torch.tensor([0, 1]).expand(len(x), 2))
    assert union.survivors.tolist() == [64] * len(x)


def test_it_reads_no_more_samples_than_it_may(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = prepared(spec="pca", mode=Budget(16))

    def refuse(*_: Any) -> Tensor:
        raise AssertionError("a block of rows was read")

    monkeypatch.setattr(Rows, "block", refuse)
    engine.velocity(queries(engine.data, generator, TIMES), TIMES)


def test_a_seed_repeats_its_draws(generator: torch.Generator) -> None:
    x = queries(the_data("float32"), generator, TIMES)
    first, again, other = (prepared(spec="pca", mode=Budget(16, seed)).velocity(x, TIMES) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", ["uint8", "float64", "weights", "duplicates"])
def test_every_storage_and_weights_are_drawn_from(generator: torch.Generator, kind: str) -> None:
    data = the_data(kind)
    x = queries(data, generator, TIMES)
    p = prepared(kind, "pca", mode=Budget(256)).posterior(x, TIMES)
    truth = OracleEngine(data, mode="exact").posterior(x, TIMES)
    bound = 6.0 * p.standard_error * truth.mean.norm(dim=1) / (1.0 - TIMES) + 0.02 * data.rows.radius
    assert bool(((p.mean - truth.mean).norm(dim=1) <= bound).all())


def test_one_sample_that_holds_everything_is_found(generator: torch.Generator) -> None:
    data = the_data("float32")
    own = torch.arange(6)
    x = 0.999 * data[own].double().reshape(6, -1) + 0.001 * normal(6, data.dim, generator)
    p = prepared(spec="pca", mode=Budget(8)).posterior(x, 0.999, top_k=1)
    assert torch.equal(p.top_indices[:, 0], own)
    assert_rows_close(p.mean, data[own].reshape(6, -1), "bar")


def test_a_sample_that_does_not_count_is_never_drawn(generator: torch.Generator) -> None:
    data = the_data("float32")
    own = torch.arange(6)
    x = 0.99 * data[own].double().reshape(6, -1) + 0.01 * normal(6, data.dim, generator)
    p = prepared(spec="pca", mode=Budget(16)).posterior(x, 0.99, exclude=own, top_k=16)
    assert not bool((p.top_indices == own[:, None]).any())


def test_it_needs_a_screen() -> None:
    data = the_data("float32")
    x = torch.zeros(1, 64)
    with pytest.raises(InputError, match=r"(?s)needs an index.*prepare\(\)"):
        OracleEngine(data, mode="budget").velocity(x, 0.5)
    with pytest.raises(InputError, match=r"(?s)needs a screen.*prepare\('pca'\)"):
        prepared(spec="IVF4,Flat", mode="budget").velocity(x, 0.5)
    with pytest.raises(InputError, match="at least 2"):
        Budget(1)
