"""Indexes of data that grew: extended by the samples that came, never rebuilt, as sound as ever, refused for others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from closed_form import clusters, stored_as
from command_line import assert_refused, run, run_json
from late_cases import TIMES, eager, queries
from tolerances import TOLERANCES, assert_close, assert_rows_close
from torch import Tensor

from oracle_engine import DataFileError, OracleDataset, OracleEngine
from oracle_engine.kernels.screens.kinds.pca import PrincipalScreen
from oracle_engine.queries.modes import TopK
from oracle_engine.search.index import SearchIndex

COUNT, FIRST = 300, 200

# what data may have beside their samples
EXTRAS: dict[str, dict[str, Any]] = {
    "plain": {},
    "labels": {"labels": (torch.arange(COUNT) * 7) % 5},
    "labels and weights": {"labels": torch.arange(COUNT) % 3, "weights": torch.linspace(0.1, 2.0, COUNT)},
}

STORAGE = {"pca": torch.float32, "int8": torch.float16, "exact8": torch.uint8, "screen": torch.float32}


def points_of(generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Return samples the last of which lie elsewhere: they move the mean."""
    points = clusters(COUNT, 64, generator)
    points[FIRST:] += 0.7 * points.abs().mean()
    return stored_as(points, dtype)


def cut(count: int, extras: dict[str, Any]) -> dict[str, Any]:
    return {name: values[:count] for name, values in extras.items()}


@pytest.mark.parametrize(
    ("kind", "extras"),
    [
        ("screen", "plain"),
        ("pca", "labels and weights"),
        ("int8", "labels"),
        ("int8", "labels and weights"),
        ("exact8", "labels"),
    ],
)
def test_a_grown_index_is_as_sound_as_one_built_anew(
    generator: torch.Generator, kind: str, extras: str, tmp_path: Path
) -> None:
    points, path = points_of(generator, STORAGE[kind]), tmp_path / "data.index"
    OracleEngine(OracleDataset(points[:FIRST], **cut(FIRST, EXTRAS[extras]))).prepare(kind, path=path)
    before = SearchIndex.read(path)
    data = OracleDataset(points, **EXTRAS[extras])
    engine = OracleEngine(data, tolerance=1e-3).prepare(kind, path=path)
    assert engine.index is not None
    assert (engine.index.origin.count, engine.index.kind) == (COUNT, before.kind)
    # the centre is still that of the first samples, and the rows are taken from there
    assert torch.equal(engine.data.rows.centre, before.centre)
    assert not torch.equal(data.rows.centre, before.centre)
    written = path.stat().st_mtime_ns
    again = OracleEngine(data, tolerance=1e-3).prepare(path=path)
    assert path.stat().st_mtime_ns == written
    x = queries(data, generator)
    exact = OracleEngine(data, mode="exact").velocity(x, TIMES)
    eager(engine)
    for given in ({}, {"source": 3 * torch.arange(len(TIMES)) + 3}):
        error = (engine.velocity(x, TIMES, **given) - exact).norm(dim=1) / exact.norm(dim=1)
        assert bool((error <= 1e-3 + TOLERANCES["bar"].value).all())
    assert_rows_close(again.velocity(x, TIMES), exact, "tolerance of a search", 10 * exact.norm(dim=1))
    assert {"screen", "exact"} >= set(engine.posterior(x, TIMES).route)
    assert "screen" in engine.posterior(x, TIMES).route
    honest = OracleEngine(data, mode=TopK(20))
    honest.use(engine.index)
    p, truth = honest.posterior(x, TIMES), OracleEngine(data, mode="exact").posterior(x, TIMES)
    bound = p.omitted_mass * 2 * engine.data.rows.radius * engine.data.value_map.scale
    error = (p.mean - truth.mean).reshape(len(x), -1).norm(dim=1)
    assert bool((error <= bound + 1e-5 * engine.data.rows.radius).all())


