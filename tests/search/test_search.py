"""Searches agree with each other and with the truth, and those that cannot tell what they miss say so."""

from __future__ import annotations

import math
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from closed_form import clusters, normal
from row_cases import make_query, whole
from tolerances import TOLERANCES, assert_close, assert_rows_close
from torch import Tensor

from oracle_engine import InputError, OracleDataset, OracleEngine
from oracle_engine.base.errors import MissingDependencyError
from oracle_engine.kernels import PosteriorState, Query, Rows, Span, Wanted, Work, prepare_rows, reference_logits
from oracle_engine.kernels.screens import FixedAllowance, SideInformation, Source
from oracle_engine.kernels.screens.kinds.pca import principal_screen
from oracle_engine.queries.modes import TopK
from oracle_engine.search import faiss as faiss_search
from oracle_engine.search.faiss import FactorySearch, FlatSearch
from oracle_engine.search.search import ScreenSearch, Search

TIMES = (0.0, 0.05, 0.3, 0.5, 0.9, 0.99)


NOTHING = SideInformation()
ALLOWANCE = FixedAllowance(1e-6)


def work_on(rows: Rows, query: Query, span: Span | None = None, top_k: int = 0) -> Work:
    return Work(rows, query, span or whole(rows), Wanted(top_k=top_k))


def left_out(work: Work, named: Tensor) -> Tensor:
    """Return the log of the weight of the rows of the span that are not named, [B]."""
    logits = reference_logits(work.rows, work.query, work.span)
    place = torch.where(named < 0, len(work.span), named - work.span.start)
    padded = torch.nn.functional.pad(logits, (0, 1), value=-torch.inf)
    return padded.scatter(1, place, -torch.inf).logsumexp(1)


def assert_same(first: PosteriorState, second: PosteriorState, rows: Rows) -> None:
    assert_close(first.lse, second.lse, "moment")
    assert_rows_close(first.mean, second.mean, "mean", rows.radius)


@pytest.fixture
def rows(generator: torch.Generator) -> Rows:
    return prepare_rows(clusters(300, 32, generator).float(), None)


@pytest.mark.parametrize("weighted", [False, True])
def test_faiss_and_the_screen_name_the_same_rows(generator: torch.Generator, rows: Rows, weighted: bool) -> None:
    weights = torch.rand(300, generator=generator).double() if weighted else None
    rows = prepare_rows(rows.stored, weights)
    screen = principal_screen(rows, (4, 16))
    work = work_on(rows, make_query(rows, generator, 24, TIMES[1:]), top_k=10)
    by_screen, by_faiss = (search.top(work, NOTHING, 10) for search in (ScreenSearch(screen), FlatSearch(screen)))
    assert_same(by_faiss.state, by_screen.state, rows)
    # one bound on each of the others is no tighter than all of them added up
    assert bool((by_faiss.log_omitted >= by_screen.log_omitted - 1e-3).all())
    assert torch.equal(by_faiss.survivors, by_screen.survivors)


@pytest.mark.parametrize("count", [1, 5, 100, 299, 300, 1000])
def test_the_bound_of_the_last_row_found_holds(generator: torch.Generator, rows: Rows, count: int) -> None:
    work = work_on(rows, make_query(rows, generator, 24, TIMES, excluded=2), top_k=300)
    found = FlatSearch(principal_screen(rows, (4, 16))).top(work, NOTHING, count)
    # a bound that one row alone attains may be rounded the other way
    slack = TOLERANCES["float64"].value
    assert bool((left_out(work, found.state.top_rows) <= found.log_omitted + slack).all())
    if count >= 300:
        assert bool((found.log_omitted == -torch.inf).all())


def test_flat_search_certifies_what_it_can_prove(generator: torch.Generator, rows: Rows) -> None:
    work = work_on(rows, make_query(rows, generator, 24, (0.05, 0.95)), top_k=300)
    found = FlatSearch(principal_screen(rows, (4, 16)), count=60).within(work, NOTHING, ALLOWANCE)
    assert found.certified.tolist() == [False, True] * 12
    share = (found.log_omitted - found.state.lse).exp()
    assert bool((share[found.certified] <= 1e-6).all())
    assert bool((left_out(work, found.state.top_rows) <= found.log_omitted).all())


