"""The native scan gives the states of the float64 reference: every shape, storage, regime, hole and weight."""

from __future__ import annotations

import copy
import math
import multiprocessing
import pickle
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from closed_form import FAMILIES, generators, normal, stored_as
from hypothesis import given
from hypothesis import strategies as st
from row_cases import EVERYTHING, MEAN_ONLY, assert_identical, assert_state_parity, make_query, whole
from tolerances import assert_close
from torch import Tensor

from oracle_engine.base.arrays import STORAGE_DTYPES
from oracle_engine.kernels import (
    PosteriorState,
    Query,
    Rows,
    Span,
    Wanted,
    Work,
    native_library,
    native_state,
    prepare_rows,
)
from oracle_engine.kernels.common.rounding import logit_error, windows
from oracle_engine.kernels.native import scan as native_scan
from oracle_engine.kernels.native.scan import NATIVE_LIMITS, NativeLimits, NativeScan
from oracle_engine.kernels.portable import single as portable_single
from oracle_engine.kernels.portable.double import DOUBLE_LIMIT, double_state
from oracle_engine.kernels.portable.scan import posterior_state

pytestmark = pytest.mark.skipif(native_library().library is None, reason=native_library().reason)

# blocks and calls of few rows and two threads, as those of a large data set are beside it
SMALL = NativeLimits(block_rows=12, step_operations=1.0, threads=2)


def assert_parity(
    rows: Rows, query: Query, span: Span | None = None, wanted: Wanted = EVERYTHING, limits: NativeLimits = SMALL
) -> PosteriorState:
    work = Work(rows, query, span or whole(rows), wanted)
    return assert_state_parity(native_state(work, limits=limits), work)


@pytest.mark.parametrize("dim", [1, 31, 65, 784])
@pytest.mark.parametrize("count", [1, 2, 63, 1000])
def test_parity_on_odd_shapes(generator: torch.Generator, count: int, dim: int) -> None:
    rows = prepare_rows(normal(count, dim, generator).float(), None)
    for batch in (1, 2, 3, 4, 17) if count < 1000 else (17,):
        query = make_query(rows, generator, batch)
        assert_parity(rows, query)
        assert_parity(rows, query, wanted=MEAN_ONLY, limits=NATIVE_LIMITS)


@pytest.mark.parametrize("name", ["clusters", "nearer duplicates", "one direction"])
@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
def test_parity_for_every_storage(generator: torch.Generator, dtype: torch.dtype, name: str) -> None:
    rows = prepare_rows(stored_as(FAMILIES[name](300, 96, generator), dtype), None)
    for batch in (1, 3, 8):
        query = make_query(rows, generator, batch)
        assert_parity(rows, query)
        assert_parity(rows, query, wanted=MEAN_ONLY)


@pytest.mark.parametrize("dim", [130, 784])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_parity_of_products_in_digits_on_odd_shapes(
    generator: torch.Generator, target: str, dtype: torch.dtype, dim: int
) -> None:
    rows = prepare_rows(stored_as(normal(63, dim, generator), dtype), None)
    for batch in (*range(1, 9), 17):
        query = make_query(rows, generator, batch)
        assert_parity(rows, query)
        assert_parity(rows, query, wanted=MEAN_ONLY, limits=NATIVE_LIMITS)


@given(generators(), st.integers(1, 200), st.sampled_from([1, 5, 40, 130]), st.integers(0, 3), st.integers(0, 12))
def test_parity_with_excluded_ranges_weights_and_any_top_k(
    generator: torch.Generator, count: int, dim: int, excluded: int, top_k: int
) -> None:
    weights = torch.rand(count, generator=generator, dtype=torch.float64)
    # a third of the samples, but not the first, does not count at all
    weights[1:][torch.rand(count - 1, generator=generator) < 1 / 3] = 0.0
    rows = prepare_rows(normal(count, dim, generator).float(), weights)
    query = make_query(rows, generator, excluded=excluded)
    start = int(torch.randint(count, (1,), generator=generator))
    for span in (whole(rows), Span(start, count), Span(0, start + 1)):
        assert_parity(rows, query, span, Wanted(moments=True, top_k=top_k))
        assert_parity(rows, query, span, MEAN_ONLY)
        assert_parity(rows, query, span, Wanted(mean=False, moments=True))


@pytest.mark.parametrize("dim", [4, 80])
def test_what_is_left_of_a_span_without_samples_is_the_empty_state(generator: torch.Generator, dim: int) -> None:
    weights = torch.ones(90, dtype=torch.float64)
    weights[:30] = 0.0
    rows = prepare_rows(normal(90, dim, generator).float(), weights)
    query = make_query(rows, generator)
    hidden = Query(query.point, query.alpha, query.inverse_variance, torch.tensor([[30, 90]]).repeat(len(query), 1, 1))
    for wanted in (EVERYTHING, MEAN_ONLY):
        empty = PosteriorState.empty(len(query), dim, wanted.top_k, rows.device)
        assert_identical(native_state(Work(rows, query, Span(0, 30), wanted)), empty)
        assert_identical(native_state(Work(rows, hidden, whole(rows), wanted)), empty)
        nobody = Work(rows, query.take(torch.arange(0)), whole(rows), wanted)
        assert_identical(native_state(nobody), nobody.nothing())


