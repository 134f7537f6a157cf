"""The straight way answers as the general way does, refuses nothing by itself, and does next to nothing in Python."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from closed_form import generators, normal, stored_as, times
from engine_cases import PREDICTIONS
from hypothesis import given
from hypothesis import strategies as st
from tolerances import assert_close
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import oracle_engine as oe
from oracle_engine import OracleDataset, OracleEngine
from oracle_engine.base.arrays import STORAGE_DTYPES
from oracle_engine.base.outputs import rounded_answer
from oracle_engine.kernels import NativeAnswers, native_library
from oracle_engine.queries.modes import Budget, FullScan, TopK

pytestmark = pytest.mark.skipif(native_library().library is None, reason=native_library().reason)

OUTPUTS = {
    torch.float16: "float16 output",
    torch.bfloat16: "bfloat16 output",
    torch.float32: "float32 output",
    torch.float64: "float64",
}


class Operations(TorchDispatchMode):
    """Notes the operations of torch."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def in_general(engine: OracleEngine, name: str, x: Tensor, t: Any) -> Tensor:
    """Return what the general way answers."""
    request = engine.request_builder.request(x, t)
    return rounded_answer(engine.responder.values(name, request, x.dtype), name, x.dtype, x.shape)


def straight(engine: OracleEngine, name: str, x: Tensor, t: Any) -> Tensor | None:
    """Return what the straight way answers, if it does."""
    assert engine.straight is not None
    return engine.straight.answer(name, x, t)


def assert_parity(engine: OracleEngine, x: Tensor, t: Any, *, always: bool = True) -> None:
    """Compare both ways; always: whether the straight one must have an answer."""
    for name in PREDICTIONS:
        found = straight(engine, name, x, t)
        assert not always or found is not None
        if found is None:
            continue
        expected = in_general(engine, name, x, t)
        assert (found.shape, found.dtype, found.is_contiguous()) == (x.shape, x.dtype, True)
        size = expected.double().abs().amax().clamp_min(1.0)
        assert_close(found, expected, OUTPUTS[x.dtype], scale=size)


@given(
    generators(),
    st.sampled_from(STORAGE_DTYPES),
    st.sampled_from(list(OUTPUTS)),
    st.sampled_from([1, 5, 16, 40, 130]),
    st.integers(1, 40),
    st.one_of(times(), st.none()),
)
def test_parity_over_dtypes_times_and_weights(
    generator: torch.Generator, storage: torch.dtype, dtype: torch.dtype, dim: int, batch: int, t: float | None
) -> None:
    count = 1 + int(torch.randint(300, (1,), generator=generator))
    weights = torch.rand(count, generator=generator, dtype=torch.float64) if count % 2 else None
    engine = OracleEngine(OracleDataset(stored_as(normal(count, dim, generator), storage), weights=weights))
    drawn = torch.rand(batch, generator=generator, dtype=torch.float64).clamp(1e-4, 1 - 1e-4)
    time = drawn if t is None else torch.full((batch,), t, dtype=torch.float64)
    samples = engine.data[torch.randint(count, (batch,), generator=generator)].double().reshape(batch, dim)
    x = (time[:, None] * samples + (1 - time[:, None]) * normal(batch, dim, generator)).to(dtype)
    # an answer may be too large for 16 bits, and too many near samples are scanned again in float64
    assert_parity(engine, x, drawn if t is None else t, always=False)


@pytest.mark.parametrize("path", ["rectified_flow", "gvp", "vp", "linear_vp", "polynomial", "edm"])
@pytest.mark.parametrize("point_std", [0.0, 0.1])
def test_parity_along_every_path(generator: torch.Generator, path: str, point_std: float) -> None:
    data = OracleDataset(normal(50, 6, generator).reshape(50, 2, 3))
    engine = OracleEngine(data, path, point_std=point_std, t_max=0.8)
    x = normal(4, 6, generator).reshape(4, 2, 3)
    each = torch.tensor([0.1, 0.5, 0.7, 0.95])
    for t in (0.0, 1, torch.tensor(0.5), each):
        assert_parity(engine, x, t)
    assert_parity(engine, x.transpose(1, 2).contiguous().transpose(1, 2), each.double().reshape(4, 1, 1))