@pytest.mark.parametrize("extras", sorted(EXTRAS))
def test_distances_are_those_of_an_index_built_anew(generator: torch.Generator, extras: str, tmp_path: Path) -> None:
    points, path = points_of(generator, torch.float16), tmp_path / "data.index"
    OracleEngine(OracleDataset(points[:FIRST], **cut(FIRST, EXTRAS[extras]))).prepare("int8", path=path)
    data = OracleDataset(points, **EXTRAS[extras])
    grown = OracleEngine(data).prepare(path=path).index
    anew = OracleEngine(data).prepare("int8").index
    assert grown is not None
    assert anew is not None
    assert grown.distances is not None
    assert anew.distances is not None
    values = data.rows.stored.double()
    gaps = torch.cdist(values, values, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    assert bool((grown.distances <= gaps.amin(1)).all())
    # a sample that came next to an old one is seen by it
    assert_close(grown.distances, anew.distances, "moment", data.rows.radius)


def test_only_what_came_is_encoded(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    points, path, done = points_of(generator, torch.float32), tmp_path / "data.index", []
    OracleEngine(OracleDataset(points[:FIRST])).prepare("pca", path=path)
    before = SearchIndex.read(path).screen

    def listen(what: str, so_far: int, total: int) -> None:
        done.append((what, total))

    engine = OracleEngine(OracleDataset(points)).prepare(path=path, progress=listen)
    assert ("projecting", COUNT - FIRST) in done
    assert ("neighbours", COUNT - FIRST) in done
    assert engine.index is not None
    after = engine.index.screen
    assert isinstance(before, PrincipalScreen)
    assert isinstance(after, PrincipalScreen)
    for old, part in zip(before.features, after.features, strict=True):
        assert torch.equal(part[:FIRST], old)


@pytest.mark.parametrize("change", ["sample", "label", "fewer", "storage"])
def test_data_that_begin_otherwise_are_refused(generator: torch.Generator, change: str, tmp_path: Path) -> None:
    points, path = points_of(generator, torch.float32), tmp_path / "data.index"
    labels = torch.arange(COUNT) % 3
    OracleEngine(OracleDataset(points[:FIRST], labels[:FIRST])).prepare("pca", path=path)
    content = path.read_bytes()
    if change == "sample":
        points[FIRST - 1, 5] += 1e-3
    if change == "label":
        labels[4] = 2
    count = FIRST - 1 if change == "fewer" else COUNT
    dtype = torch.float64 if change == "storage" else torch.float32
    other = OracleDataset(points[:count].to(dtype), labels[:count])
    with pytest.raises(DataFileError, match="Remedy: build"):
        OracleEngine(other).prepare("pca", path=path)
    assert path.read_bytes() == content


def test_labels_and_weights_of_later_samples_may_be_anything(generator: torch.Generator, tmp_path: Path) -> None:
    points, path = points_of(generator, torch.float32), tmp_path / "data.index"
    weights = torch.rand(COUNT, generator=generator) + 0.1
    OracleEngine(OracleDataset(points[:FIRST], weights=weights[:FIRST])).prepare("pca", path=path)
    # weights of old samples may change too: bounds add them apart
    engine = OracleEngine(OracleDataset(points, weights=weights.flip(0)), tolerance=1e-3).prepare(path=path)
    x = queries(engine.data, generator)
    exact = OracleEngine(OracleDataset(points, weights=weights.flip(0)), mode="exact").velocity(x, TIMES)
    found = eager(engine).velocity(x, TIMES)
    assert bool(((found - exact).norm(dim=1) <= 1.1e-3 * exact.norm(dim=1)).all())


@pytest.fixture
def files(generator: torch.Generator, tmp_path: Path) -> dict[str, Path]:
    points = points_of(generator, torch.float32).numpy()
    paths = {name: tmp_path / f"{name}.npy" for name in ("old", "grown", "other")}
    arrays: dict[str, Any] = {"old": points[:FIRST], "grown": points, "other": points + 1}
    for name, path in paths.items():
        np.save(path, arrays[name])
    assert run("index", "build", "--data", paths["old"], "--index", "int8", "--out", tmp_path / "old.index") == 0
    return paths | {"index": tmp_path / "old.index", "out": tmp_path / "new.index"}


def test_the_command_extends_an_index(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    build = ("index", "build", "--data", files["grown"], "--append", files["index"], "--out", files["out"])
    facts = run_json(capsys, *build)
    assert (facts["samples"], facts["kind"], facts["spec"], facts["neighbours"]) == (COUNT, "int8", "int8", True)
    assert run_json(capsys, "index", "info", files["out"], "--data", files["grown"])["fits"] is True
    assert run("index", "info", files["out"]) == 0
    text = capsys.readouterr().out
    assert "screen of 8-bit codes, searched by torch" in text
    assert "asked for" in text
    assert run("plan", "--data", files["grown"], "--index", files["out"]) == 0


def test_the_command_refuses_what_it_cannot_extend(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    build = ("index", "build", "--append", files["index"], "--out", files["out"])
    assert_refused(capsys, "samples that differ from the first", *build, "--data", files["other"])
    assert_refused(capsys, "`--append` must stand alone", *build, "--data", files["grown"], "--index", "pca")
    assert not files["out"].exists()


def test_an_index_that_no_screen_pays_for_grows_too(generator: torch.Generator, tmp_path: Path) -> None:
    points, path = points_of(generator, torch.float32), tmp_path / "data.index"
    made = OracleEngine(OracleDataset(points[:FIRST])).prepare("int8", path=path).index
    assert made is not None
    replace(made, spec="screen", screen=None, reason="none pays").save(path)
    engine = OracleEngine(OracleDataset(points)).prepare(path=path)
    assert engine.index is not None
    assert engine.index.kind == "none"
    assert engine.index.distances is not None
    assert len(engine.index.distances) == COUNT
    assert engine.plan().late.words == "no screen pays: none pays"
    own = torch.arange(len(TIMES)) * 3 + 3
    p = engine.posterior(queries(engine.data, generator), TIMES, source=own)
    assert set(p.route) == {"source", "exact"}
