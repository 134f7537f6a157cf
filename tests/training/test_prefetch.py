"""Targets computed ahead: the same results in the same order, one under way while the caller works, nothing lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from closed_form import normal
from torch import Tensor

from oracle_engine import InputError, OracleDataset, OracleEngine, OracleTarget, path_sample, prefetched


@pytest.mark.parametrize("depth", [1, 3, 9])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_results_come_in_order(depth: int, count: int) -> None:
    assert list(prefetched(lambda n: n * n, range(count), depth=depth)) == [n * n for n in range(count)]


def test_targets_are_those_of_the_loop_without_it(generator: torch.Generator) -> None:
    engine = OracleEngine(OracleDataset(normal(50, 6, generator).float()))
    target = OracleTarget(engine)
    sources = torch.randint(50, (5, 8), generator=generator)

    def compute(source: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        x1, t = engine.data[source], torch.rand(8, generator=noise)
        x_t = path_sample(engine.path, x1, torch.randn(8, 6, generator=noise), t)
        return x_t, t, target(x_t, t, source=source)

    first, second = (torch.Generator().manual_seed(5) for _ in range(2))
    ahead = list(prefetched(lambda source: compute(source, first), sources))
    for (x_t, t, u), source in zip(ahead, sources, strict=True):
        expected = compute(source, second)
        assert all(map(torch.equal, (x_t, t, u), expected))


def test_the_next_is_under_way_while_the_caller_works() -> None:
    begun = [threading.Event() for _ in range(3)]

    def compute(n: int) -> int:
        begun[n].set()
        return n

    results = prefetched(compute, range(3))
    for n in results:
        # would wait for ever if the next one began only after this one
        assert n == 2 or begun[n + 1].wait(20.0)


@pytest.mark.parametrize("depth", [1, 2])
def test_no_more_batches_are_asked_for_than_are_under_way(depth: int) -> None:
    asked: list[int] = []

    def batches() -> Iterator[int]:
        for n in range(10):
            asked.append(n)
            yield n

    results = prefetched(lambda n: n, batches(), depth=depth)
    assert asked == []
    for n in (0, 1, 2):
        assert next(results) == n
        assert len(asked) == n + 1 + depth


def test_an_error_comes_where_its_result_would_be() -> None:
    def compute(n: int) -> float:
        return 1.0 / (2 - n)

    results = prefetched(compute, range(5), depth=2)
    assert [next(results), next(results)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_leaving_the_loop_stops_the_work() -> None:
    done: list[int] = []
    before = threading.active_count()

    def compute(n: int) -> int:
        done.append(n)
        return n

    for n in prefetched(compute, range(100), depth=2):
        if n == 1:
            break
    else:
        raise AssertionError("the loop was left")
    del n
    assert len(done) <= 4
    assert threading.active_count() == before


def test_work_ahead_carries_no_graph() -> None:
    weight = torch.ones(3, requires_grad=True)
    (result,) = prefetched(lambda n: weight * n, [2.0])
    assert not result.requires_grad
    assert torch.is_grad_enabled()


def test_what_cannot_be_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"`depth` must be at least 1"):
        prefetched(lambda n: n, [1], depth=0)
    with pytest.raises(InputError, match=r"`device` must be there; received cuda without a CUDA device"):
        prefetched(lambda n: n, [1], device="cuda")