@pytest.mark.parametrize("search", ["screen", "flat", "IVF4,Flat", "Flat"])
def test_a_search_of_a_class_returns_its_samples_only(generator: torch.Generator, rows: Rows, search: str) -> None:
    screen = principal_screen(rows, (4, 16))
    certified: dict[str, Search] = {"screen": ScreenSearch(screen), "flat": FlatSearch(screen)}
    chosen = certified.get(search) or FactorySearch(search)
    span = Span(101, 280)
    work = work_on(rows, make_query(rows, generator, 24, TIMES), span, top_k=7)
    named = chosen.top(work, NOTHING, 7).state.top_rows
    named = named[named >= 0]
    assert len(named) > 100
    assert bool(((named >= span.start) & (named < span.stop)).all())


def test_what_a_source_tells_narrows_the_search(generator: torch.Generator) -> None:
    # much of the noise lies beyond the screen
    rows = prepare_rows(normal(300, 300, generator).float(), None)
    times, own = torch.full((24,), 0.2, dtype=torch.float64), torch.arange(24)
    point = 0.2 * (rows.gather(own) - rows.centre) + 0.8 * normal(24, 300, generator)
    work = work_on(rows, Query(point, times, (1 - times).pow(-2), torch.zeros(24, 0, 2).long()))
    source, search = Source(own, torch.zeros_like(times), 0.5), ScreenSearch(principal_screen(rows, (4, 16)))
    blind, told = (search.top(work, side, 5).log_omitted for side in (NOTHING, SideInformation(source)))
    unknown = SideInformation(replace(source, row=torch.full_like(own, -1)))
    assert torch.equal(search.top(work, unknown, 5).log_omitted, blind)
    assert bool((told < blind).all())


@pytest.mark.parametrize("spec", ["IVF8,Flat", "HNSW16", "Flat", "PCA8,SQ8"])
def test_factory_indexes_do_not_know_what_they_miss(generator: torch.Generator, rows: Rows, spec: str) -> None:
    search = FactorySearch(spec)
    work = work_on(rows, make_query(rows, generator, 24, (0.6, 0.95)), top_k=20)
    found = search.top(work, NOTHING, 20)
    assert bool(found.log_omitted.isnan().all())
    assert not bool(search.within(work, NOTHING, ALLOWANCE).certified.any())
    # what they find is weighed as ever
    logits = reference_logits(rows, work.query, whole(rows))
    row = found.state.top_rows.clamp_min(0)
    assert_close(found.state.top_logits, logits.gather(1, row).where(found.state.top_rows >= 0, -torch.inf), "moment")


def test_an_exact_factory_index_finds_what_the_screen_finds(generator: torch.Generator, rows: Rows) -> None:
    work = work_on(rows, make_query(rows, generator, 24, (0.9, 0.99)))
    found = FactorySearch("Flat").top(work, NOTHING, 20)
    assert_same(found.state, ScreenSearch(principal_screen(rows, (4, 32))).top(work, NOTHING, 20).state, rows)


@pytest.mark.parametrize("spec", ["Flat", "IVF8,Flat"])
def test_an_excluded_sample_does_not_take_the_place_of_another(rows: Rows, spec: str) -> None:
    # each query on its own sample, which does not count
    own = torch.arange(0, 300, 13)
    times = torch.full((len(own),), 0.9, dtype=torch.float64)
    point = 0.9 * (rows.gather(own) - rows.centre)
    query = Query(point, times, (1 - times).pow(-2), torch.stack([own, own + 1], 1)[:, None])
    found = FactorySearch(spec).top(work_on(rows, query, top_k=1), NOTHING, 1)
    assert bool((found.state.top_rows >= 0).all())
    assert bool((found.state.top_rows[:, 0] != own).all())


