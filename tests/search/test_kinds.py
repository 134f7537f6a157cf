"""Engines with every kind of screen answer as one that scans, say which kind they have and why, and refuse the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from closed_form import clusters, normal
from command_line import assert_refused, run, run_json
from late_cases import OPTIONS, TIMES, eager, make_data, prepared, queries, the_data
from safetensors.torch import save_file
from tolerances import TOLERANCES, assert_rows_close

from oracle_engine import DataFileError, InputError, OracleDataset, OracleEngine, ValueMap
from oracle_engine.base.progress import PartProgress
from oracle_engine.kernels import Rows
from oracle_engine.kernels.screens import SearchCosts
from oracle_engine.kernels.screens.choice import choose
from oracle_engine.queries.modes import Budget, TopK
from oracle_engine.search.index import build_index


@pytest.mark.parametrize("options", sorted(OPTIONS))
@pytest.mark.parametrize(("storage", "kind"), [("float32", "int8"), ("weights", "int8"), ("uint8", "exact8")])
def test_auto_is_within_its_tolerance_of_exact(
    generator: torch.Generator, storage: str, kind: str, options: str
) -> None:
    data = the_data(storage)
    x = queries(data, generator)
    exact = OracleEngine(data, mode="exact").velocity(x, TIMES, **OPTIONS[options])
    engine = prepared(storage, kind, tolerance=1e-4)
    assert engine.index is not None
    assert engine.index.kind == kind
    error = (engine.velocity(x, TIMES, **OPTIONS[options]) - exact).norm(dim=1) / exact.norm(dim=1)
    assert bool((error <= 1e-4 + TOLERANCES["bar"].value).all())
    if options == "plain":
        assert engine.posterior(x, TIMES).route.count("screen") >= 4


@pytest.mark.parametrize("options", ["plain", "unions", "exclude", "source"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_codes_of_leading_coordinates_answer_as_a_scan_does(
    generator: torch.Generator, dtype: torch.dtype, options: str
) -> None:
    data = make_data(generator, dtype, dim=128)
    x = queries(data, generator)
    exact = OracleEngine(data, mode="exact").velocity(x, TIMES, **OPTIONS[options])
    engine = eager(OracleEngine(data, tolerance=1e-4).prepare("pca8"))
    error = (engine.velocity(x, TIMES, **OPTIONS[options]) - exact).norm(dim=1) / exact.norm(dim=1)
    assert bool((error <= 1e-4 + TOLERANCES["bar"].value).all())
    if options == "plain":
        assert engine.posterior(x, TIMES).route.count("screen") >= 3
    run_along, state = engine.trajectory(x[:4]), x[:4]
    for step in range(4):
        v = run_along.velocity(state, step / 4)
        truth = OracleEngine(data, mode="exact").velocity(state, step / 4)
        assert_rows_close(v, truth, "tolerance of a search")
        state = state + 0.25 * v


def test_an_index_of_leading_codes_is_kept_and_grows(generator: torch.Generator, tmp_path: Path) -> None:
    data = make_data(generator, dim=128)
    points, labels = data[:].clone(), data.labels
    assert labels is not None
    made = OracleEngine(OracleDataset(points[:200], labels[:200])).prepare("pca8", path=tmp_path / "index")
    grown = OracleEngine(OracleDataset(points, labels), tolerance=1e-4).prepare(path=tmp_path / "index")
    for engine in (made, grown):
        assert engine.index is not None
        assert engine.index.kind == "pca8"
        assert len(engine.index.screen or ()) == len(engine.data)
    x = queries(data, generator)
    exact = OracleEngine(data, mode="exact").velocity(x, TIMES)
    error = (eager(grown).velocity(x, TIMES) - exact).norm(dim=1) / exact.norm(dim=1)
    assert bool((error <= 1e-4 + TOLERANCES["bar"].value).all())


@pytest.mark.parametrize(("storage", "kind"), [("float64", "int8"), ("duplicates", "int8"), ("uint8", "exact8")])
def test_top_k_of_every_kind_is_honest(generator: torch.Generator, storage: str, kind: str) -> None:
    data = the_data(storage)
    x = queries(data, generator)
    full = OracleEngine(data, backend="reference", mode="exact").posterior(x, TIMES, top_k=300)
    p = prepared(storage, kind, mode=TopK(20)).posterior(x, TIMES, top_k=20)
    weight = torch.zeros(len(x), 300, dtype=torch.float64).scatter(1, full.top_indices, full.top_weights)
    missed = weight.scatter(1, p.top_indices, 0.0).sum(1)
    assert bool((missed <= p.omitted_mass * (1 + TOLERANCES["moment"].value)).all())


@pytest.mark.parametrize(("storage", "kind"), [("float32", "int8"), ("uint8", "exact8")])
def test_a_trajectory_agrees_with_the_engine(generator: torch.Generator, storage: str, kind: str) -> None:
    engine = prepared(storage, kind)
    start = normal(8, 64, generator)
    run_along = engine.trajectory(start)
    assert (run_along.shared_products is None) == (kind == "exact8")
    x = start
    for step in range(10):
        t = step / 10
        v = run_along.velocity(x, t)
        assert_rows_close(v, OracleEngine(the_data(storage), mode="exact").velocity(x, t), "tolerance of a search")
        x = x + 0.1 * v


def test_a_kind_that_the_data_cannot_have_is_refused(generator: torch.Generator) -> None:
    with pytest.raises(InputError, match=r"^`index` 'exact8' needs 8-bit storage, not float32; .*Remedy: use 'screen'"):
        OracleEngine(make_data(generator)).prepare("exact8")
    with pytest.raises(InputError, match=r"^`data` must have at least 48 values a sample"):
        OracleEngine(OracleDataset(clusters(300, 16, generator))).prepare("pca")
    # codes fit samples of any length
    short = OracleEngine(OracleDataset(clusters(300, 16, generator))).prepare("int8")
    assert short.index is not None
    assert short.index.kind == "int8"


@pytest.mark.parametrize("scale", [1e-20, 1e20])
@pytest.mark.parametrize("kind", ["screen", "pca", "int8", "flat", "IVF4,Flat"])
def test_samples_that_float32_cannot_square_have_no_index(generator: torch.Generator, kind: str, scale: float) -> None:
    points = clusters(300, 64, generator)
    message = (
        r"^`data` must be stored within 1e-12 .. 1e\+15 of their centre .*; received samples up to .*Remedy: divide"
    )
    with pytest.raises(InputError, match=message):
        OracleEngine(OracleDataset((scale * points).float())).prepare(kind)
    # in units of their size they have one
    OracleEngine(OracleDataset(points.float(), value_map=ValueMap(scale))).prepare("pca" if kind == "screen" else kind)


def test_what_needs_leading_coordinates_says_so(generator: torch.Generator) -> None:
    x = normal(2, 64, generator)
    with pytest.raises(InputError, match=r"needs a screen of leading coordinates; received 'int8', int8\. .*'pca'"):
        prepared("float32", "int8", mode=Budget(64)).velocity(x, 0.5)


def test_the_plan_says_why_there_is_no_screen(generator: torch.Generator) -> None:
    # samples in two heaps share every posterior: nothing is certified by a few of them
    data = OracleDataset(normal(2, 64, generator).repeat(2000, 1).float())
    engine = OracleEngine(data).prepare(neighbours=False)
    assert engine.index is not None
    assert engine.index.kind == "none"
    plan = engine.plan()
    assert plan.route == "exact"
    assert plan.late.words.startswith("no screen pays: pca saves 0%")
    x = normal(3, 64, generator)
    assert_rows_close(engine.velocity(x, 0.9), OracleEngine(data, mode="exact").velocity(x, 0.9), "bar")
    for mode in (TopK(8), Budget(64)):
        other = OracleEngine(data, mode=mode).use(engine.index)
        assert "none pays here" in other.plan().late.words
        with pytest.raises(InputError, match=r"call engine\.prepare\('pca'\)"):
            other.velocity(x, 0.9)


def test_the_kind_that_saves_most_is_built_and_kept(
    generator: torch.Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "flat.index"
    # a machine with quick 8-bit products
    index = build_index(OracleDataset(normal(300, 256, generator).half()), product_cost=0.25)
    assert (index.spec, index.kind) == ("screen", "int8")
    assert "int8 saves" in index.reason
    index.save(out)
    facts = run_json(capsys, "index", "info", out)
    assert (facts["spec"], facts["kind"], facts["reason"]) == ("screen", "int8", index.reason)
    assert run("index", "info", out) == 0
    shown = capsys.readouterr().out
    assert "screen of 8-bit codes" in shown
    assert f"why       {facts['reason']}" in shown


def test_a_screen_keeps_the_cost_of_products_where_it_stays(generator: torch.Generator) -> None:
    for dtype in (torch.float32, torch.uint8):
        kind = "exact8" if dtype == torch.uint8 else "int8"
        screen = build_index(make_data(generator, dtype), kind, product_cost=0.25).screen
        assert screen is not None
        # as a share of the 64 coordinates of a scan
        assert screen.to(torch.device("cpu")).costs == screen.costs
        assert screen.costs.levels == (16.0,)


def test_the_measured_costs_are_kept_and_said(generator: torch.Generator, tmp_path: Path) -> None:
    data = make_data(generator)
    engine = OracleEngine(data).prepare("pca", path=tmp_path / "index", neighbours=False)
    assert engine.index is not None
    screen = engine.index.screen
    assert screen is not None
    each = tuple(0.5 for _ in screen.widths)
    costs = SearchCosts(1.0, 5.0, each, each, 2e6, each, 20.0, 30.0)
    replace(engine.index, screen=replace(screen, measured_costs=costs)).save(tmp_path / "timed")
    again = OracleEngine(data).prepare(path=tmp_path / "timed")
    assert again.index is not None
    assert again.index.screen is not None
    assert again.index.screen.costs == costs
    assert "measured: 5 ns a row and query to scan, 0.5" in str(again.plan())


def test_an_index_is_tried_on_some_rows_first(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    built, build = [], choose.build_kind

    def counted(
        kind: str, rows: Rows, steps: PartProgress | None = None, **cost: float | None
    ) -> choose.MeasuredScreen:
        built.append(len(rows))
        return build(kind, rows, steps, **cost)

    monkeypatch.setattr(choose, "build_kind", counted)
    # codes do not compete: no machine multiplies them sooner
    monkeypatch.setattr(choose, "given_or_timed", lambda cost, device, digits: 1.0)
    engine = OracleEngine(make_data(generator)).prepare(neighbours=False)
    assert built == [300]
    screen, reason = choose.best_screen(engine.data.rows, sample=150)
    assert built == [300, 150, 300]
    assert screen is not None
    assert screen.kind == "pca"
    assert len(screen) == 300
    assert engine.index is not None
    engine.use(replace(engine.index, screen=screen, reason=reason))
    eager(engine)
    x = queries(engine.data, generator)
    exact = OracleEngine(engine.data, mode="exact").velocity(x, TIMES)
    assert_rows_close(engine.velocity(x, TIMES), exact, "tolerance of a search")


def test_the_command_refuses_what_the_data_cannot_have(
    generator: torch.Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"points": normal(100, 64, generator).float()}, tmp_path / "data.safetensors")
    build = ("index", "build", "--data", tmp_path / "data.safetensors", "--index", "exact8", "--out", tmp_path / "o")
    assert_refused(capsys, "'exact8' needs 8-bit storage", *build)
    assert not (tmp_path / "o").exists()


def test_an_engine_uses_an_index_of_its_data_only(generator: torch.Generator) -> None:
    index = prepared("float32", "int8").index
    assert index is not None
    engine = OracleEngine(the_data("float32")).use(replace(index, reason="by hand"))
    assert engine.index is not None
    assert engine.index.reason == "by hand"
    with pytest.raises(DataFileError, match="expected an index of the data set"):
        OracleEngine(the_data("float64")).use(index)
