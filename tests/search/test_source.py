"""What is known of a query saves the search, and an index on disk belongs to one data set."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from closed_form import clusters, normal
from late_cases import eager, make_data
from tolerances import assert_close, assert_rows_close
from torch import Tensor

from oracle_engine import InputError, OracleDataset, OracleEngine
from oracle_engine.base.errors import DataFileError
from oracle_engine.queries.modes import TopK
from oracle_engine.search.index import SearchIndex


def late_queries(data: OracleDataset, own: Tensor, t: float, generator: torch.Generator) -> Tensor:
    return t * data[own].double() + (1 - t) * normal(len(own), data.dim, generator)


def test_a_source_that_holds_all_of_the_mass_is_the_answer_and_nothing_else_is_read(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = torch.arange(0, 300, 7)
    data = make_data(generator)
    x = late_queries(data, own, 0.98, generator)
    exact = OracleEngine(data, mode="exact").velocity(x, 0.98)
    engine = OracleEngine(data, tolerance=1e-6).prepare()
    p = engine.posterior(x, 0.98, source=own)
    assert set(p.route) == {"source"}
    assert torch.equal(p.top_indices[:, 0], own)
    assert bool((p.survivors == 1).all())
    assert torch.equal(p.confidence, torch.full_like(p.confidence, 1 - 1e-6))
    assert float(p.velocity_error.max()) <= 1e-6
    # whoever reads another sample now gets NaN, once the check of changes is out of the way
    monkeypatch.setattr(OracleDataset, "check_unchanged", lambda data: None)
    others = torch.ones(300, dtype=torch.bool)
    others[data.row_of(own)] = False
    data.rows.stored[others] = torch.nan
    assert_rows_close(engine.velocity(x, 0.98, source=own), exact, "tolerance of a search")
    assert_rows_close(engine.denoiser(x, 0.98, source=own), data[own].double(), "tolerance of a search")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_known_source_leaves_the_answer_as_it_is(generator: torch.Generator, dtype: torch.dtype) -> None:
    data = make_data(generator)
    own = torch.arange(0, 300, 5)
    exact, engine = OracleEngine(data, mode="exact"), eager(OracleEngine(data).prepare())
    for t in (0.1, 0.5, 0.9, 0.999):
        x = late_queries(data, own, t, generator).to(dtype)
        name = {torch.float32: "tolerance of a search"}.get(dtype, f"{dtype}".removeprefix("torch.") + " output")
        assert_rows_close(engine.velocity(x, t, source=own), exact.velocity(x, t), name)


def test_duplicates_of_a_source_share_the_answer(generator: torch.Generator) -> None:
    half = normal(100, 64, generator).float()
    data = OracleDataset(torch.cat([half, half]))
    engine, own = OracleEngine(data).prepare(), torch.arange(20)
    p = engine.posterior(late_queries(data, own, 0.98, generator), 0.98, source=own)
    assert "source" not in p.route
    assert_close(p.ess, torch.full_like(p.ess, 2.0), "moment")


def test_a_source_that_does_not_count_is_not_the_answer(generator: torch.Generator) -> None:
    data = make_data(generator)
    own = torch.arange(0, 30)
    x = late_queries(data, own, 0.98, generator)
    engine, exact = eager(OracleEngine(data).prepare()), OracleEngine(data, mode="exact")
    excluded = engine.posterior(x, 0.98, source=own, exclude=own)
    assert "source" not in excluded.route
    assert bool((excluded.top_indices != own[:, None]).all())
    assert_rows_close(excluded.mean, exact.denoiser(x, 0.98, exclude=own), "tolerance of a search")
    other = (own + 1) % 3
    outside = engine.posterior(x, 0.98, source=own, labels=other)
    assert "source" not in outside.route
    assert_rows_close(outside.mean, exact.denoiser(x, 0.98, labels=other), "tolerance of a search")
    # in a union, or without a class, it counts
    assert data.labels is not None
    for labels in (torch.stack([other, data.labels[own]], 1), torch.full_like(own, -1)):
        assert set(engine.posterior(x, 0.98, source=own, labels=labels).route) == {"source"}


def test_a_weightless_source_is_not_the_answer(generator: torch.Generator) -> None:
    weights = torch.ones(300)
    weights[::2] = 0.0
    data = make_data(generator, weights=weights)
    own = torch.arange(20)
    x = late_queries(data, own, 0.98, generator)
    p = eager(OracleEngine(data).prepare()).posterior(x, 0.98, source=own)
    assert all(way != "source" for way in p.route[::2])
    assert all(way == "source" for way in p.route[1::2])
    assert_rows_close(p.mean, OracleEngine(data, mode="exact").denoiser(x, 0.98), "tolerance of a search")


def test_a_wrong_source_without_weight_is_refused(generator: torch.Generator) -> None:
    made = make_data(generator, family=normal)
    weights = torch.ones(len(made)).double()
    weights[1] = 0.0
    engine = OracleEngine(OracleDataset(made[:], weights=weights))
    x = late_queries(made, torch.arange(2), 0.98, generator)
    assert bool(engine.velocity(x, 0.98, source=torch.arange(2)).isfinite().all())
    with pytest.raises(InputError, match=r"^`source` must be the index of the sample .* in query 0, "):
        engine.velocity(x, 0.98, source=torch.tensor([1, 1]))


@pytest.mark.parametrize("mode", ["auto", "exact", "top_k"])
def test_a_wrong_source_is_refused(generator: torch.Generator, mode: str) -> None:
    data = make_data(generator, family=normal)
    engine = OracleEngine(data, mode=mode).prepare()
    own = torch.arange(4)
    x = late_queries(data, own, 0.98, generator)
    with pytest.raises(InputError, match=r"^`source` must be the index of the sample .* in query 2, .*Remedy"):
        engine.velocity(x, 0.98, source=torch.tensor([0, -1, 7, 3]))
    for bad in (300, -2):
        with pytest.raises(InputError, match=r"^`source` must be indices of samples, 0 .. 299, or -1; received"):
            engine.velocity(x, 0.98, source=bad)


@pytest.mark.parametrize("mode", ["top_k", TopK(3)])
def test_top_k_needs_an_index(generator: torch.Generator, mode: str | TopK) -> None:
    data = make_data(generator)
    with pytest.raises(InputError, match=r"^`mode` needs an index of the data; .* call engine.prepare\(\) first"):
        OracleEngine(data, mode=mode).velocity(data[:2], 0.5)


def test_samples_of_no_weight_are_an_error_on_every_route(generator: torch.Generator) -> None:
    weights = torch.ones(300)
    weights[torch.arange(300) % 3 == 1] = 0.0
    data = make_data(generator, weights=weights)
    x = late_queries(data, torch.arange(3), 0.95, generator)
    for mode in ("exact", "auto", "top_k"):
        engine = eager(OracleEngine(data, mode=mode).prepare())
        with pytest.raises(InputError, match=r"^`weights` must be positive for some sample; received none for query 0"):
            engine.velocity(x, 0.95, labels=1)


def test_a_cancelling_velocity_keeps_the_tolerance(generator: torch.Generator) -> None:
    # near-duplicates around the query: eight leaders of the search suggest a far larger velocity than all of them have
    near = 0.05 * normal(100, 64, generator)
    data = OracleDataset(torch.cat([near, normal(500, 64, generator)]).float())
    exact, t = OracleEngine(data, mode="exact"), 0.8
    x = torch.zeros(1, 64, dtype=torch.float64)
    for _ in range(60):
        x = exact.denoiser(x, t)
    for tolerance in (1e-2, 1e-4):
        engine = eager(OracleEngine(data, tolerance=tolerance).prepare())
        for shift in (1e-9, 1e-6, 1e-4, 1e-3):
            p = engine.posterior(x + shift * normal(1, 64, generator), t)
            assert float(p.velocity_error) <= tolerance


@pytest.mark.parametrize("spec", ["screen", "flat", "IVF4,Flat"])
@pytest.mark.parametrize("neighbours", [True, False])
def test_an_index_comes_back_from_its_file(
    generator: torch.Generator, tmp_path: Path, spec: str, neighbours: bool
) -> None:
    data, path = make_data(generator), tmp_path / "index.safetensors"
    built = OracleEngine(data, mode=TopK(9)).prepare(spec, path=path, neighbours=neighbours)
    assert path.exists()
    written = path.stat().st_mtime_ns
    loaded = OracleEngine(data, mode=TopK(9)).prepare(spec, path=path, neighbours=neighbours)
    assert path.stat().st_mtime_ns == written
    assert built.index is not None
    assert loaded.index is not None
    assert loaded.index.spec == spec
    assert (loaded.index.distances is None) == (built.index.distances is None)
    assert (loaded.index.kind, loaded.index.reason) == (built.index.kind, built.index.reason)
    if built.index.screen is not None and loaded.index.screen is not None:
        assert loaded.index.screen.thresholds == built.index.screen.thresholds
        torch.testing.assert_close(loaded.index.screen.tensors, built.index.screen.tensors, rtol=0, atol=0)
    x, own = late_queries(data, torch.arange(8), 0.9, generator), torch.arange(8)
    assert torch.equal(built.velocity(x, 0.9, source=own), loaded.velocity(x, 0.9, source=own))


def test_an_index_of_other_data_or_a_damaged_one_is_refused(generator: torch.Generator, tmp_path: Path) -> None:
    data, path = make_data(generator), tmp_path / "index.safetensors"
    OracleEngine(data).prepare(path=path)
    with pytest.raises(DataFileError, match=r"expected an index of the data set .*; found one of .*Remedy: build it"):
        OracleEngine(make_data(generator)).prepare(path=path)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataFileError, match="Remedy"):
        OracleEngine(data).prepare(path=path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataFileError, match="Remedy"):
        SearchIndex.load(path, data)
    data.save(path)
    with pytest.raises(DataFileError, match="Remedy"):
        SearchIndex.load(path, data)


def test_samples_too_short_for_a_screen_are_refused(generator: torch.Generator) -> None:
    for data in (OracleDataset(clusters(300, 16, generator)), OracleDataset(normal(5, 64, generator))):
        with pytest.raises(InputError, match=r"^`data` must have at least 48 values a sample and a few dozen samples"):
            OracleEngine(data).prepare()


def test_progress_reaches_its_end(generator: torch.Generator) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    data = make_data(generator)
    OracleEngine(data).prepare(progress=lambda what, done, total: seen.setdefault(what, []).append((done, total)))
    assert seen.keys() == {"projecting", "measuring", "neighbours"}
    assert all(steps[-1][0] == steps[-1][1] for steps in seen.values())