class LossyIndex:
    """A FAISS index that never returns one of its rows, as a graph search does with rows no edge leads to."""

    def __init__(self, index: Any, lost: int) -> None:
        self.index, self.lost = index, lost

    def search(self, points: Any, count: int) -> Any:
        values, place = self.index.search(points, min(count + 1, self.index.ntotal))
        keep = [[row for row in found if row != self.lost][:count] for found in place]
        return values[:, :count], torch.tensor(keep).numpy()


def test_a_sample_that_a_graph_cannot_reach_does_not_fool_auto(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # an outlier far from everything, the query on top of it
    points = torch.cat([normal(199, 48, generator), 30.0 + normal(1, 48, generator)]).float()
    data, lost = OracleDataset(points), 199
    built = FactorySearch._built

    def lossy(self: FactorySearch, rows: Rows, span: Span) -> LossyIndex:
        return LossyIndex(built(self, rows, span), lost)

    monkeypatch.setattr(FactorySearch, "_built", lossy)
    x = (0.9 * points[lost:] + 0.1 * normal(1, 48, generator)).float()
    exact = OracleEngine(data, mode="exact").posterior(x, 0.9)
    fooled = OracleEngine(data, mode=TopK(20)).prepare("HNSW8").posterior(x, 0.9)
    assert int(exact.top_indices[0, 0]) == lost
    assert lost not in fooled.top_indices.tolist()[0]
    assert bool(fooled.omitted_mass.isnan().all())
    assert bool(fooled.velocity_error.isnan().all())
    assert fooled.route == ("faiss",)
    for index in ("HNSW8", "screen", "flat"):
        careful = OracleEngine(data, mode="auto").prepare(index).posterior(x, 0.9)
        assert int(careful.top_indices[0, 0]) == lost
        assert_rows_close(careful.mean, exact.mean, "mean")
        assert float(careful.velocity_error.max()) <= 1e-4


def test_an_index_is_trained_once(rows: Rows, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(300) % 2
    engine = OracleEngine(OracleDataset(rows.stored, labels), mode=TopK(5)).prepare("IVF4,Flat")
    built, spans = FactorySearch._built, []

    def counted(self: FactorySearch, rows: Rows, span: Span) -> Any:
        spans.append(span)
        return built(self, rows, span)

    monkeypatch.setattr(FactorySearch, "_built", counted)
    x = normal(4, 32, generator)
    for _ in range(3):
        engine.velocity(x, 0.5)
        engine.velocity(x, 0.5, labels=1)
    assert sorted(spans, key=len) == [Span(150, 300), Span(0, 300)]


@pytest.mark.parametrize(
    ("spec", "count"), [("Flatt", 300), ("IVF1000,Flat", 300), ("IVF8,PQ999", 300), ("", 300), ("PQ8", 60)]
)
def test_a_string_that_faiss_refuses_is_an_error_in_words(generator: torch.Generator, spec: str, count: int) -> None:
    rows = prepare_rows(normal(count, 32, generator).float(), None)
    with pytest.raises(
        InputError, match=rf"^`index` must be a FAISS factory string that fits {count} samples; .*Remedy"
    ):
        FactorySearch(spec).top(work_on(rows, make_query(rows, generator, 2, (0.5,))), NOTHING, 5)


class Resources:
    """Working memory of a device, as FAISS names it."""


class CardFaiss:
    """FAISS with the two names of its GPU support, whose card is the CPU."""

    def __init__(self) -> None:
        self.real: Any = pytest.importorskip("faiss")
        self.moved: list[tuple[Resources, int, str]] = []

    StandardGpuResources = Resources

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def index_cpu_to_gpu(self, resources: Resources, number: int, index: Any) -> Any:
        if "HNSW" in type(index).__name__:
            raise RuntimeError("Error: 'HNSW' is not implemented on GPU")
        self.moved.append((resources, number, type(index).__name__))
        return index


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> CardFaiss:
    faiss = CardFaiss()
    monkeypatch.setattr(faiss_search, "_faiss", lambda: faiss)
    monkeypatch.setattr(faiss_search, "on_gpu", lambda device: True)
    monkeypatch.setattr(faiss_search, "_thread", threading.local())
    return faiss


def test_a_card_is_searched_by_its_own_index(
    generator: torch.Generator, rows: Rows, card: CardFaiss, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen, span = principal_screen(rows, (4, 16)), Span(101, 280)
    work = work_on(rows, make_query(rows, generator, 24, TIMES, excluded=1), span, top_k=7)
    search = FlatSearch(screen)
    found = [search.top(work, NOTHING, 7), search.top(work, NOTHING, 7)]
    assert [what for _, _, what in card.moved] == ["IndexFlatIP"]
    monkeypatch.setattr(faiss_search, "on_gpu", lambda device: False)
    by_host = FlatSearch(screen).top(work, NOTHING, 7)
    for one in found:
        assert_same(one.state, by_host.state, rows)
        assert_close(one.log_omitted, by_host.log_omitted, "moment")


def test_threads_share_no_working_memory(rows: Rows, card: CardFaiss, generator: torch.Generator) -> None:
    search = FactorySearch("IVF4,Flat")
    work = work_on(rows, make_query(rows, generator, 4, (0.9,)), top_k=5)
    search.top(work, NOTHING, 5)
    search.top(replace(work, span=Span(0, 150)), NOTHING, 5)
    other = threading.Thread(target=search.top, args=(work, NOTHING, 5))
    other.start()
    other.join()
    # two spans of one thread with one memory, the other thread with its own
    (first, *_), (second, *_), (third, *_) = card.moved
    assert first is second
    assert third is not first


def test_a_card_has_places_for_so_many(generator: torch.Generator, card: CardFaiss) -> None:
    rows = prepare_rows(clusters(2500, 32, generator).float(), None)
    work = work_on(rows, make_query(rows, generator, 4, (0.9,)), top_k=1)
    screen = principal_screen(rows, (4, 16))
    # the screen itself has no such limit, and proves more
    many = FlatSearch(screen).top(work, NOTHING, 2100)
    assert card.moved == []
    assert_close(many.log_omitted, ScreenSearch(screen).top(work, NOTHING, 2100).log_omitted, "float64")
    with pytest.raises(InputError, match=r"may ask a GPU for 2,048 places.*received 2,049\. Remedy: take fewer"):
        FactorySearch("Flat").top(work, NOTHING, 2049)


def test_an_index_that_no_card_has_is_an_error_in_words(
    generator: torch.Generator, rows: Rows, card: CardFaiss
) -> None:
    with pytest.raises(InputError, match=r"fits 300 samples on cpu; .*not implemented on GPU"):
        FactorySearch("HNSW8").top(work_on(rows, make_query(rows, generator, 2, (0.5,))), NOTHING, 5)


def test_a_faiss_for_the_host_says_what_a_card_needs() -> None:
    faiss = pytest.importorskip("faiss")
    if hasattr(faiss, "StandardGpuResources"):
        pytest.skip("this FAISS has GPU support")
    with pytest.raises(MissingDependencyError, match=r"GPU support.*pip install faiss-gpu-cuvs"):
        faiss_search.index_on_device(faiss.IndexFlatIP(4), torch.device("cuda:0"))


def test_without_faiss_everything_else_works(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    data = OracleDataset(normal(200, 64, generator).float())
    x = (0.95 * data[:4] + 0.05 * normal(4, 64, generator)).float()
    engine = OracleEngine(data).prepare("screen", path=tmp_path / "index.safetensors")
    assert_rows_close(
        engine.velocity(x, 0.95), OracleEngine(data, mode="exact").velocity(x, 0.95), "tolerance of a search"
    )
    assert math.isfinite(float(OracleEngine(data, mode="top_k").prepare().posterior(x, 0.95).omitted_mass.max()))
    for spec in ("flat", "HNSW8"):
        with pytest.raises(
            MissingDependencyError, match=r'pip install faiss-cpu \(or, in a checkout: pip install -e "\.\[faiss\]"'
        ):
            OracleEngine(data, mode="top_k").prepare(spec).velocity(x, 0.95)
