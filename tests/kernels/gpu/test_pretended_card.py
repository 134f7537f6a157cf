"""How many device calls, waits and compilations a call costs on a card, counted on one that is not there."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from recording import begin_capture

pytest.importorskip("triton")

from oracle_engine import InputError, OracleDataset, OracleEngine
from oracle_engine.kernels import Query, Span, Wanted, prepare_rows
from oracle_engine.kernels.common.work import Work
from oracle_engine.kernels.gpu.core.limits import DEFAULT_LIMITS
from oracle_engine.kernels.gpu.jit.interpreter import INTERPRET
from oracle_engine.kernels.gpu.scans.scan import triton_state
from oracle_engine.kernels.gpu.scans.segments import segments_state
from oracle_engine.kernels.gpu.tools.pretended_card import PretendedCard, pretended_card
from oracle_engine.kernels.screens import (
    FixedAllowance,
    Knowledge,
    Screen,
    SearchCosts,
    Shortlist,
    SideInformation,
    UpperLogits,
    screened,
)
from oracle_engine.kernels.screens.kinds.exact8 import stored_screen
from oracle_engine.kernels.screens.kinds.int8 import code_screen
from oracle_engine.kernels.screens.kinds.pca8 import leading_code_screen
from oracle_engine.scans import backends
from oracle_engine.search.index import Origin, SearchIndex

pytestmark = pytest.mark.skipif(INTERPRET, reason="the interpreter is on: nothing is compiled")

# device calls of an answer with one block of rows, of each further block, and of candidates for heaviest samples there
ANSWER, BLOCK, HEAVIEST = 44, 9, 3

# device calls of a search through two levels, and of each further level
SEARCH, LEVEL = 22, 6

# device calls of a late velocity that a search through two levels answers
LATE = 46


@pytest.fixture
def card() -> Iterator[PretendedCard]:
    """A pretended card."""
    with pretended_card() as pretended:
        yield pretended


def engine_of(dtype: torch.dtype, count: int, dim: int) -> OracleEngine:
    """Return an engine on the Triton kernels over samples drawn in a storage dtype."""
    values = torch.randn(count, dim, generator=torch.Generator().manual_seed(0))
    stored = values.to(dtype) if dtype.is_floating_point else (40 * values + 128).clamp(0, 255).to(dtype)
    return OracleEngine(OracleDataset(stored), backend="triton")


@pytest.mark.parametrize("dtype", [torch.float16, torch.uint8, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["velocity", "denoiser", "score", "noise", "log_density"])
def test_an_answer_takes_few_calls_and_one_wait(dtype: torch.dtype, name: str, card: PretendedCard) -> None:
    answer = getattr(engine_of(dtype, 700, 784), name)
    x, t = torch.randn(64, 784), torch.full((64,), 0.3)
    card.count(lambda: answer(x, t))
    calls = card.count(lambda: answer(x, t))
    assert calls.total <= ANSWER, calls
    assert calls.waits == 1, calls
    assert calls.compilations.total() == 0, calls


def test_statistics_and_heaviest_samples_take_one_wait(card: PretendedCard) -> None:
    engine = engine_of(torch.float16, 700, 784)
    x, t, own = torch.randn(64, 784), torch.full((64,), 0.3), torch.arange(64)
    for answer in (lambda: engine.posterior(x, t, top_k=8), lambda: engine.posterior(x, t, exclude=own)):
        card.count(answer)
        calls = card.count(answer)
        # no more by far than a velocity
        assert calls.total <= 2 * ANSWER, calls
        assert calls.waits == 1, calls


def test_posteriors_of_classes_cost_the_same_however_many_there_are(card: PretendedCard) -> None:
    points, x = torch.randn(720, 784).half(), torch.randn(48, 784)
    found = []
    for classes in (3, 6, 24):
        engine = OracleEngine(OracleDataset(points, labels=torch.arange(720) % classes), backend="triton")
        labels = torch.arange(48) % classes
        answer = partial(engine.posterior, x, 0.3, labels=labels)
        card.count(answer)
        found.append(card.count(answer))
    # few are answered by one scan of all rows, which costs less
    assert found[0].total <= found[1].total == found[2].total, found
    assert [calls.waits for calls in found] == [1, 1, 1], found


@pytest.mark.parametrize("guidance", [None, 2.0])
def test_classes_and_guidance_cost_the_same_however_many_there_are(guidance: float | None, card: PretendedCard) -> None:
    points, x = torch.randn(720, 784).half(), torch.randn(48, 784)
    found = []
    for classes in (3, 6, 24):
        engine = OracleEngine(OracleDataset(points, labels=torch.arange(720) % classes), backend="triton")
        answer = partial(
            engine.velocity, x, torch.full((48,), 0.3), labels=torch.arange(48) % classes, guidance=guidance
        )
        card.count(answer)
        found.append(card.count(answer))
    assert found[0].total <= found[1].total == found[2].total <= 60, found
    assert [calls.waits for calls in found] == [1, 1, 1], found


@pytest.mark.parametrize(("dim", "name", "most"), [(12, "velocity", 60), (784, "velocity", 60), (784, "posterior", 60)])
def test_unions_cost_the_same_however_many_classes_they_name(
    dim: int, name: str, most: int, card: PretendedCard
) -> None:
    data = OracleDataset(torch.randn(720, dim).half(), labels=torch.arange(720) % 48)
    engine, x, own = OracleEngine(data, backend="triton"), torch.randn(48, dim), torch.arange(48)
    found = []
    for classes in (2, 5):
        labels = (own[:, None] + torch.arange(classes)) % 48
        # some name fewer
        labels[::3, 1] = -1
        answer = partial(getattr(engine, name), x, 0.3, labels=labels)
        card.count(answer)
        found.append(card.count(answer))
    assert found[0].total == found[1].total <= most, found
    assert found[1].waits == 1, found[1]


def test_unions_of_many_columns_wait_once(card: PretendedCard) -> None:
    data = OracleDataset(torch.randn(720, 784).half(), labels=torch.arange(720) % 24)
    engine, x = OracleEngine(data, backend="triton"), torch.randn(48, 784)
    labels = (torch.arange(48)[:, None] + torch.arange(12)) % 24
    card.count(lambda: engine.velocity(x, 0.3, labels=labels))
    calls = card.count(lambda: engine.velocity(x, 0.3, labels=labels))
    # how many columns they need is read early
    assert (calls.total <= 60, calls.waits, calls.early) == (True, 1, 1), calls


@pytest.mark.parametrize("classes", [6, 24])
@pytest.mark.parametrize(("each", "name"), [(1, "velocity"), (2, "velocity"), (1, "posterior"), (2, "posterior")])
def test_blocks_of_long_classes_add_few_calls_however_many_there_are(
    classes: int, each: int, name: str, card: PretendedCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = OracleDataset(torch.randn(classes * 90, 784).half(), labels=torch.arange(classes * 90) % classes)
    labels = (torch.arange(96)[:, None] + torch.arange(each)) % classes
    calls, x = [], torch.randn(96, 784)
    for unit in (90, 30):
        limits = replace(DEFAULT_LIMITS, score_bytes=1, block_unit=unit)
        blocks = replace(backends.BACKENDS["triton"], segments=partial(segments_state, limits=limits))
        monkeypatch.setitem(backends.BACKENDS, "triton", blocks)
        answer = partial(getattr(OracleEngine(data, backend="triton"), name), x, 0.3, labels=labels)
        card.count(answer)
        calls.append(card.count(answer))
    assert [call.launches["panels_kernel"] for call in calls] == [1, 3], calls
    assert calls[0].total <= 60, calls[0]
    assert calls[1].total - calls[0].total <= 2 * (BLOCK + (HEAVIEST if name == "posterior" else 0)), calls
    assert [call.waits for call in calls] == [1, 1], calls


def test_classes_of_few_values_are_answered_by_one_scan(card: PretendedCard) -> None:
    data = OracleDataset(torch.randn(720, 12).half(), labels=torch.arange(720) % 24)
    answer = partial(
        OracleEngine(data, backend="triton").velocity, torch.randn(48, 12), 0.3, labels=torch.arange(48) % 24
    )
    card.count(answer)
    calls = card.count(answer)
    assert calls.launches["narrow_kernel"] == 1, calls
    assert (calls.total <= ANSWER, calls.waits) == (True, 1), calls


@pytest.mark.parametrize("free", [0, 5])
def test_queries_without_a_class_are_answered_beside_the_others(free: int, card: PretendedCard) -> None:
    data = OracleDataset(torch.randn(720, 784).half(), labels=torch.arange(720) % 24)
    answer = partial(
        OracleEngine(data, backend="triton").velocity, torch.randn(48, 784), 0.3, labels=torch.arange(48) % 24
    )
    # a card that is not there does not count these itself
    card.early = free
    card.count(answer)
    calls = card.count(answer)
    assert (calls.waits, calls.early) == (1, 1), calls
    # one scan of the classes, and one of everything where that is asked for
    assert calls.launches["score_kernel"] == calls.launches["weights_kernel"] == (2 if free else 1), calls


def searching_engine(data: OracleDataset, screen: Screen) -> OracleEngine:
    """Return an engine that tries a search for every query with more signal than noise."""
    levels, least = len(screen.widths), data.value_map.scale**2
    costs = SearchCosts.by_operations(784, [1] * levels)
    screen = replace(screen, measured_costs=costs, thresholds=((least,) * levels,) * len(Knowledge))
    engine = OracleEngine(data, backend="triton")
    engine.index = SearchIndex(screen.kind, "", Origin.of(data), data.rows.centre, screen, distances=None)
    return engine


def test_late_velocities_wait_once(card: PretendedCard) -> None:
    data = engine_of(torch.uint8, 700, 784).data
    kinds = (
        leading_code_screen(data.rows, (64, 128), product_cost=0.5),
        leading_code_screen(data.rows, (64, 128, 256), product_cost=0.5),
        code_screen(data.rows, product_cost=0.5),
        stored_screen(data.rows, 0.5),
    )
    found = []
    for screen in kinds:
        answer = partial(searching_engine(data, screen).velocity, torch.randn(64, 784), torch.full((64,), 0.9))
        card.count(answer)
        found.append(card.count(answer))
        assert found[-1].waits == 1, found
        assert found[-1].launches["maxima_kernel"] == len(screen.widths), found
        # nothing is scanned where a search answers all
        assert found[-1].launches["digits_kernel"] == 0, found
    assert found[0].total <= LATE, found
    assert found[1].total - found[0].total <= LEVEL, found
    # a level of all coordinates
    assert max(found[2].total, found[3].total) <= LATE - LEVEL, found


@pytest.mark.parametrize("classes", [6, 24])
@pytest.mark.parametrize("each", [1, 2])
def test_late_velocities_of_classes_take_one_search(classes: int, each: int, card: PretendedCard) -> None:
    data = OracleDataset(torch.randn(720, 784).half(), labels=torch.arange(720) % classes)
    engine = searching_engine(data, code_screen(data.rows, product_cost=0.5))
    labels = (torch.arange(64)[:, None] + torch.arange(each)) % classes
    answer = partial(engine.velocity, torch.randn(64, 784), torch.full((64,), 0.9), labels=labels)
    card.count(answer)
    calls = card.count(answer)
    assert calls.waits == 1, calls
    assert calls.launches["maxima_kernel"] == 1, calls
    assert calls.total <= 60, calls


def test_an_early_number_is_scanned_without_a_search(card: PretendedCard) -> None:
    data = engine_of(torch.uint8, 700, 784).data
    engine, x = searching_engine(data, code_screen(data.rows, product_cost=0.5)), torch.randn(64, 784)
    for t, searches in ((0.05, 0), (0.9, 1), (torch.full((64,), 0.05), 1)):
        answer = partial(engine.velocity, x, t)
        card.count(answer)
        calls = card.count(answer)
        assert calls.waits == 1, calls
        # what is on the card is not looked at
        assert calls.launches["maxima_kernel"] == searches, calls


def test_a_graph_records_no_check(card: PretendedCard, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, x = engine_of(torch.float16, 700, 784), torch.randn(64, 784)
    checked = card.count(lambda: engine.velocity(x, 0.3))
    begin_capture(monkeypatch)
    recorded = card.count(lambda: engine.velocity(x, 0.3))
    assert recorded.total <= checked.total - 8, recorded
    assert recorded.waits == 0


def test_a_fused_scan_waits_once(card: PretendedCard) -> None:
    engine, x = engine_of(torch.float16, 700, 64), torch.randn(64, 64)
    card.count(lambda: engine.velocity(x, 0.3))
    calls = card.count(lambda: engine.velocity(x, 0.3))
    assert calls.total <= ANSWER, calls
    assert calls.waits == 1, calls


@pytest.mark.parametrize("dtype", [torch.float16, torch.uint8], ids=str)
def test_further_blocks_add_few_calls(dtype: torch.dtype, card: PretendedCard, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, x = [], torch.randn(64, 784)
    for unit in (1200, 300):
        limits = replace(DEFAULT_LIMITS, score_bytes=1, block_unit=unit)
        blocks = replace(backends.BACKENDS["triton"], state=partial(triton_state, limits=limits))
        monkeypatch.setitem(backends.BACKENDS, "triton", blocks)
        answer = partial(engine_of(dtype, 1200, 784).velocity, x, 0.3)
        card.count(answer)
        calls.append(card.count(answer))
    assert [call.launches["partition_kernel"] for call in calls] == [1, 4], calls
    assert calls[1].total - calls[0].total <= 3 * BLOCK, calls
    assert calls[1].waits == 1


def test_lists_that_may_overflow_add_nothing(card: PretendedCard) -> None:
    # as many rows as would take several parts of logits, were they kept
    rows = prepare_rows(torch.randn(1200, 784).half(), None)
    ones = torch.ones(3, dtype=torch.float64)
    query = Query(torch.randn(3, 784).double(), ones, ones, torch.zeros(3, 0, 2, dtype=torch.int64))
    limits = replace(DEFAULT_LIMITS, logit_bytes=1, least_rescored=16)
    calls = card.count(lambda: triton_state(Work(rows, query, Span(0, 1200), Wanted()), limits=limits))
    # in float64, and where its digits are too few once more
    assert calls.launches["rescore_kernel"] == 2
    assert calls.waits == 0


def test_an_argument_that_is_refused_is_named_first(card: PretendedCard) -> None:
    engine, x = engine_of(torch.float16, 300, 784), torch.randn(3, 784)
    for asked, message in (((x, 1.5), "`t` must lie in"), ((x, 1.0), "leave some noise"), ((x / 0, 0.5), "finite")):
        with pytest.raises(InputError, match=message):
            engine.velocity(*asked)


@pytest.mark.parametrize("dtype", [torch.float16, torch.uint8, torch.float32], ids=str)
def test_sizes_do_not_compile_anew(dtype: torch.dtype, card: PretendedCard) -> None:
    draw = random.Random(0)
    engine = engine_of(dtype, 3000, 784 if dtype != torch.float32 else 75)
    rows, compilations = engine.data.rows, Counter[str]()
    for _ in range(70):
        batch, count = draw.randint(1, 400), draw.randint(1, 3000)
        start, excluded = draw.randint(0, 3000 - count), draw.choice((0, 0, 1, 3))
        ones, ranges = torch.ones(batch).double(), torch.zeros(batch, excluded, 2, dtype=torch.int64)
        query = Query(torch.zeros(batch, rows.dim).double(), ones, ones, ranges)
        work = Work(rows, query, Span(start, start + count))
        compilations += card.count(partial(triton_state, work)).compilations
    often = {name: count for name, count in compilations.items() if count > 2}
    assert often == {}


def test_what_is_counted_is_what_a_card_would_do(card: PretendedCard) -> None:
    def steps() -> Any:
        values = torch.empty(8).fill_(1.0)
        return bool((values[:4] + 1.0 > values.view(2, 4)[0]).all())

    calls = card.count(steps)
    assert dict(calls.operations) == {"fill_": 1, "add": 1, "gt": 1, "all": 1, "_local_scalar_dense": 1}
    assert calls.waits == 1
    assert "5 device calls, 1 waits" in str(calls)


def searching(batch: int, widths: tuple[int, ...]) -> Callable[[], Shortlist]:
    """Return a search for so many queries through levels of these widths."""
    rows = prepare_rows(torch.randn(1200, 784).half(), None)
    screen = leading_code_screen(rows, widths, product_cost=0.5)
    ones = torch.ones(batch, dtype=torch.float64)
    query = Query(torch.randn(batch, 784).double(), ones, ones, torch.zeros(batch, 0, 2, dtype=torch.int64))
    work = Work(rows, query, Span(0, 1200), Wanted())
    return lambda: screened(UpperLogits.of(work, screen, SideInformation()), FixedAllowance(1e-6), limit=100)


def test_a_search_takes_as_many_calls_for_any_batch_and_never_waits(card: PretendedCard) -> None:
    found = {}
    for batch, widths in ((40, (64,)), (40, (64, 128)), (500, (64, 128)), (40, (64, 128, 256))):
        search = searching(batch, widths)
        card.count(search)
        found[batch, len(widths)] = card.count(search)
    assert [calls.waits for calls in found.values()] == [0, 0, 0, 0]
    assert found[40, 2].total == found[500, 2].total <= SEARCH, found
    for more, fewer in ((2, 1), (3, 2)):
        assert found[40, more].total - found[40, fewer].total <= LEVEL, found
    assert found[40, 2].launches["maxima_kernel"] == found[40, 2].launches["above_kernel"] == 2
