"""The streaming kernel gives the states of the float64 reference: every shape, storage, regime, hole and weight."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from closed_form import FAMILIES, far_from_zero, generators, near_duplicates, normal, stored_as
from hypothesis import given
from hypothesis import strategies as st
from test_state import assert_identical
from tolerances import assert_close, assert_rows_close

from oracle_engine.arrays import STORAGE_DTYPES
from oracle_engine.errors import InputError
from oracle_engine.kernels import (
    PosteriorState,
    Query,
    Rows,
    Span,
    Wanted,
    accumulate,
    attention,
    chunked,
    posterior_state,
    prepare_rows,
    reference_state,
    total_variance,
)
from oracle_engine.kernels.matmul import ieee_products
from oracle_engine.kernels.rescore import Pairs, candidate_logits

EVERYTHING = Wanted(moments=True, top_k=4)
MEAN_ONLY = Wanted()

# navigation, transition, refinement and the end, mixed within a batch
REGIMES = (0.001, 0.05, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999)


def centred(rows: Rows) -> torch.Tensor:
    """Return the samples in the coordinates of a query, float64."""
    return rows.stored.double() - rows.centre


def make_query(
    rows: Rows, generator: torch.Generator, batch: int = 8, times: tuple[float, ...] = REGIMES, holes: int = 0
) -> Query:
    """Return queries on the path of some samples, at times that repeat over the batch, in units of the rows."""
    t = torch.tensor(times, dtype=torch.float64).repeat(batch // len(times) + 1)[:batch]
    own = centred(rows)[torch.randint(len(rows), (batch,), generator=generator)]
    unit = max((total_variance(rows) / rows.dim) ** 0.5, 1e-3)
    noise = unit * (1 - t)[:, None] * normal(batch, rows.dim, generator)
    start = torch.randint(len(rows), (batch, holes), generator=generator)
    length = torch.randint(max(1, len(rows) // 3), (batch, holes), generator=generator)
    return Query(t[:, None] * own + noise, t, (unit * (1 - t)).pow(-2), torch.stack([start, start + length], 2))


def whole(rows: Rows) -> Span:
    return Span(0, len(rows))


def assert_parity(rows: Rows, query: Query, span: Span | None = None, wanted: Wanted = EVERYTHING) -> PosteriorState:
    """Compare the kernel with the reference on what was wanted; return what the kernel gave."""
    span = span or whole(rows)
    actual, expected = posterior_state(rows, query, span, wanted), reference_state(rows, query, span, wanted)
    assert_close(actual.lse, expected.lse, "moment")
    if wanted.mean:
        assert_rows_close(actual.mean, expected.mean, "mean", rows.radius or 1.0)
    if wanted.moments:
        assert_close(actual.entropy, expected.entropy, "moment")
        assert_close(actual.concentration, expected.concentration, "moment", expected.concentration.clamp_min(1e-30))
    if wanted.moments and wanted.mean:
        assert_close(actual.variance, expected.variance, "moment", rows.radius**2 or 1.0)
    # logits of the named samples, not their names: ties may be broken either way
    assert_close(actual.top_logits, expected.top_logits, "moment")
    assert torch.equal(actual.top_rows < 0, expected.top_rows < 0)
    return actual


@pytest.mark.parametrize("dim", [1, 2, 31, 32, 33, 784, 3072])
@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 1000])
def test_parity_on_odd_shapes(generator: torch.Generator, count: int, dim: int) -> None:
    rows = prepare_rows(normal(count, dim, generator).float(), None)
    for batch in (1, 3, 17) if count < 1000 else (17,):
        query = make_query(rows, generator, batch)
        assert_parity(rows, query)
        assert_parity(rows, query, wanted=MEAN_ONLY)


@pytest.mark.parametrize("name", ["clusters", "nearer duplicates", "one direction"])
@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
def test_parity_for_every_storage(generator: torch.Generator, dtype: torch.dtype, name: str) -> None:
    rows = prepare_rows(stored_as(FAMILIES[name](300, 96, generator), dtype), None)
    assert rows.stored.dtype == dtype
    query = make_query(rows, generator)
    assert_parity(rows, query)
    assert_parity(rows, query, wanted=MEAN_ONLY)


@given(generators(), st.integers(1, 200), st.sampled_from([1, 5, 40, 130]), st.integers(0, 3), st.integers(0, 12))
def test_parity_with_holes_weights_and_any_top_k(
    generator: torch.Generator, count: int, dim: int, holes: int, top_k: int
) -> None:
    weights = torch.rand(count, generator=generator, dtype=torch.float64)
    # a third of the samples, but not the first, does not count at all
    weights[1:][torch.rand(count - 1, generator=generator) < 1 / 3] = 0.0
    rows = prepare_rows(normal(count, dim, generator).float(), weights)
    query = make_query(rows, generator, holes=holes)
    start = int(torch.randint(count, (1,), generator=generator))
    for span in (whole(rows), Span(start, count), Span(0, start + 1)):
        assert_parity(rows, query, span, Wanted(moments=True, top_k=top_k))
        assert_parity(rows, query, span, MEAN_ONLY)


@pytest.mark.parametrize("dim", [4, 64])
def test_what_is_left_of_a_span_without_samples_is_the_empty_state(generator: torch.Generator, dim: int) -> None:
    weights = torch.ones(90, dtype=torch.float64)
    weights[:30] = 0.0
    rows = prepare_rows(normal(90, dim, generator).float(), weights)
    query = make_query(rows, generator)
    hidden = Query(query.point, query.alpha, query.inverse_variance, torch.tensor([[30, 90]]).repeat(len(query), 1, 1))
    for wanted in (EVERYTHING, MEAN_ONLY):
        empty = PosteriorState.empty(len(query), dim, wanted.top_k, rows.device)
        assert_identical(posterior_state(rows, query, Span(0, 30), wanted), empty)
        assert_identical(posterior_state(rows, hidden, whole(rows), wanted), empty)


@pytest.mark.parametrize("dim", [4, 64])
@pytest.mark.parametrize("wanted", [EVERYTHING, MEAN_ONLY])
@pytest.mark.parametrize("kernel", [posterior_state, reference_state])
def test_no_queries_give_no_states(
    generator: torch.Generator, dim: int, wanted: Wanted, kernel: Callable[..., PosteriorState]
) -> None:
    rows = prepare_rows(normal(20, dim, generator).float(), None)
    state = kernel(rows, make_query(rows, generator, batch=0), whole(rows), wanted)
    assert_identical(state, PosteriorState.empty(0, dim, wanted.top_k, rows.device))


@pytest.mark.parametrize("dim", [4, 64])
def test_more_names_than_samples_are_filled_up_with_nobody(generator: torch.Generator, dim: int) -> None:
    rows = prepare_rows(normal(3, dim, generator).float(), None)
    state = assert_parity(rows, make_query(rows, generator), wanted=Wanted(top_k=7))
    assert bool((state.top_rows[:, 3:] == -1).all())
    assert torch.equal(state.top_rows[:, :3].sort(1).values, torch.arange(3).expand(8, 3))


def test_only_what_is_wanted_is_computed(generator: torch.Generator) -> None:
    rows = prepare_rows(normal(200, 64, generator).float(), None)
    query = make_query(rows, generator)
    full = posterior_state(rows, query, whole(rows), EVERYTHING)
    density = posterior_state(rows, query, whole(rows), Wanted(mean=False))
    assert_close(density.lse, full.lse, "moment")
    for left_out in (density.mean, density.entropy, density.concentration, density.variance):
        assert not bool(left_out.any())
    assert_parity(rows, query, wanted=Wanted(mean=False, moments=True, top_k=2))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32])
@pytest.mark.parametrize("wanted", [EVERYTHING, MEAN_ONLY])
def test_many_small_blocks_give_what_one_block_gives(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, wanted: Wanted
) -> None:
    rows = prepare_rows(stored_as(normal(1001, 80, generator), dtype), None)
    query = make_query(rows, generator, 16, holes=1)
    assert_parity(rows, query, wanted=wanted)
    monkeypatch.setattr(chunked, "BLOCK_BYTES", {"cpu": 1, "cuda": 1})
    monkeypatch.setattr(attention, "CALL_BYTES", 1)
    assert_parity(rows, query, wanted=wanted)
    assert_parity(rows, query.take(torch.arange(16)), Span(70, 333), wanted)


@pytest.mark.parametrize("order", ["rising", "falling"])
def test_a_running_maximum_may_move_any_distance(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    # the samples come nearer and nearer, or go away, over many blocks: logits climb by thousands of nats
    monkeypatch.setattr(chunked, "BLOCK_BYTES", {"cpu": 1, "cuda": 1})
    points = normal(1000, 40, generator)
    distance = torch.linspace(30, 0, 1000, dtype=torch.float64)[:, None]
    points = points * 0.1 + (distance if order == "rising" else distance.flip(0))
    rows = prepare_rows(points.float(), None)
    assert_parity(rows, make_query(rows, generator))


@pytest.mark.parametrize("wanted", [EVERYTHING, MEAN_ONLY])
def test_each_query_is_answered_as_if_it_were_alone(generator: torch.Generator, wanted: Wanted) -> None:
    rows = prepare_rows(normal(700, 64, generator).float(), None)
    query = make_query(rows, generator, 16)
    together = posterior_state(rows, query, whole(rows), wanted)
    for place in range(16):
        alone = posterior_state(rows, query.take(torch.tensor([place])), whole(rows), wanted)
        assert_close(alone.lse, together.lse[place, None], "moment")
        assert_rows_close(alone.mean, together.mean[place, None], "mean", rows.radius)


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Memory that was allocated and not yet written reads as NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert bool(torch.empty(5).isnan().all())
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_memory_that_nobody_wrote_is_never_read(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, offset: float
) -> None:
    monkeypatch.setattr(chunked, "BLOCK_BYTES", {"cpu": 1, "cuda": 1})
    monkeypatch.setattr(attention, "CALL_BYTES", 1)
    rows = prepare_rows(stored_as(normal(333, 40, generator), dtype) + torch.tensor(offset).to(dtype), None)
    query = make_query(rows, generator, holes=1)
    assert_parity(rows, query)
    assert_parity(rows, make_query(rows, generator), wanted=MEAN_ONLY)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_settings_of_the_caller_change_no_bit_and_survive(generator: torch.Generator, precision: str) -> None:
    rows = prepare_rows(normal(500, 100, generator).float(), None)
    query = make_query(rows, generator)
    for wanted in (EVERYTHING, MEAN_ONLY):
        plain = posterior_state(rows, query, whole(rows), wanted)
        torch.set_float32_matmul_precision(precision)
        try:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                assert_identical(posterior_state(rows, query, whole(rows), wanted), plain)
            assert torch.get_float32_matmul_precision() == precision
        finally:
            torch.set_float32_matmul_precision("highest")


def cpu_precision() -> str:
    """Return what float32 products on CPU run in, whichever of torch's ways set it."""
    backends: Any = torch.backends
    return str(backends.mkldnn.matmul.fp32_precision)


