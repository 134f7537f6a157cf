"""Ranks with queries of their own train as one process does; draws, targets, stages and samplers see the whole data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from closed_form import clusters, normal
from rank_cases import on_ranks
from tolerances import assert_close, assert_rows_close, assert_within
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import oracle_engine as oe
from oracle_engine import InputError, OracleDataset, OracleEngine

COUNT, DIM, BATCH = 120, 8, 10


def make_data() -> OracleDataset:
    """Return samples of five classes."""
    generator = torch.Generator().manual_seed(8)
    return OracleDataset(clusters(COUNT, DIM, generator), torch.arange(COUNT) * 7 % 5)


DATA = make_data()


def make_queries() -> tuple[Tensor, Tensor]:
    """Return queries made from the first samples at several times."""
    t = torch.linspace(0.05, 0.95, BATCH, dtype=torch.float64)
    noise = normal(BATCH, DIM, torch.Generator().manual_seed(9))
    return oe.path_sample("rectified_flow", DATA[:BATCH].double(), noise, t), t


def part_of(rank: int) -> slice:
    """Return which queries a rank of two has: not equally many."""
    return slice(0, 3) if rank == 0 else slice(3, BATCH)


def own_answers(engine: OracleEngine, part: slice) -> dict[str, Tensor]:
    """Return what an engine answers to some of the queries."""
    x, t = (held[part] for held in make_queries())
    assert DATA.labels is not None
    labels, every = DATA.labels[:BATCH][part], torch.arange(BATCH)[part]
    # the first queries are not guided: one rank has none that is
    scale = torch.where(every < 3, 1.0, 2.5)
    leaf, time = x.clone().requires_grad_(), t.clone().requires_grad_()
    guided = engine.velocity(leaf, time, labels=labels, guidance=scale)
    guided.square().sum().backward()
    assert leaf.grad is not None
    assert time.grad is not None
    return {
        "guided": guided.detach(),
        "gradient": leaf.grad,
        "slope": time.grad[:, None],
        "left out": engine.velocity(x, t, exclude=every),
        "density": engine.log_density(x, t, labels=labels)[:, None],
        # one rank knows no source
        "sources": engine.velocity(x, t, source=torch.where(every < 3, -1, every)),
        "values": engine.data[every],
    }


def test_ranks_with_queries_of_their_own_get_their_answers(tmp_path: Path) -> None:
    found = on_ranks(tmp_path, 2, lambda rank: own_answers(oe.sharded(DATA, queries="own"), part_of(rank)))
    true = own_answers(OracleEngine(DATA, backend="reference"), slice(None))
    for name, expected in true.items():
        scale = 1.0 + expected.norm(dim=1)
        assert_rows_close(torch.cat([answered[name] for answered in found]), expected, "bar", scale)


def test_a_rank_may_have_no_query(tmp_path: Path) -> None:
    x, t = make_queries()

    def work(rank: int) -> Tensor:
        part = slice(0) if rank == 0 else slice(None)
        return oe.sharded(DATA, queries="own").velocity(x[part], t[part])

    first, second = on_ranks(tmp_path, 2, work)
    assert first.shape == (0, DIM)
    assert_rows_close(second, OracleEngine(DATA, backend="reference").velocity(x, t), "bar")


def gradients(engine: OracleEngine, part: slice, wrap: Any = lambda model: model) -> list[Tensor]:
    """Return the gradients of a student after a step on some of the queries, each weighed by the whole batch."""
    torch.manual_seed(0)
    student = torch.nn.Sequential(torch.nn.Linear(DIM, 6), torch.nn.Tanh(), torch.nn.Linear(6, DIM))
    model = wrap(student)
    x, t = make_queries()
    target = oe.OracleTarget(engine)(x[part].float(), t[part], source=torch.arange(BATCH)[part])
    (model(x[part].float()) - target).square().sum(1).mean().backward()
    found = [weight.grad for weight in model.parameters()]
    return [grad.full_tensor() if hasattr(grad, "full_tensor") else grad for grad in found if grad is not None]


def fully_sharded(model: torch.nn.Module) -> Any:
    mesh = init_device_mesh("cpu", (2,))
    return fully_shard(model, mesh=mesh)


@pytest.mark.parametrize("wrap", [DistributedDataParallel, fully_sharded])
def test_a_student_on_two_ranks_has_the_gradients_of_one_process(tmp_path: Path, wrap: Any) -> None:
    def work(rank: int) -> list[Tensor]:
        part = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
        return gradients(oe.sharded(DATA, queries="own"), part, wrap)

    alone = gradients(OracleEngine(DATA, backend="reference"), slice(None))
    for answered in on_ranks(tmp_path, 2, work):
        for own, expected in zip(answered, alone, strict=True):
            assert_close(own, expected, "float32 sums")


def shared_work(engine: OracleEngine) -> dict[str, Any]:
    """Return what goes through many calls of an engine, from one seed."""
    x, t = make_queries()
    generator = torch.Generator().manual_seed(3)
    target = oe.OracleTarget(engine, estimate=oe.References(16, generator=generator))
    report = oe.analyse(engine, times=[0.2, 0.6], queries=24, strip=2)
    start = oe.samplers.initial_noise(engine, 2, generator=torch.Generator().manual_seed(4))
    run = oe.samplers.sample(engine, start, torch.linspace(0.0, 1.0, 5))
    return {
        "references": target(x, t, source=torch.arange(BATCH)),
        "stages": torch.tensor([[point.top_weight, point.velocity_variance] for point in report.points]),
        "run": run.x,
        "variance": torch.tensor([engine.data.variance_per_dim, *engine.data.value_range]),
    }


def test_what_asks_again_and_again_sees_the_whole_data(tmp_path: Path) -> None:
    expected = shared_work(OracleEngine(DATA))
    for answered in on_ranks(tmp_path, 2, lambda rank: shared_work(oe.sharded(DATA))):
        for name, value in expected.items():
            assert_close(answered[name], value, "moment")


def test_draws_have_the_posterior_weights_whatever_the_number_of_ranks(tmp_path: Path) -> None:
    x, draws = torch.zeros(1, DIM), 4000

    def work(rank: int) -> Tensor:
        generator = torch.Generator().manual_seed(rank)  # that of rank 0 counts
        return oe.posterior_draw(oe.sharded(DATA), x.expand(draws, DIM), 0.4, generator=generator)

    first, second = on_ranks(tmp_path, 2, work)
    assert torch.equal(first, second)
    assert torch.equal(first, *on_ranks(tmp_path, 1, work))
    true = OracleEngine(DATA).posterior(x, 0.4, top_k=5)
    weights = true.top_weights[0]
    counted = torch.stack([(first == index).double().mean() for index in true.top_indices[0]])
    assert_within((counted - weights) / (weights * (1 - weights) / draws).sqrt(), "standard errors")


def test_references_of_ranks_with_queries_of_their_own_are_refused(tmp_path: Path) -> None:
    x, t = make_queries()

    def work(rank: int) -> str:
        target = oe.OracleTarget(oe.sharded(DATA, queries="own"), estimate=oe.References(16))
        with pytest.raises(InputError) as caught:
            target(x, t, source=torch.arange(BATCH))
        return str(caught.value)

    assert all(words.startswith("`estimate` must be drawn") for words in on_ranks(tmp_path, 2, work))