@pytest.mark.parametrize("order", ["rising", "falling"])
def test_a_running_maximum_may_move_any_distance(generator: torch.Generator, order: str) -> None:
    # the samples come nearer and nearer, or go away, over many blocks: logits climb by thousands of nats
    distance = torch.linspace(30, 0, 1000, dtype=torch.float64)[:, None]
    points = 0.1 * normal(1000, 80, generator) + (distance if order == "rising" else distance.flip(0))
    rows = prepare_rows(points.float(), None)
    for batch in (2, 8):
        assert_parity(rows, make_query(rows, generator, batch))


def test_many_near_duplicates_are_scanned_again_in_float64(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    again: list[int] = []

    def recorded(work: Work) -> PosteriorState:
        again.append(len(work.query))
        return double_state(work)

    monkeypatch.setattr(native_scan, "double_state", recorded)
    crowd = normal(1, 784, generator) + 1e-4 * normal(600, 784, generator)
    rows = prepare_rows(torch.cat([crowd, normal(600, 784, generator)]).float(), None)
    assert_parity(rows, make_query(rows, generator, times=(0.95,)))
    assert again


def scanned_again(
    monkeypatch: pytest.MonkeyPatch, module: Any, scan: Callable[[Work], PosteriorState], work: Work
) -> Tensor:
    """Which queries of `work` a scan leaves to the float64 scan of its `module`, [B]."""
    again: list[Tensor] = []

    def recorded(part: Work, *_: object) -> PosteriorState:
        again.extend(part.query.alpha)
        return double_state(part)

    monkeypatch.setattr(module, "double_state", recorded)
    scan(work)
    return torch.isin(work.query.alpha, torch.stack([work.query.alpha.new_tensor(-1.0), *again]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("heavy", [1, 2])
def test_queries_with_next_to_no_noise_are_scanned_again_as_the_portable_scan_does(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, heavy: int
) -> None:
    rows = prepare_rows(stored_as(normal(60, 80, generator), dtype), None)
    # on top of a sample and between two, with noise that hardly shows and some that does
    centre = (rows.gather(torch.arange(heavy)) - rows.centre).mean(0)
    noise = torch.logspace(-8, 0.5, 24, dtype=torch.float64)
    # by their alphas queries are told apart
    alpha = torch.linspace(0.4, 0.8, 24, dtype=torch.float64)
    sigma = 0.3 * rows.radius / math.sqrt(rows.dim)
    point = alpha[:, None] * centre + noise[:, None] * sigma * normal(24, 80, generator)
    query = Query(point, alpha, torch.full_like(alpha, sigma**-2), torch.empty(24, 0, 2, dtype=torch.int64))
    work = Work(rows, query, whole(rows), MEAN_ONLY)
    native = scanned_again(monkeypatch, native_scan, native_state, work)
    portable = scanned_again(monkeypatch, portable_single, posterior_state, work)
    assert native.tolist() == portable.tolist()
    assert 0 < int(native.sum()) < len(query)


@pytest.mark.parametrize("batch", [1, 24])
def test_the_same_threads_give_the_same_bits(generator: torch.Generator, batch: int) -> None:
    rows = prepare_rows(normal(3000, 200, generator).float(), None)
    work = Work(rows, make_query(rows, generator, batch), whole(rows), EVERYTHING)
    for threads in (1, 2, 3):
        limits = NativeLimits(threads=threads)
        assert_identical(native_state(work, limits=limits), native_state(work, limits=limits))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_windows_are_those_of_the_law(generator: torch.Generator, dtype: torch.dtype) -> None:
    rows = prepare_rows(normal(300, 90, generator).to(dtype), None)
    query = make_query(rows, generator, 16)
    library = native_library().library
    assert library is not None
    scan = NativeScan(Work(rows, query, whole(rows), MEAN_ONLY), library, NATIVE_LIMITS)
    # the library takes the centre off
    found, rows = scan.windows(query.alpha * 100), replace(rows, centre_off=True)
    if dtype == torch.float32:
        true = windows(rows, query, len(rows), logit_error(rows, query, dtype, query.alpha * 100))
        assert_close(found.weight, true.weight, "float64")
        assert_close(found.rescore, true.rescore, "float64")
    else:
        coarse = logit_error(rows, query, dtype) > DOUBLE_LIMIT
        assert bool(((found.rescore > -torch.inf) == coarse).all())


def test_rows_may_move_and_be_copied_after_a_scan(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(200, 30, generator).float(), None)
    work = Work(rows, make_query(rows, generator), whole(rows), EVERYTHING)
    true = native_state(work)
    copied = replace(work, rows=pickle.loads(pickle.dumps(rows)))
    # as torch does where it sends tensors to another process
    rows.stored.share_memory_()
    rows.half_norms.share_memory_()
    for one in (work, copied, replace(work, rows=copy.deepcopy(rows))):
        assert_identical(native_state(one), true)


def _answer(queue: Any, work: Work) -> None:
    # as workers of a DataLoader do: torch has the threads of its own products to think of
    torch.set_num_threads(1)
    queue.put(native_state(work, limits=NativeLimits(threads=2)).lse.tolist())


def test_a_forked_process_answers_too(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(4000, 100, generator).float(), None)
    work = Work(rows, make_query(rows, generator), whole(rows), MEAN_ONLY)
    true = native_state(work, limits=NativeLimits(threads=2)).lse
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with warnings.catch_warnings():
        # newer versions of Python say that a process with threads should not be forked, which is what is tried here
        warnings.simplefilter("ignore")
        process = context.Process(target=_answer, args=(queue, work), daemon=True)
        process.start()
    found = queue.get(timeout=60)
    process.join(60)
    assert process.exitcode == 0
    assert_close(torch.tensor(found, dtype=torch.float64), true, "moment")