def test_products_stay_exact_for_a_thread_while_another_one_leaves() -> None:
    inside, left = threading.Event(), threading.Event()

    def stay() -> str:
        with ieee_products("cpu"):
            inside.set()
            assert left.wait(10)
            return cpu_precision()

    torch.set_float32_matmul_precision("medium")
    before = cpu_precision()
    try:
        with ThreadPoolExecutor(1) as pool:
            with ieee_products("cpu"):
                staying = pool.submit(stay)
                assert inside.wait(10)
            left.set()
            assert staying.result() in ("ieee", "none")
        assert cpu_precision() == before
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("where", ["torch.backends", "torch.backends.mkldnn.matmul", "torch.backends.cuda.matmul"])
def test_products_stay_exact_under_the_settings_of_each_backend(generator: torch.Generator, where: str) -> None:
    scope: Any = torch.backends
    for name in where.split(".")[2:]:
        scope = getattr(scope, name)
    if not hasattr(scope, "fp32_precision"):
        pytest.skip("this version of torch has no such setting")
    rows = prepare_rows(normal(300, 100, generator).float(), None)
    query = make_query(rows, generator)
    plain = posterior_state(rows, query, whole(rows), MEAN_ONLY)
    before = scope.fp32_precision
    scope.fp32_precision = "tf32" if "cuda" in where else "bf16"
    chosen = scope.fp32_precision
    try:
        with ieee_products("cpu"):
            assert cpu_precision() in ("ieee", "none")
        assert_identical(posterior_state(rows, query, whole(rows), MEAN_ONLY), plain)
        assert scope.fp32_precision == chosen
    finally:
        scope.fp32_precision = before


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each way through the kernel was really taken, filled in as it is."""
    ways: Counter[str] = Counter()

    def count(owner: Any, name: str, way: Callable[..., str | None]) -> None:
        original = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            taken = way(*args, **kwargs)
            ways.update([taken] if taken else [])
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    def rescored(_rows: Rows, _query: Query, pairs: Pairs, _wanted: Wanted) -> str | None:
        return "rescored" if len(pairs.query) else None

    count(chunked, "pairs_state", rescored)
    count(chunked, "attention_state", lambda *_: "attention")
    count(chunked.Scan, "__init__", lambda *args, **_: str(args[4]).removeprefix("torch."))
    count(accumulate.Accumulator, "add_dense", lambda *_, **__: "dense")
    count(accumulate.Accumulator, "add_sparse", lambda *_, **__: "sparse")
    return ways


def ways_of(taken: Counter[str], rows: Rows, query: Query, wanted: Wanted = EVERYTHING) -> set[str]:
    assert_parity(rows, query, wanted=wanted)
    return set(taken)


def test_an_early_query_sums_every_row(generator: torch.Generator, taken: Counter[str]) -> None:
    rows = prepare_rows(normal(400, 100, generator).float(), None)
    assert ways_of(taken, rows, make_query(rows, generator, times=(0.05,))) == {"float32", "dense"}


def test_an_early_mean_alone_is_attention(generator: torch.Generator, taken: Counter[str]) -> None:
    rows = prepare_rows(normal(400, 100, generator).float(), None)
    assert ways_of(taken, rows, make_query(rows, generator, times=(0.05,)), MEAN_ONLY) == {"attention"}
    taken.clear()
    # a hole or a sample without weight cannot be told to it
    assert ways_of(taken, rows, make_query(rows, generator, times=(0.05,), holes=1), MEAN_ONLY) == {"float32", "dense"}


def test_a_late_query_scores_its_heads_again(generator: torch.Generator, taken: Counter[str]) -> None:
    rows = prepare_rows(normal(400, 784, generator).float(), None)
    ways = ways_of(taken, rows, make_query(rows, generator, times=(0.9,)))
    assert "rescored" in ways
    assert not ways & {"dense", "float64", "attention"}


def test_a_few_live_rows_are_summed_one_by_one(generator: torch.Generator, taken: Counter[str]) -> None:
    # one sample in a hundred is near enough to count, none of them so sharply that its rounding would show
    points = torch.nn.functional.normalize(normal(2000, 40, generator)) * 25
    points[::100] *= 0.01
    rows = prepare_rows(points.float(), None)
    zero = torch.zeros(4, 40, dtype=torch.float64)
    alpha = torch.full((4,), 0.3, dtype=torch.float64)
    query = Query(zero - alpha[:, None] * rows.centre, alpha, (1 - alpha).pow(-2), torch.empty(4, 0, 2).long())
    ways = ways_of(taken, rows, query)
    assert "sparse" in ways
    assert "dense" not in ways


def test_a_crowd_of_near_duplicates_is_scanned_again_in_float64(
    generator: torch.Generator, taken: Counter[str]
) -> None:
    crowd = normal(1, 784, generator) + 1e-4 * normal(600, 784, generator)
    rows = prepare_rows(torch.cat([crowd, normal(600, 784, generator)]).float(), None)
    assert {"float32", "float64"} <= ways_of(taken, rows, make_query(rows, generator, times=(0.95,)))


@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
def test_narrow_and_float64_rows_are_scanned_in_float64(
    generator: torch.Generator, taken: Counter[str], dtype: torch.dtype
) -> None:
    dim = 100 if dtype == torch.float64 else 8
    rows = prepare_rows(stored_as(normal(400, dim, generator), dtype), None)
    ways = ways_of(taken, rows, make_query(rows, generator))
    assert "float64" in ways
    assert not ways & {"float32", "rescored"}


@pytest.mark.parametrize("top_k", [1, 8, 40])
def test_the_heaviest_of_many_near_duplicates_are_named(generator: torch.Generator, top_k: int) -> None:
    # sixty copies that single precision cannot rank, far fewer than it takes to start again in float64
    cluster = normal(1, 3072, generator) + 1e-4 * normal(60, 3072, generator)
    rows = prepare_rows(torch.cat([cluster, normal(400, 3072, generator)]).float(), None)
    t = torch.tensor([0.9, 0.97, 0.99], dtype=torch.float64)
    x = t[:, None] * centred(rows)[:3] + (1 - t)[:, None] * normal(3, 3072, generator)
    query = Query(x, t, (1 - t).pow(-2), torch.empty(3, 0, 2).long())
    wanted = Wanted(moments=True, top_k=top_k)
    actual, expected = (kernel(rows, query, whole(rows), wanted) for kernel in (posterior_state, reference_state))
    weights = [(state.top_logits - state.lse[:, None]).exp() for state in (actual, expected)]
    assert_close(weights[0], weights[1], "moment")


@pytest.mark.parametrize("dim", [200, 784])
@pytest.mark.parametrize("time", [0.99, 0.999, 1 - 1e-4])
def test_two_samples_at_the_same_distance_both_count(generator: torch.Generator, dim: int, time: float) -> None:
    # their coarse logits differ by thousands of nats when sigma is small, and neither may be lost
    rows = prepare_rows(normal(1500, dim, generator).float(), None)
    pairs = torch.arange(12).reshape(6, 2)
    t = torch.full((6,), time, dtype=torch.float64)
    query = Query(t[:, None] * centred(rows)[pairs].mean(1), t, (1 - t).pow(-2), torch.empty(6, 0, 2).long())
    state = posterior_state(rows, query, whole(rows), EVERYTHING)
    assert torch.equal(state.top_rows[:, :2].sort(1).values, pairs)
    # half of the mass each: the last digits of float64 decide no more than a hundredth
    assert bool((1 / state.concentration > 1.99).all())
    assert bool(((state.top_logits - state.lse[:, None]).exp() < 0.55).all())


def test_the_spread_of_a_tight_cluster_keeps_its_digits(generator: torch.Generator) -> None:
    cluster, others = normal(1, 64, generator) + 1e-4 * normal(60, 64, generator), 9 + normal(60, 64, generator)
    rows = prepare_rows(torch.cat([cluster, others]).float(), None)
    t = torch.tensor([0.3, 0.5], dtype=torch.float64)
    query = Query(t[:, None] * centred(rows)[:1], t, (1 - t).pow(-2), torch.empty(2, 0, 2).long())
    actual, expected = (kernel(rows, query, whole(rows), EVERYTHING) for kernel in (posterior_state, reference_state))
    assert bool((expected.variance < 1e-4).all())
    assert_close(actual.variance, expected.variance, "moment", expected.variance)


def test_candidates_are_scored_as_the_reference_scores_them(generator: torch.Generator) -> None:
    rows = prepare_rows(near_duplicates(300, 50, generator).float(), torch.rand(300, generator=generator).double())
    query = make_query(rows, generator)
    named = torch.randint(-1, 300, (8, 9), generator=generator)
    expected = reference_state(rows, query, whole(rows), Wanted(top_k=300))
    table = torch.full((8, 300), torch.nan, dtype=torch.float64).scatter(1, expected.top_rows, expected.top_logits)
    wanted = table.gather(1, named.clamp_min(0)).masked_fill(named < 0, -torch.inf)
    assert_close(candidate_logits(rows, query, named), wanted, "float64")


@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
def test_prepared_rows_are_the_stored_ones_around_an_exact_centre(
    generator: torch.Generator, dtype: torch.dtype
) -> None:
    points = stored_as(far_from_zero(200, 7, generator) if dtype == torch.float32 else normal(200, 7, generator), dtype)
    rows = prepare_rows(points, None)
    assert rows.stored is points
    assert torch.equal(rows.centre, rows.centre.float().double() if dtype.is_floating_point else rows.centre.round())
    assert_close(2 * rows.half_norms, centred(rows).square().sum(1), "float64")
    assert_close(torch.tensor(rows.radius, dtype=torch.float64), centred(rows).norm(dim=1).max(), "float64")
    covariance = points.double().T.cov(correction=0)
    assert_close(torch.tensor(total_variance(rows), dtype=torch.float64), covariance.trace(), "float64")


def test_total_variance_follows_the_weights(generator: torch.Generator) -> None:
    points, weights = normal(50, 6, generator), torch.rand(50, generator=generator, dtype=torch.float64)
    expected = points.T.cov(aweights=weights, correction=0).trace()
    actual = torch.tensor(total_variance(prepare_rows(points, weights)), dtype=torch.float64)
    assert_close(actual, expected, "float64")


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_the_first_sample_that_is_not_finite_is_named(bad: float) -> None:
    points = torch.zeros(9, 4)
    points[6, 2], points[8, 0] = bad, torch.nan
    with pytest.raises(InputError, match="`points` must be finite; received a NaN or an infinity in sample 6"):
        prepare_rows(points, None)
