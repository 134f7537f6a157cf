"""An answer depends on its query alone, not on its company, layout, dtype, way to write the time, number or backend."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from closed_form import normal, stored_as
from engine_cases import PREDICTIONS, assert_same_answers, assert_same_posterior, predictions, weighted_data
from tolerances import assert_close, assert_rows_close

from oracle_engine import OracleDataset, OracleEngine


@pytest.mark.parametrize("dim", [5, 60])
def test_a_query_does_not_care_who_is_asked_with_it(generator: torch.Generator, dim: int) -> None:
    # orders of magnitude apart in time and in size, which no maximum may be shared over
    engine = OracleEngine(OracleDataset(normal(300, dim, generator).float()))
    t = torch.tensor([1e-4, 0.05, 0.3, 0.6, 0.9, 0.99, 0.999, 1 - 1e-4] * 2, dtype=torch.float64)
    x = normal(16, dim, generator) * torch.logspace(-2, 2, 16, dtype=torch.float64)[:, None]
    together, posterior = engine.velocity(x, t), engine.posterior(x, t)
    for place in range(16):
        one = slice(place, place + 1)
        assert_rows_close(together[one], engine.velocity(x[one], t[one]), "bar")
        assert_close(posterior.log_density[one], engine.log_density(x[one], t[one]), "moment")
    order = torch.randperm(16, generator=generator)
    assert_rows_close(engine.velocity(x[order], t[order]), together[order], "bar")


def test_every_shape_of_time_means_the_same(generator: torch.Generator) -> None:
    engine = OracleEngine(weighted_data(generator, points=normal(60, 8, generator).reshape(60, 2, 2, 2)))
    x = normal(3, 8, generator).reshape(3, 2, 2, 2)
    expected = engine.velocity(x, 0.25)
    full = torch.full((3,), 0.25)
    for t in (
        torch.tensor(0.25),
        torch.tensor([0.25]),
        full,
        full.double(),
        full.half(),
        full[:, None],
        full[:, None, None, None],
    ):
        assert torch.equal(engine.velocity(x, t), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_answers_are_like_the_query(generator: torch.Generator, dtype: torch.dtype) -> None:
    engine = OracleEngine(weighted_data(generator, points=normal(60, 6, generator).float().reshape(60, 2, 3)))
    x = normal(4, 6, generator).reshape(4, 2, 3).to(dtype)
    tolerance = "float64" if dtype == torch.float64 else f"{str(dtype).removeprefix('torch.')} output"
    for name in PREDICTIONS:
        answer = getattr(engine, name)(x, 0.25)
        assert (answer.dtype, answer.shape) == (dtype, x.shape)
        # the query is taken at its word, whatever its dtype; only the answer is rounded
        assert_close(answer, getattr(engine, name)(x.double(), 0.25), tolerance)
    posterior = engine.posterior(x, 0.25)
    assert posterior.mean.dtype == dtype
    assert posterior.log_density.dtype == posterior.top_weights.dtype == torch.float64


def test_the_layout_of_the_query_does_not_matter(generator: torch.Generator) -> None:
    engine = OracleEngine(weighted_data(generator, points=normal(60, 8, generator).reshape(60, 2, 2, 2)))
    x = normal(4, 8, generator).reshape(4, 2, 2, 2)
    expected = engine.velocity(x, 0.3)
    strided = torch.stack([x, x], -1)[..., 0]
    permuted = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    for same in (strided, permuted, x.to(memory_format=torch.channels_last), x[:1].expand(4, 2, 2, 2)):
        answer = engine.velocity(same, 0.3)
        assert torch.equal(
            answer, expected if same.shape == x.shape and torch.equal(same, x) else expected[:1].expand_as(x)
        )


@pytest.mark.parametrize(
    "options",
    [{}, {"labels": 1}, {"labels": torch.empty(0, dtype=torch.int64)}, {"exclude": 3}, {"labels": 1, "guidance": 2.0}],
)
def test_no_queries_have_no_answers(generator: torch.Generator, options: dict[str, Any]) -> None:
    engine = OracleEngine(weighted_data(generator))
    x = torch.empty(0, 5)
    for t in (0.5, torch.empty(0)):
        assert predictions(engine, x, t, **options).shape == (4, 0, 5)
        rest = {name: value for name, value in options.items() if name != "guidance"}
        assert engine.log_density(x, t, **rest).shape == (0,)
        posterior = engine.posterior(x, t, top_k=3, **rest)
        assert (posterior.mean.shape, posterior.top_indices.shape, posterior.route) == ((0, 5), (0, 3), ())


def test_more_queries_than_are_scanned_together(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = OracleEngine(weighted_data(generator))
    x, t = normal(50, 5, generator), torch.rand(50, generator=generator, dtype=torch.float64)
    labels, exclude = (
        torch.stack(
            [torch.randint(-1, 2, (50,), generator=generator), torch.randint(2, 4, (50,), generator=generator)], 1
        ),
        torch.randint(-1, 60, (50,), generator=generator),
    )
    whole = engine.velocity(x, t, labels=labels, exclude=exclude, guidance=2.0)
    posterior = engine.posterior(x, t, labels=labels, exclude=exclude)
    monkeypatch.setattr("oracle_engine.queries.classes.MAX_BATCH", 7)
    assert_close(engine.velocity(x, t, labels=labels, exclude=exclude, guidance=2.0), whole, "bar")
    assert_same_posterior(engine.posterior(x, t, labels=labels, exclude=exclude), posterior, "moment")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_both_backends_give_the_same_posterior(generator: torch.Generator, dtype: torch.dtype) -> None:
    data = OracleDataset(stored_as(normal(200, 64, generator), dtype), torch.arange(200) % 3)
    t = torch.tensor([0.01, 0.2, 0.4, 0.6, 0.8, 0.99], dtype=torch.float64)
    values = data.rows.stored.double() * data.value_map.scale + data.value_map.offset
    x = t[:, None] * values[:6] + data.value_map.scale * (1 - t[:, None]) * normal(6, 64, generator)
    ours, truth = OracleEngine(data, backend="torch"), OracleEngine(data, backend="reference")
    assert_same_answers(ours, truth, x, t)
    assert torch.equal(ours.posterior(x, t).top_indices[:, 0], truth.posterior(x, t).top_indices[:, 0])
