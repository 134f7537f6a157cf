"""What CUDA users rely on: every route against float64, gradients, compilation, graphs, determinism, memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jaxtyping
import pytest
import torch
from sides import INTERPRETED, Side, card_side, sides
from tolerances import assert_close, assert_rows_close, assert_within
from torch import Tensor

from oracle_engine import InputError, OracleDataset, OracleEngine, prefetched
from oracle_engine.kernels import (
    Directions,
    Query,
    Span,
    Wanted,
    covariance_product,
    reference_covariance_product,
    reference_state,
)
from oracle_engine.kernels.common.work import Work
from oracle_engine.kernels.gpu.core.configs import scored_with
from oracle_engine.queries.modes import TopK

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")

DTYPES = (torch.uint8, torch.int8, torch.float16, torch.bfloat16, torch.float32)

# samples and values of a real data set, and of one for a machine without a card: narrow ones take the fused kernel
SHAPES = {
    "points": ((200_000, 2), (300, 2)),
    "narrow": ((100_000, 64), (300, 20)),
    "digits": ((50_000, 784), (250, 77)),
    "images": ((20_000, 3072), (150, 130)),
    "large images": ((500, 196_608), (40, 300)),
}


@pytest.fixture(params=sides())
def side(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Side:
    """A place to run, where kernels for late answers are asked for that no card has proven yet."""
    place: Side = request.param
    if place.real:
        torch.cuda.empty_cache()
        monkeypatch.setenv("ORACLE_BACKEND", place.backend)
    return place


@pytest.fixture(params=[card_side("triton")])
def card(request: pytest.FixtureRequest) -> Side:
    """A card with the Triton kernels, for what only a card has."""
    torch.cuda.empty_cache()
    place: Side = request.param
    return place


def draw(side: Side, dtype: torch.dtype, count: int, dim: int, **options: Any) -> OracleDataset:
    """Return Gaussian samples in a storage dtype; unit spread becomes 40 levels of an integer one."""
    values = torch.randn(count, dim, generator=side.generator(), device=side.device)
    if not dtype.is_floating_point:
        middle = 128 if dtype == torch.uint8 else 0
        values = (40 * values + middle).round().clamp(middle - 128, middle + 127)
    return OracleDataset(values.to(dtype), **options)


def queries(side: Side, data: OracleDataset, batch: int, latest: float = 1 - 1e-4) -> tuple[Tensor, Tensor]:
    """Return queries on the path of some samples at times from one end to the other."""
    t = torch.linspace(1e-4, latest, batch, dtype=torch.float64, device=side.device)
    own = data[torch.randint(len(data), (batch,), generator=side.generator(), device=side.device).cpu()].double()
    noise = torch.randn(own.shape, generator=side.generator(), device=side.device, dtype=torch.float64)
    return t[:, None] * own + (1 - t)[:, None] * noise, t


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_storage_and_shape_meets_the_bar(side: Side, dtype: torch.dtype, shape: str) -> None:
    real, small = SHAPES[shape]
    data = draw(side, dtype, *(real if side.real else small))
    x, t = queries(side, data, 17)
    assert_rows_close(side.engine(data)(x, t), side.truth(data)(x, t), "bar")


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("shape", ["narrow", "digits"])
@pytest.mark.parametrize("operand", ["digits", "parts"])
def test_8_bit_data_far_from_zero_meet_the_bar(side: Side, dtype: torch.dtype, shape: str, operand: str) -> None:
    count, dim = SHAPES[shape][0 if side.real else 1]
    values = torch.randint(90, 102, (count, dim), generator=side.generator(), device=side.device)
    data = OracleDataset(values.to(dtype))
    assert not data.rows.raw_operand
    x, t = queries(side, data, 17)
    with scored_with(operand):
        assert_rows_close(side.engine(data)(x, t), side.truth(data)(x, t), "bar")


@pytest.mark.parametrize("shape", ["narrow", "images"])
def test_half_precision_keeps_its_promise(side: Side, shape: str) -> None:
    data = draw(side, torch.float16, *SHAPES[shape][0 if side.real else 1])
    x, t = queries(side, data, 17)
    if side.backend != "triton":
        with pytest.raises(InputError, match="`precision` can be half with the Triton kernels only"):
            OracleEngine(data, device=side.device, backend=side.backend, precision="half")
        return
    engine = OracleEngine(data, device=side.device, backend="triton", precision="half")
    assert_rows_close(engine(x, t), side.truth(data)(x, t), "half precision")


@pytest.mark.parametrize("batch", [1, 16, 64, 256, 1024])
def test_every_batch_meets_the_bar(side: Side, batch: int) -> None:
    data = draw(side, torch.float16, side.size(50_000, 90), side.size(784, 77))
    x, t = queries(side, data, batch if side.real else min(batch, 33))
    # the truth of a few queries tells as much, and costs less
    some = torch.arange(0, len(x), max(1, len(x) // 16), device=side.device)
    assert_rows_close(side.engine(data)(x, t)[some], side.truth(data)(x[some], t[some]), "bar")


@pytest.mark.parametrize("shape", ["narrow", "images"])
def test_classes_weights_guidance_and_exclusion(side: Side, shape: str) -> None:
    count, dim = SHAPES[shape][0 if side.real else 1]
    labels = torch.arange(count, device=side.device) % 7
    weights = torch.rand(count, generator=side.generator(), device=side.device) + 0.01
    data = draw(side, torch.float16, count, dim, labels=labels, weights=weights)
    x, t = queries(side, data, 9)
    unions = torch.tensor([[0, 1], [2, -1], [-1, -1], [5, 6], [3, -1], [4, -1], [0, -1], [1, -1], [-1, 2]]).to(x.device)
    one_each: dict[str, Any] = {"labels": unions[:, 0]}
    for asked in (
        {"labels": 3},
        one_each,
        {**one_each, "guidance": 2.5},
        {"labels": unions, "guidance": 2.5},
        {"labels": unions, "exclude": 7},
    ):
        assert_rows_close(side.engine(data)(x, t, **asked), side.truth(data)(x, t, **asked), "bar")


@pytest.mark.parametrize("shape", ["narrow", "images"])
def test_statistics_and_the_heaviest_samples(side: Side, shape: str) -> None:
    data = draw(side, torch.uint8, *SHAPES[shape][0 if side.real else 1])
    x, t = queries(side, data, 9)
    found, true = (engine.posterior(x, t, top_k=5) for engine in (side.engine(data), side.truth(data)))
    for name in ("log_density", "ess", "entropy", "variance", "top_weights"):
        assert_close(getattr(found, name), getattr(true, name), "moment")
    assert torch.equal(found.top_indices, true.top_indices)
    assert_close(side.engine(data).log_density(x, t), true.log_density, "moment")


def test_near_duplicates_are_told_apart(side: Side) -> None:
    count, dim = side.size(20_000, 200), side.size(3072, 100)
    base = torch.randn(count // 2, dim, generator=side.generator(), device=side.device)
    twins = base + 1e-3 * torch.randn(base.shape, generator=side.generator(), device=side.device)
    data = OracleDataset(torch.cat([base, twins]))
    x, t = queries(side, data, 17)
    assert_rows_close(side.engine(data)(x, t), side.truth(data)(x, t), "bar")


def test_rows_beyond_32_bits_are_found(side: Side) -> None:
    # 2.5e9 values on a card
    count, dim = side.size(610_000, 200), side.size(4096, 50)
    points = torch.empty(count, dim, dtype=torch.float16, device=side.device)
    generator = side.generator()
    for part in points.split(1 << 14):
        part.copy_(torch.randn(part.shape, generator=generator, device=side.device))
    data = OracleDataset(points)
    last = data[torch.arange(count - 3, count)].double()
    posterior = side.engine(data).posterior(0.9 * last, 0.9, top_k=1)
    assert posterior.top_indices[:, 0].tolist() == [count - 3, count - 2, count - 1]
    assert_rows_close(posterior.mean, last, "bar")


def test_equal_calls_give_equal_bits(side: Side) -> None:
    for shape in ("narrow", "digits"):
        data = draw(side, torch.float16, *SHAPES[shape][0 if side.real else 1])
        x, t = queries(side, data, side.size(33, 5))
        first, second = (side.engine(data)(x, t) for _ in range(2))
        assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["velocity", "log_density"])
def test_gradients_agree_with_float64(side: Side, name: str) -> None:
    data = draw(side, torch.float16, *SHAPES["digits"][0 if side.real else 1])
    x, t = queries(side, data, 9, 0.9)
    x.requires_grad_()
    found, true = (
        torch.autograd.grad(getattr(engine, name)(x, t).sum(), x)[0] for engine in (side.engine(data), side.truth(data))
    )
    assert_rows_close(found, true, "derivative", data.dim**0.5 / (1 - t) + true.norm(dim=1))


def test_covariance_products_agree_with_float64(side: Side) -> None:
    rows = draw(side, torch.uint8, *SHAPES["digits"][0 if side.real else 1]).rows
    times = torch.tensor([0.01, 0.1, 0.3, 0.9], dtype=torch.float64, device=side.device)
    unit = rows.radius / rows.dim**0.5
    noise = torch.randn(4, rows.dim, generator=side.generator(), device=side.device, dtype=torch.float64)
    point = times[:, None] * (rows.stored[:4].double() - rows.centre) + unit * (1 - times)[:, None] * noise
    excluded = torch.zeros(4, 0, 2, dtype=torch.int64, device=side.device)
    query = Query(point, times, (unit * (1 - times)).pow(-2), excluded)
    span = Span(0, len(rows))
    state = reference_state(Work(rows, query, span, Wanted()))
    vectors = Directions(query, state.lse, state.mean, noise.flip(0))
    found, true = (
        query.gain[:, None] * product(rows, vectors, span)
        for product in (covariance_product, reference_covariance_product)
    )
    assert_within((found - true).norm(dim=1) / (vectors.vector.norm(dim=1) + true.norm(dim=1)), "derivative")


@pytest.mark.skipif(INTERPRETED, reason="code generation has nothing to interpret")
def test_a_training_step_compiles_as_one_graph(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    # annotations are not checked while code is traced, as for a user
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    data = draw(side, torch.float16, side.size(20_000, 100), 32)
    engine = side.engine(data)
    x, t = queries(side, data, 64, 0.9)
    model = torch.nn.Linear(32, 32, device=side.device)

    def loss(weight: Tensor) -> Tensor:
        made = torch.nn.functional.linear(x.float(), weight)
        result: Tensor = (engine(made, t) - made).square().mean()
        return result

    eager, compiled = (
        torch.autograd.grad(call(model.weight), model.weight)[0]
        # code generation for the CPU has a test of its own
        for call in (loss, torch.compile(loss, fullgraph=True, backend="inductor" if side.real else "aot_eager"))
    )
    assert_rows_close(compiled, eager, "bar")


@pytest.mark.skipif(INTERPRETED, reason="the operator is the same")
def test_the_operator_keeps_the_rules_of_the_library(side: Side) -> None:
    from oracle_engine.engine.compiled import answer

    data = draw(side, torch.float16, 100, 80)
    engine = side.engine(data)
    x, t = queries(side, data, 4, 0.9)
    torch.library.opcheck(answer, (x.requires_grad_(), t, None, None, None, None, 0.0, 1.0, "velocity", engine._handle))


@pytest.mark.parametrize("kind", ["pca", "pca8", "int8", "exact8"])
def test_every_screen_keeps_the_tolerance(side: Side, kind: str) -> None:
    data = draw(side, torch.uint8 if kind == "exact8" else torch.float16, side.size(20_000, 300), side.size(1024, 100))
    engine = side.engine(data).prepare(kind, neighbours=False)
    assert engine.index is not None
    assert engine.index.screen is not None
    screen = engine.index.screen
    always = ((0.0,) * len(screen.widths),) * len(screen.thresholds)
    # few samples, which a search pays for where a scan is dear
    dear = replace(screen.costs, scan=1e6 * screen.costs.scan)
    engine.use(replace(engine.index, screen=replace(screen, thresholds=always, measured_costs=dear)))
    x, t = queries(side, data, 17)
    assert "screen" in engine.posterior(x, t).route
    assert_rows_close(engine(x, t), side.truth(data)(x, t), "tolerance of a search")


@pytest.mark.parametrize("spec", ["flat", "IVF16,Flat"])
def test_faiss_searches_where_the_data_are(side: Side, spec: str) -> None:
    faiss = pytest.importorskip("faiss")
    if side.real and not hasattr(faiss, "StandardGpuResources"):
        pytest.skip("this FAISS has no GPU support")
    labels = torch.arange(side.size(20_000, 600), device=side.device) % 2
    data = draw(side, torch.float16, len(labels), side.size(1024, 64), labels=labels)
    engine = OracleEngine(data, device=side.device, backend=side.backend, mode=TopK(32)).prepare(spec, neighbours=False)
    x, t = queries(side, data, 17)
    late = t > 0.9
    for given in ({}, {"labels": 1}, {"exclude": 3}):
        p = engine.posterior(x[late], t[late], **given)
        truth = side.truth(data).posterior(x[late], t[late], **given)
        assert bool((p.omitted_mass.isnan() if spec != "flat" else p.omitted_mass <= 1.0).all())
        if spec == "flat":
            missed = 1.0 - (p.log_density - truth.log_density).exp()
            assert bool((missed <= p.omitted_mass + 1e-4).all())


def test_a_query_elsewhere_is_refused(side: Side) -> None:
    engine = side.engine(draw(side, torch.float16, 10, 4))
    with pytest.raises(InputError, match="`x` must be on the device of the data"):
        engine(torch.zeros(2, 4, device="meta"), 0.5)


@pytest.mark.parametrize("shape", ["narrow", "images"])
def test_a_call_needs_no_more_memory_than_planned(card: Side, shape: str) -> None:
    data = draw(card, torch.float16, *SHAPES[shape][0])
    engine = card.engine(data)
    x, t = queries(card, data, 256)
    engine(x, t)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    engine(x, t)
    assert torch.cuda.max_memory_allocated() - before <= engine.plan(256).memory


@pytest.mark.parametrize("shape", ["narrow", "images"])
@pytest.mark.parametrize("labelled", [False, True])
def test_an_answer_can_be_recorded_and_replayed(card: Side, shape: str, labelled: bool) -> None:
    count, dim = SHAPES[shape][0]
    data = draw(card, torch.float16, count, dim, labels=torch.arange(count, device=card.device) % 7)
    engine, labels = card.engine(data), torch.arange(64, device=card.device) % 7 if labelled else None
    x, t = queries(card, data, 64)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        engine(x, t, labels=labels)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # capture fails where something waits for the device
    with torch.cuda.graph(graph):
        recorded = engine(x, t, labels=labels)
    for _ in range(2):
        recorded.fill_(torch.nan)
        graph.replay()
        assert_rows_close(recorded, card.truth(data)(x, t, labels=labels), "bar")
        # other queries in the same memory
        x.copy_(x.flip(0) + 0.1)
        t.copy_(t.flip(0))


def test_compiled_code_may_use_graphs(card: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    data = draw(card, torch.float16, *SHAPES["digits"][0])
    engine = card.engine(data)
    x, t = queries(card, data, 64)
    twice = torch.compile(lambda x, t: 2.0 * engine(x, t), fullgraph=True, mode="reduce-overhead")
    # the first runs warm up, a later one records, the last replays
    for _ in range(4):
        found = twice(x, t).clone()
    assert_rows_close(found, 2.0 * card.truth(data)(x, t), "bar")


def test_a_side_stream_gives_the_same_answer(card: Side) -> None:
    data = draw(card, torch.float16, *SHAPES["digits"][0])
    engine = card.engine(data)
    x, t = queries(card, data, 64)
    expected, stream = engine(x, t), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = engine(x, t)
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(found, expected)


def test_targets_computed_ahead_are_those_of_the_loop(card: Side) -> None:
    data = draw(card, torch.float16, *SHAPES["digits"][0])
    engine = card.engine(data)
    batches = [queries(card, data, 64) for _ in range(5)]
    expected = [engine(x, t) for x, t in batches]
    for found, wanted in zip(
        prefetched(lambda batch: engine(*batch), batches, depth=2, device=card.device), expected, strict=True
    ):
        # what the caller does with it is queued behind it
        assert torch.equal(found.clone(), wanted)


def test_data_that_do_not_fit_are_refused_before_they_move(card: Side) -> None:
    free, _ = torch.cuda.mem_get_info(card.device)
    data = OracleDataset(torch.zeros(2, 1 << 20, dtype=torch.uint8))
    # a view that repeats one row takes no memory where it is
    data.rows = replace(data.rows, stored=torch.zeros(1, 1 << 20, dtype=torch.uint8).expand(free // (1 << 20) + 9, -1))
    with pytest.raises(InputError, match=r"`device` must have .* GiB free for the data; received"):
        OracleEngine(data, device="cuda", resident="all")