@pytest.mark.parametrize(("batch", "t"), [(1, 0.3), (16, 0.3), (1, torch.tensor([0.3])), (4, torch.tensor(0.3))])
def test_a_call_at_one_time_is_one_call_of_the_library(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, batch: int, t: Any
) -> None:
    engine = OracleEngine(OracleDataset(normal(60, 5, generator).float()))
    x = normal(batch, 5, generator).float()
    expected = in_general(engine, "velocity", x, t)
    calls: list[bool] = []
    write = NativeAnswers.write

    def counted(self: NativeAnswers, *arguments: Any) -> bool:
        calls.append(write(self, *arguments))
        return calls[-1]

    monkeypatch.setattr(NativeAnswers, "write", counted)
    assert engine.straight is not None
    with Operations() as operations:
        found = engine.velocity(x, t)
    assert torch.equal(found, expected)
    assert calls == [True]
    # room for the answer, and the number of a tensor that holds one
    assert operations.names in (["empty_like"], ["_local_scalar_dense", "empty_like"])


def test_times_for_each_query_cost_few_operations(generator: torch.Generator) -> None:
    engine = OracleEngine(OracleDataset(normal(60, 5, generator).float()))
    x, t = normal(16, 5, generator).float(), torch.linspace(0.1, 0.9, 16, dtype=torch.float64)
    assert engine.straight is not None
    with Operations() as operations:
        found = engine.velocity(x, t)
    assert torch.equal(found, in_general(engine, "velocity", x, t))
    assert len(operations.names) <= 12


def test_what_is_no_plain_question_takes_the_general_way(generator: torch.Generator) -> None:
    labels = torch.arange(20) % 4
    engine = OracleEngine(OracleDataset(normal(20, 8, generator).float(), labels))
    x = normal(3, 8, generator).float()
    assert straight(engine, "log_density", x, 0.5) is None
    for odd in (x[:0], x[:, :7], x[0], x.long(), torch.nn.Parameter(x), x.to_sparse(), x[None]):
        assert straight(engine, "velocity", odd, 0.5) is None
    for t in (-0.1, 1.1, torch.nan, 1.0, "0.5", [0.5] * 3, torch.full((2,), 0.5), torch.tensor([0.1, 0.5, 1.2])):
        assert straight(engine, "velocity", x, t) is None
    answers = [engine.velocity(x, 0.5, labels=1), engine.velocity(x, 0.5, exclude=3), engine.velocity(x, [0.5] * 3)]
    assert all(answer.shape == x.shape for answer in answers)
    assert torch.equal(answers[2], engine.velocity(x, 0.5))


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_what_cannot_be_answered_is_refused_in_the_words_of_the_general_way(
    generator: torch.Generator, wrong: float
) -> None:
    points = normal(60, 5, generator).float()
    engine = OracleEngine(OracleDataset(points))
    x = normal(3, 5, generator).float()
    bad = x.clone()
    bad[1, 3] = wrong
    with pytest.raises(oe.InputError, match=r"x. must be finite.*query 1"):
        engine.velocity(bad, 0.5)
    with pytest.raises(oe.InputError, match=r"t. must lie in"):
        engine.velocity(x, 1.5)
    with pytest.raises(oe.InputError, match=r"t. must leave some noise"):
        engine.velocity(x, 1.0)
    with pytest.raises(oe.InputError, match="dtype that holds the answer"):
        engine.velocity(x.half(), 1 - 1e-7)
    points.numpy()[:] = 0.0
    with pytest.raises(oe.InputError, match=r"data. must stay as they were"):
        engine.velocity(x, 0.5)


