"""The CFM loss is the oracle loss and V(t): exactly for every batch, up to a cross term that averages to zero."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from closed_form import normal
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused
from tolerances import TOLERANCES, assert_close, assert_within
from torch import Tensor

from oracle_engine import (
    LossTerms,
    OracleDataset,
    OracleEngine,
    OracleTarget,
    References,
    conditional_target,
    oracle_loss,
    path_sample,
    stage_boundary,
)
from oracle_engine.science.stages.analysis import analyse
from oracle_engine.training.loss_terms import format_loss_table, json_loss_rows


@pytest.fixture
def engine(generator: torch.Generator) -> OracleEngine:
    return OracleEngine(OracleDataset(normal(60, 6, generator).reshape(60, 2, 3), torch.arange(60) % 3))


def halved(x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
    """A model that is far from the oracle."""
    return 0.5 * x + t.reshape(-1, 1, 1)


def drawn(engine: OracleEngine, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    source = torch.randint(len(engine.data), (count,), generator=generator)
    return engine.data[source], source


def test_the_terms_add_up_for_every_query(engine: OracleEngine, generator: torch.Generator) -> None:
    x1, source = drawn(engine, 50, generator)
    found = oracle_loss(halved, OracleTarget(engine), x1, source=source, generator=generator)
    oracle = engine(found.x_t, found.t)
    eps = (found.x_t - found.t.reshape(-1, 1, 1) * x1) / (1 - found.t.reshape(-1, 1, 1))
    single = conditional_target(engine.path, x1, eps, found.t)
    answer = halved(found.x_t, found.t)
    assert torch.equal(found.target, oracle)
    for term, difference in (
        (found.terms.oracle, answer - oracle),
        (found.terms.variance, single - oracle),
        (found.terms.conditional, answer - single),
    ):
        assert_close(term, difference.square().mean((1, 2)), "float64")
    assert_close(found.loss, found.terms.oracle.mean(), "float64")
    whole = found.terms.whole()
    assert_within(whole.conditional - whole.oracle - whole.variance - whole.cross, "float64")


def test_a_loss_and_a_posterior_are_printed_in_a_line(engine: OracleEngine, generator: torch.Generator) -> None:
    x1 = engine.data[:5]
    found = oracle_loss(lambda x, t: -x, OracleTarget(engine), x1, generator=generator)
    posterior = engine.posterior(found.x_t, found.t)
    for held in (found, found.terms, found.terms.stages(0.5)[0], posterior, engine.posterior(x1[:0], 0.5)):
        assert len(str(held)) < 200
    assert "5 queries" in repr(found)
    assert str(posterior).startswith("Posterior(5 queries of")
    assert "5 exact" in str(posterior)


@pytest.mark.parametrize("prediction", ["velocity", "denoiser", "score", "noise"])
def test_the_cross_term_averages_to_zero(prediction: Any, engine: OracleEngine, generator: torch.Generator) -> None:
    x1, source = drawn(engine, 6000, generator)
    t = 0.05 + 0.9 * torch.rand(6000, generator=generator, dtype=torch.float64)
    target = OracleTarget(engine, prediction)
    for part in oracle_loss(halved, target, x1, source=source, t=t, generator=generator).terms.bins(4):
        assert part.count > 500
        assert abs(part.cross) < TOLERANCES["standard errors"].value * part.cross_error


def test_the_oracle_itself_has_no_loss_but_the_variance(engine: OracleEngine, generator: torch.Generator) -> None:
    x1, _ = drawn(engine, 8000, generator)
    at = 0.3
    terms = oracle_loss(engine, OracleTarget(engine), x1, t=at, generator=generator).terms
    whole = terms.whole()
    assert whole.oracle == 0.0
    assert whole.conditional == whole.variance
    known = analyse(engine, times=[at], queries=2000).points[0].velocity_variance
    assert whole.variance == pytest.approx(known, rel=0.06)


def test_references_have_less_variance_than_one_sample(engine: OracleEngine, generator: torch.Generator) -> None:
    x1, source = drawn(engine, 400, generator)
    eps, t = torch.randn(400, 2, 3, generator=generator, dtype=torch.float64), 0.3
    x = path_sample(engine.path, x1, eps, t)
    oracle, spread = engine(x, t), []
    for count in (1, 8, 64):
        target = OracleTarget(engine, estimate=References(count, generator))(x, t, source=source)
        spread.append(float((target - oracle).square().mean()))
    assert spread[0] > 2 * spread[1] > 4 * spread[2]


@given(st.integers(1, 12), st.floats(0.05, 0.95), st.integers(0, 99))
def test_bins_and_stages_are_a_partition(bins: int, boundary: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    terms = LossTerms(*torch.rand(4, 70, generator=generator, dtype=torch.float64))
    whole = terms.whole()
    for parts in (terms.bins(bins), terms.stages(boundary)):
        assert sum(part.count for part in parts) == 70
        for name in ("conditional", "oracle", "variance", "cross"):
            total = sum(part.count * getattr(part, name) for part in parts if part.count)
            assert total / 70 == pytest.approx(getattr(whole, name), rel=1e-9)
    halves = [LossTerms(*(getattr(terms, name)[part] for name in terms.__dataclass_fields__))
              for part in (slice(30), slice(30, None))]  # fmt: skip
    assert LossTerms.concatenate(halves).whole() == whole


def test_a_time_at_an_edge_is_counted_once() -> None:
    ones = torch.ones(3, dtype=torch.float64)
    terms = LossTerms(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64), ones, ones, ones)
    assert [part.count for part in terms.bins(2)] == [1, 2]
    assert [part.name for part in terms.stages(0.5)] == ["navigation", "refinement"]
    assert [part.count for part in terms.bins([0.1, 0.2])] == [0]
    # the edge of ten bins is the number a caller writes
    tenth = LossTerms(torch.tensor([0.1], dtype=torch.float64), ones[:1], ones[:1], ones[:1])
    assert [part.count for part in tenth.bins(10)] == [0, 1, *[0] * 8]
    for edges in (0, -1, [0.5], [0.5, 0.1], [-1.0, 0.5], [0.5, 2.0], [0.1, math.nan]):
        with refused("`edges` must be"):
            terms.bins(edges)
    with refused("`boundary` must lie between"):
        terms.stages(1.0)


def test_an_empty_bin_is_null_in_json_and_the_table_adds_up() -> None:
    ones = torch.ones(2, dtype=torch.float64)
    parts = LossTerms(0.1 * ones, ones, 2 * ones, 4 * ones).bins(2)
    facts = json.loads(json.dumps(json_loss_rows(parts), allow_nan=False))
    assert facts[1]["conditional"] is None
    assert (facts[0]["conditional"], facts[0]["oracle"], facts[0]["variance"], facts[0]["cross"]) == (4, 1, 2, 1)
    assert format_loss_table(parts).splitlines()[1].split()[:8] == ["0-0.5", "2", "4", "=", "1", "+", "2", "+"]


def test_held_out_samples_keep_a_cross_term(engine: OracleEngine, generator: torch.Generator) -> None:
    held_out = normal(4000, 6, generator).reshape(4000, 2, 3)
    part = oracle_loss(halved, OracleTarget(engine), held_out, t=0.5, generator=generator).terms.whole()
    assert abs(part.cross) > 3 * TOLERANCES["standard errors"].value * part.cross_error
    x1, source = drawn(engine, 40, generator)
    left_out = oracle_loss(halved, OracleTarget(engine, leave_one_out=True), x1, source=source, generator=generator)
    assert torch.equal(left_out.target, engine(left_out.x_t, left_out.t, exclude=source))


def test_the_boundary_is_the_predicted_transition(engine: OracleEngine) -> None:
    boundary = stage_boundary(engine)
    assert 0.2 < boundary < 0.9
    assert boundary == analyse(engine, times=[0.5], queries=4).predicted.anisotropic
    with refused("`engine` must have samples that can be told apart"):
        stage_boundary(OracleEngine(OracleDataset(torch.ones(1, 2))))


def test_model_and_target_see_the_same_labels(engine: OracleEngine, generator: torch.Generator) -> None:
    seen: list[Tensor] = []

    def model(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        seen.append(labels)
        return x

    x1, source = drawn(engine, 40, generator)
    options: dict[str, Any] = {"label_dropout": 0.5, "null_label": 3, "generator": generator}
    found = oracle_loss(model, OracleTarget(engine), x1, source % 3, source=source, **options)
    assert set(seen[0].tolist()) == {0, 1, 2, 3}
    with refused("`null_label` must be no class of the data; received 2"):
        oracle_loss(model, OracleTarget(engine), x1, source % 3, label_dropout=0.5, null_label=2)
    with refused("`probability` must"):
        oracle_loss(model, OracleTarget(engine), x1, source % 3, label_dropout=-0.5)
    shown = torch.where(seen[0] == 3, -1, seen[0])
    assert torch.equal(found.target, engine(found.x_t, found.t, labels=shown))


def test_one_generator_repeats_a_batch(engine: OracleEngine) -> None:
    x1 = engine.data[:8]
    first, again = (
        oracle_loss(halved, OracleTarget(engine), x1, generator=torch.Generator().manual_seed(5)) for _ in range(2)
    )
    assert torch.equal(first.x_t, again.x_t)
    assert torch.equal(first.loss, again.loss)
    clamped = OracleEngine(engine.data, t_max=0.25)
    assert float(oracle_loss(halved, OracleTarget(clamped), x1).t.max()) <= 0.25


def test_times_of_every_shape_reach_the_model_as_one_a_query(engine: OracleEngine) -> None:
    shapes: list[tuple[int, ...]] = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        shapes.append(tuple(t.shape))
        return x

    x1, eps = engine.data[:4], torch.ones(4, 2, 3, dtype=torch.float64)
    losses = [
        oracle_loss(model, OracleTarget(engine), x1, t=t, eps=eps).loss
        for t in (0.5, torch.tensor(0.5), torch.full((4,), 0.5), torch.full((4, 1, 1), 0.5))
    ]
    assert shapes == [(4,)] * 4
    for loss in losses[1:]:
        assert_close(loss, losses[0], "float64")


def test_accumulated_gradients_are_those_of_the_batch(engine: OracleEngine, generator: torch.Generator) -> None:
    model = torch.nn.Linear(3, 3).double()
    x1, eps, t = engine.data[:8], torch.randn(8, 2, 3, generator=generator).double(), torch.linspace(0.1, 0.8, 8)
    target = OracleTarget(engine)

    def gradient(parts: list[slice]) -> Tensor:
        model.zero_grad()
        for part in parts:
            loss = oracle_loss(lambda x, _: model(x), target, x1[part], t=t[part], eps=eps[part]).loss
            (loss / len(parts)).backward()
        assert model.weight.grad is not None
        return model.weight.grad.clone()

    assert_close(gradient([slice(0, 4), slice(4, 8)]), gradient([slice(0, 8)]), "float64")


def test_a_short_answer_under_autocast_has_a_float32_loss(engine: OracleEngine, generator: torch.Generator) -> None:
    model, x1 = torch.nn.Linear(3, 3), engine.data[:8].float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = oracle_loss(lambda x, _: model(x), OracleTarget(engine), x1, generator=generator)
        assert model(x1).dtype == torch.bfloat16
    assert found.loss.dtype == torch.float32
    assert torch.equal(found.target, engine(found.x_t, found.t))
    found.loss.backward()
    assert model.weight.grad is not None


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda x, t: x[:, :1],
            r"`model` must return a tensor of the shape of x_t; received \[4, 1, 3\] for x_t \[4, ",
        ),
        (lambda x, t: (x, t), "`model` must return a tensor; received tuple. Remedy: return the prediction alone"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_model_that_returns_something_else(model: Callable[..., Any], message: str, engine: OracleEngine) -> None:
    with refused(message):
        oracle_loss(model, OracleTarget(engine), engine.data[:4])
    with refused(r"`x1` must have shape \[B, 2, 3\]; received \[4, 3, 2\]"):
        oracle_loss(halved, OracleTarget(engine), torch.zeros(4, 3, 2))
    with refused(r"`t` must lie in \[0, 1\]"):
        oracle_loss(halved, OracleTarget(engine), engine.data[:4], t=math.nan)
