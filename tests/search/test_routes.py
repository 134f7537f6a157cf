"""An engine that may search answers as one that scans does, within its tolerance, and says which way it went."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from closed_form import normal
from late_cases import DATA, OPTIONS, TIMES, make_data, prepared, queries, the_data
from tolerances import TOLERANCES, assert_close, assert_rows_close

from oracle_engine import OracleEngine
from oracle_engine.kernels import Work
from oracle_engine.kernels.screens.searches import cascade
from oracle_engine.queries.modes import Mode, TopK
from oracle_engine.scans.exact import ExactScan
from oracle_engine.search.faiss import FlatSearch
from oracle_engine.search.routes import SourceRoute
from oracle_engine.search.search import ScreenSearch


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how many queries each route was asked."""
    counted: Counter[str] = Counter()

    def count(owner: type, name: str, route: str, place: int) -> None:
        real = getattr(owner, name)

        def counting(self: Any, *arguments: Any) -> Any:
            asked = arguments[place]
            counted[route] += len(asked.query if isinstance(asked, Work) else asked)
            return real(self, *arguments)

        monkeypatch.setattr(owner, name, counting)

    count(ExactScan, "state", "exact", 0)
    for search in (ScreenSearch, FlatSearch):
        count(search, "within", "search", 0)
        count(search, "top", "top", 0)
    count(SourceRoute, "certified", "source", 0)
    return counted


@pytest.mark.parametrize("options", sorted(OPTIONS))
@pytest.mark.parametrize("kind", sorted(DATA))
def test_auto_is_within_its_tolerance_of_exact(generator: torch.Generator, kind: str, options: str) -> None:
    data = the_data(kind)
    x = queries(data, generator)
    exact = OracleEngine(data, mode="exact").velocity(x, TIMES, **OPTIONS[options])
    for index, tolerance in (("screen", 1e-2), ("screen", 1e-5), ("flat", 1e-3)):
        engine = prepared(kind, index, tolerance=tolerance)
        error = (engine.velocity(x, TIMES, **OPTIONS[options]) - exact).norm(dim=1) / exact.norm(dim=1)
        assert bool((error <= tolerance + TOLERANCES["bar"].value).all())


@pytest.mark.parametrize("mode", ["auto", TopK(1), TopK(20), TopK(1000)])
@pytest.mark.parametrize("options", ["plain", "labels", "unions", "exclude", "source"])
@pytest.mark.parametrize("index", ["screen", "flat"])
def test_answers_are_honest_about_what_they_miss(
    generator: torch.Generator, mode: str | Mode, options: str, index: str
) -> None:
    data, given = the_data("float32"), OPTIONS[options]
    x = queries(data, generator)
    truth = OracleEngine(data, backend="reference", mode="exact")
    full = truth.posterior(x, TIMES, **given, top_k=300)
    engine = prepared("float32", index, mode=mode)
    p = engine.posterior(x, TIMES, **given, top_k=300)
    # weight, in the whole posterior, of the samples that have no name in this one
    weight = torch.zeros(len(x), 301, dtype=torch.float64)
    weight.scatter_(1, full.top_indices.where(full.top_indices >= 0, 300), full.top_weights)
    missed = weight.scatter(1, p.top_indices.where(p.top_indices >= 0, 300), 0.0)[:, :300].sum(1)
    assert bool((missed <= p.omitted_mass * (1 + TOLERANCES["moment"].value)).all())
    assert bool((p.omitted_mass <= 1.0).all())
    answer = engine.velocity(x, TIMES, **given)
    error = (answer - truth.velocity(x, TIMES, **given)).norm(dim=1) / answer.norm(dim=1)
    assert bool((error <= p.velocity_error + TOLERANCES["bar"].value).all())
    sure = 1 - 1e-6 if options == "source" else 1.0
    assert p.confidence[-4:].tolist() == pytest.approx([sure] * 4, abs=1e-12)
    if mode == "auto":
        assert float(p.velocity_error.max()) <= engine.tolerance
    if mode == TopK(1000):
        assert float(p.omitted_mass.max()) == 0.0
        assert torch.equal(p.survivors, full.survivors)