def test_a_change_that_torch_counts_is_noticed(generator: torch.Generator) -> None:
    points = normal(500, 5, generator).float()
    engine, x = OracleEngine(OracleDataset(points)), normal(3, 5, generator).float()
    engine.velocity(x, 0.5)
    points[0, 0] += 1.0
    with pytest.raises(oe.InputError, match=r"data. must stay as they were"):
        engine.velocity(x, 0.5)


def test_more_rows_than_are_listed_are_left_to_the_general_way(generator: torch.Generator) -> None:
    # near duplicates that rounding cannot tell apart: each query lists all of them
    crowd = normal(1, 784, generator) + 1e-4 * normal(600, 784, generator)
    engine = OracleEngine(OracleDataset(torch.cat([crowd, normal(600, 784, generator)]).float()))
    x = (0.95 * crowd[:2] + 0.05 * normal(2, 784, generator)).float()
    assert straight(engine, "velocity", x, 0.95) is None
    assert torch.equal(engine.velocity(x, 0.95), in_general(engine, "velocity", x, 0.95))


def test_rows_may_move_and_modes_may_change(generator: torch.Generator) -> None:
    data = OracleDataset(normal(300, 40, generator).float())
    engine, x = OracleEngine(data), normal(3, 40, generator).float()
    before = engine.velocity(x, 0.5)
    data.rows.stored.share_memory_()
    assert torch.equal(engine.velocity(x, 0.5), before)
    for mode, scans in ((Budget(), False), (TopK(), False), (FullScan(), True)):
        engine.mode = mode
        assert (engine.straight is not None) == scans


def test_a_negative_view_is_read_as_what_it_stands_for(generator: torch.Generator) -> None:
    engine = OracleEngine(OracleDataset(normal(60, 5, generator)))
    x = torch.view_as_complex(normal(3, 10, generator).reshape(3, 5, 2)).conj().imag
    assert x.is_neg()
    assert torch.equal(engine.velocity(x, 0.5), engine.velocity(x.resolve_neg(), 0.5))


def test_queries_that_no_search_helps_take_the_straight_way(generator: torch.Generator) -> None:
    data = OracleDataset(normal(3000, 96, generator).float())
    scans, engine = OracleEngine(data, mode="exact"), OracleEngine(data).prepare("pca")
    assert engine.index is not None
    assert engine.index.screen is not None
    screen = replace(engine.index.screen, thresholds=((9.0,) * len(engine.index.screen.widths),) * 3)
    engine.index = replace(engine.index, screen=screen)
    # alpha^2 / sigma^2 is 9 at t = .75
    x = normal(4, 96, generator).float()
    for t in (0.5, 0.74, torch.tensor([0.1, 0.74, 0.3, 0.5])):
        assert engine.posterior(x, t).route == ("exact",) * 4
        found = straight(engine, "velocity", x, t)
        assert found is not None
        assert torch.equal(found, scans.velocity(x, t))
    for t in (0.76, torch.tensor([0.1, 0.76, 0.3, 0.5])):
        assert straight(engine, "velocity", x, t) is None
    near = (0.9 * data.rows.stored[:4] + 0.1 * x).float()
    assert straight(engine, "velocity", near, 0.9) is None
    assert engine.posterior(near, 0.9).route == ("screen",) * 4


def test_the_width_of_samples_counts_as_noise_where_a_search_begins(generator: torch.Generator) -> None:
    data = OracleDataset(normal(3000, 96, generator).float())
    engine = OracleEngine(data, point_std=0.5).prepare("pca")
    assert engine.index is not None
    assert engine.index.screen is not None
    screen = replace(engine.index.screen, thresholds=((2.0,) * len(engine.index.screen.widths),) * 3)
    engine.index = replace(engine.index, screen=screen)
    x = normal(4, 96, generator).float()
    # alpha^2 / (sigma^2 + alpha^2 / 4) is 2 at t = sqrt(2) / (1 + sqrt(2)) = .586 without width, at .667 with it
    assert straight(engine, "velocity", x, 0.66) is not None
    assert straight(engine, "velocity", x, 0.67) is None
