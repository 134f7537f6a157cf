"""Scans made of Triton kernels give the states of the float64 reference, and launch and allocate what they should."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from kernel_problems import DTYPES, SMALL_BLOCKS, all_times, compare, make_query, make_rows, scanned
from recording import Waiting, begin_capture
from torch import Tensor

from oracle_engine.base.errors import InputError
from oracle_engine.kernels import Span, Wanted, prepare_rows, reference_state
from oracle_engine.kernels.common.work import Work
from oracle_engine.kernels.gpu.core import configs
from oracle_engine.kernels.gpu.core.devices import Device
from oracle_engine.kernels.gpu.rescore.doubt import Doubt
from oracle_engine.kernels.gpu.rescore.lists import RescoreList
from oracle_engine.kernels.gpu.rescore.rescored import Rescored
from oracle_engine.kernels.gpu.scans import launch_checks, scan
from oracle_engine.kernels.gpu.scans.memory import triton_memory


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("dim", "moments"), [(2, False), (20, False), (20, True), (77, True)])
def test_every_time_and_dtype(dtype: torch.dtype, dim: int, moments: bool, generator: torch.Generator) -> None:
    rows = make_rows(dtype, 140, dim, generator)
    compare(rows, make_query(rows, all_times(9), generator), Wanted(moments=moments))


@pytest.mark.parametrize("stray", [0.0, 3.0])
@pytest.mark.parametrize("dim", [20, 77])
def test_off_the_path(stray: float, dim: int, generator: torch.Generator) -> None:
    rows = make_rows(torch.float16, 140, dim, generator)
    compare(rows, make_query(rows, all_times(9), generator, stray=stray), Wanted())


@pytest.mark.parametrize("dim", [20, 77])
@pytest.mark.parametrize("wanted", [Wanted(), Wanted(mean=False), Wanted(moments=True, top_k=3)], ids=str)
def test_excluded_ranges_weights_and_spans(dim: int, wanted: Wanted, generator: torch.Generator) -> None:
    rows = make_rows(torch.float16, 150, dim, generator, weighted=True)
    query = make_query(rows, all_times(9), generator, excluded=2)
    compare(rows, query, wanted, Span(13, 149))


@pytest.mark.parametrize("dim", [20, 77])
def test_data_far_from_the_origin(dim: int, generator: torch.Generator) -> None:
    rows = make_rows(torch.float32, 140, dim, generator, offset=30.0)
    assert not rows.raw_operand
    compare(rows, make_query(rows, all_times(9), generator), Wanted())


@pytest.mark.parametrize("dim", [20, 77])
def test_a_query_without_a_sample_has_none(dim: int, generator: torch.Generator) -> None:
    rows = make_rows(torch.float16, 70, dim, generator)
    query = make_query(rows, all_times(3), generator, excluded=1)
    excluded = query.excluded.clone()
    excluded[1] = torch.tensor([0, 70])
    state = scanned(Work(rows, replace(query, excluded=excluded), Span(0, 70), Wanted(moments=dim > 50)))
    assert state.lse[1] == -torch.inf
    assert state.mean.isfinite().all()
    assert state.lse[[0, 2]].isfinite().all()


@pytest.mark.parametrize("top_k", [1, 5, 140])
def test_top_k_names_the_heaviest(top_k: int, generator: torch.Generator) -> None:
    rows = make_rows(torch.bfloat16, 140, 77, generator)
    compare(rows, make_query(rows, all_times(5), generator, excluded=1), Wanted(top_k=top_k))


@pytest.mark.parametrize("dim", [20, 77])
@pytest.mark.parametrize("part", [1, 128 << 20])
@pytest.mark.parametrize("wanted", [Wanted(), Wanted(moments=True)], ids=str)
def test_overflowed_queries_are_rescored_in_float64(
    dim: int, part: int, wanted: Wanted, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    overflowed = []

    class Watched(Rescored):
        @classmethod
        def of(cls, work: Work, rescore_list: RescoreList, doubt: Doubt | None = None) -> Rescored:
            overflowed.append(rescore_list.overflowed.tolist())
            return Rescored.of(work, rescore_list, doubt)

    monkeypatch.setattr(scan, "Rescored", Watched)
    rows = make_rows(torch.float16, 20, dim, generator)
    # every sample 40 times: late in time the copies of the nearest share the weight
    copies = prepare_rows(rows.stored.repeat(40, 1), None)
    query = make_query(copies, torch.tensor([0.002, 0.99]).double(), generator)
    compare(copies, query, wanted, Span(7, 799), replace(SMALL_BLOCKS, least_rescored=32, logit_bytes=part))
    assert overflowed == [[False, True]]


def test_what_is_wanted_decides_the_kernels(counted: Counter[str], generator: torch.Generator) -> None:
    # a fused scan scores once more for its statistics, and what is narrow is scanned in float64 alone
    for dim, wanted, expected in [
        (20, Wanted(), (2, 0, 2)),
        (20, Wanted(moments=True), (4, 2, 2)),
        (77, Wanted(), (6, 4, 2)),
        (77, Wanted(mean=False), (8, 4, 2)),
        (16, Wanted(), (8, 4, 2)),
    ]:
        rows = make_rows(torch.float16, 100, dim, generator)
        scanned(Work(rows, make_query(rows, all_times(2), generator), Span(0, 100), wanted))
        assert tuple(counted[name] for name in ("score", "weigh", "fused")) == expected


@pytest.mark.parametrize("dim", [20, 77])
def test_equal_calls_give_equal_bits(dim: int, generator: torch.Generator) -> None:
    rows = make_rows(torch.float32, 140, dim, generator)
    query = make_query(rows, all_times(9), generator)
    first, second = (scanned(Work(rows, query, Span(0, 140), Wanted())) for _ in range(2))
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(first.lse, second.lse)


def test_what_cannot_run_is_refused_in_words(generator: torch.Generator) -> None:
    rows = make_rows(torch.float32, 10, 8, generator)
    query = make_query(rows, all_times(2), generator)
    wide = prepare_rows(rows.stored.double(), None)
    with pytest.raises(InputError, match="float64"):
        scanned(Work(wide, query, Span(0, 10), Wanted()))
    with pytest.raises(InputError, match="at least one value"):
        scanned(Work(rows, query, Span(3, 3), Wanted()))
    turned = replace(rows, stored=rows.stored.T.contiguous().T)
    with pytest.raises(InputError, match="contiguous"):
        scanned(Work(turned, query, Span(0, 10), Wanted()))
    tiny = Device("tiny", "sm_90", 1, 1024)
    with pytest.raises(InputError, match="1024 bytes of shared memory"):
        launch_checks.check_shared_memory(configs.choose(tiny, torch.float16, 64, 4096), torch.float16)


@pytest.mark.parametrize("dim", [20, 77])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_a_block_takes_no_more_memory_than_planned(
    dim: int, offset: float, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows(torch.float32, 140, dim, generator, offset=offset)
    query = make_query(rows, all_times(40), generator)
    allocate, taken = torch.Tensor.new_empty, []

    def new_empty(self: Tensor, *size: Any, **options: Any) -> Tensor:
        fresh = allocate(self, *size, **options)
        taken.append(fresh.nbytes)
        return fresh

    monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)
    state = scanned(Work(rows, query, Span(0, 64), Wanted()))
    planned = triton_memory(rows, 40, limits=SMALL_BLOCKS)
    assert sum(taken) + state.mean.nbytes < planned
    # twice the queries need more, but less than twice: blocks shrink with them
    assert planned < triton_memory(rows, 80, limits=SMALL_BLOCKS) < 2 * planned


@pytest.mark.parametrize("dim", [20, 77])
@pytest.mark.parametrize("captured", [False, True])
def test_nothing_waits_for_the_device(
    dim: int, captured: bool, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # where lists may be followed by several parts, the host may read whether they are needed; not in a graph
    limits = replace(SMALL_BLOCKS, logit_bytes=1) if captured else SMALL_BLOCKS
    if captured:
        begin_capture(monkeypatch)
    rows = make_rows(torch.float16, 340, dim, generator, weighted=True)
    query = make_query(rows, all_times(9), generator, excluded=1)
    with Waiting() as waiting:
        state = scanned(Work(rows, query, Span(0, 340), Wanted(moments=dim > 50)), limits=limits)
    assert waiting.found == []
    torch.testing.assert_close(
        state.lse, reference_state(Work(rows, query, Span(0, 340), Wanted())).lse, rtol=2e-6, atol=1e-5
    )