@pytest.mark.parametrize("path", ["gvp", "vp", "linear_vp", "polynomial", "edm"])
def test_the_bound_on_the_velocity_holds_on_every_path(generator: torch.Generator, path: str) -> None:
    data = the_data("float32")
    times = torch.linspace(0.1, 0.95, 20).double()
    exact = OracleEngine(data, path, mode="exact", point_std=0.01)
    x = exact.data[torch.arange(20)].double() * 0.9 + 0.1 * normal(20, 64, generator)
    for mode in ("auto", TopK(3)):
        engine = prepared(path=path, mode=mode, point_std=0.01)
        velocity, bound = engine.velocity(x, times), engine.posterior(x, times).velocity_error
        error = (velocity - exact.velocity(x, times)).norm(dim=1) / velocity.norm(dim=1)
        assert bool((error <= bound + TOLERANCES["bar"].value).all())


@pytest.mark.parametrize("name", ["velocity", "denoiser", "score", "noise"])
def test_every_prediction_is_made_from_the_few_that_matter(generator: torch.Generator, name: str) -> None:
    data = the_data("float32")
    times = torch.linspace(0.6, 0.95, 14).double()
    x = queries(data, generator, times)
    exact, late = OracleEngine(data, mode="exact"), prepared(tolerance=1e-6)
    assert "screen" in late.posterior(x, times).route
    assert_rows_close(getattr(late, name)(x, times), getattr(exact, name)(x, times), "tolerance of a search")
    assert_close(late.log_density(x, times), exact.log_density(x, times), "moment")


def test_each_query_goes_where_it_is_said_to_go(generator: torch.Generator, calls: Counter[str]) -> None:
    data = the_data("float32")
    x, source = queries(data, generator), 3 * torch.arange(len(TIMES)) + 3
    p = prepared().posterior(x, TIMES)
    routes = Counter(p.route)
    assert routes.keys() == {"exact", "screen"}
    assert calls == {"search": len(x), "exact": routes["exact"]}
    # early queries need every sample, late ones few
    assert (p.route[0], p.route[-1]) == ("exact", "screen")
    scanned = torch.tensor([way == "exact" for way in p.route])
    assert bool((p.survivors[scanned] == 300).all())
    assert bool((p.survivors[~scanned] < 300).all())
    calls.clear()
    routes = Counter(prepared().posterior(x, TIMES, source=source).route)
    assert {"exact", "source"} <= routes.keys()
    assert calls == {"source": len(x), "search": len(x) - routes["source"], "exact": routes["exact"]}
    calls.clear()
    assert set(prepared(mode="exact").posterior(x, TIMES, source=source).route) == {"exact"}
    assert set(OracleEngine(data).posterior(x, TIMES).route) == {"exact"}
    assert calls == {"exact": 2 * len(x)}
    calls.clear()
    assert set(prepared(mode="top_k").posterior(x, TIMES).route) == {"screen"}
    assert calls == {"top": len(x)}


def test_early_queries_do_not_search_in_vain(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data(generator, family=normal)
    engine, x = OracleEngine(data).prepare(neighbours=False), queries(data, generator)
    source = OPTIONS["source"]["source"]
    looks: list[int] = []

    def spied(look: Any) -> Any:
        def spy(search: Any, level: int, *rest: Any) -> Any:
            looks.append(level)
            return look(search, level, *rest)

        return spy

    for name in ("_evaluate_level", "searched"):
        monkeypatch.setattr(cascade, name, spied(getattr(cascade, name)))
    assert set(engine.posterior(x[:3], TIMES[:3], source=source[:3]).route) == {"exact"}
    assert looks == []
    assert set(engine.posterior(x[-3:], TIMES[-3:], source=source[-3:]).route) == {"screen"}
    assert looks != []
