"""`oracle-engine index` and the engine it serves: building, loading, refusing, planning."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import assert_refused, run, run_json
from safetensors.torch import load_file, save_file

from oracle_engine import OracleDataset, OracleEngine
from oracle_engine.base.progress import Progress, progress_bars
from oracle_engine.kernels.screens.bounds.query_bounds import Knowledge
from oracle_engine.queries.modes import Budget, TopK
from oracle_engine.search.index import SearchIndex, build_index


@pytest.fixture(scope="module")
def points() -> torch.Tensor:
    # of low rank: a few coordinates tell samples apart
    generator = torch.Generator().manual_seed(20251202)
    factors = torch.randn(6, 96, generator=generator)
    noise = torch.randn(240, 96, generator=generator)
    return torch.randn(240, 6, generator=generator) @ factors + 0.02 * noise


@pytest.fixture(scope="module")
def data(points: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "data.safetensors"
    save_file({"points": points}, path)
    return path


@pytest.fixture(scope="module")
def built(data: Path) -> Path:
    path = data.with_name("data.index")
    assert run("index", "build", "--data", data, "--out", path) == 0
    return path


@pytest.fixture
def index(built: Path, tmp_path: Path) -> Path:
    path = tmp_path / "data.index"
    path.write_bytes(built.read_bytes())
    return path


def test_the_file_is_the_index_that_prepare_makes(data: Path, index: Path) -> None:
    engine = OracleEngine(OracleDataset(load_file(data)["points"])).prepare()
    made = SearchIndex.read(index)
    assert engine.index is not None
    assert (made.spec, made.origin.fingerprint, made.origin.name) == ("screen", engine.data.fingerprint, "data")
    assert made.screen is not None
    assert engine.index.screen is not None
    torch.testing.assert_close(made.screen.tensors, engine.index.screen.tensors, rtol=0, atol=0)
    torch.testing.assert_close(made.distances, engine.index.distances, rtol=0, atol=0)


def test_info_says_what_is_in_the_file_and_whether_it_fits(
    data: Path, index: Path, points: torch.Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = run_json(capsys, "index", "info", index, "--data", data)
    assert (facts["spec"], facts["certified"], facts["samples"], facts["dim"]) == ("screen", True, 240, 96)
    assert (facts["neighbours"], facts["fits"], facts["bytes"]) == (True, True, index.stat().st_size)
    other = tmp_path / "other.npy"
    np.save(other, points.numpy() + 1)
    assert run_json(capsys, "index", "info", index, "--data", other)["fits"] is False
    assert "fits" not in run_json(capsys, "index", "info", index)
    assert run("index", "info", index, "--data", other) == 0
    text = capsys.readouterr().out
    assert "screen of leading coordinates, searched by torch" in text
    # the kind of file stands between the name and the sizes
    name, sizes = repr(OracleDataset(points + 1, name="other")).split("', ")
    assert f"fits      NO, {name}', " in text
    assert sizes in text


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_levels_begin_where_the_signal_reaches_what_was_measured(
    scale: float, points: torch.Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "data.npy", scale * points.numpy())
    out = tmp_path / "data.index"
    facts = run_json(capsys, "index", "build", "--data", tmp_path / "data.npy", "--out", out)
    screen = SearchIndex.read(out).screen
    assert screen is not None
    levels = facts["levels"]
    assert [level["width"] for level in levels] == list(screen.widths)
    for place, level in enumerate(levels):
        for name, kind in zip(("unknown", "source", "trajectory"), Knowledge, strict=True):
            thresholds, t = screen.thresholds[kind][place], level[name]
            # alpha / sigma = t / (1 - t), looked at in steps of .001
            assert t is None or ((t - 0.001) / (1.001 - t)) ** 2 < thresholds <= (t / (1 - t)) ** 2 * (1 + 1e-9)
    assert any(level["unknown"] is not None for level in levels)


def test_neighbours_can_be_left_out(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "data.index"
    facts = run_json(capsys, "index", "build", "--data", data, "--no-neighbours", "--out", out)
    assert facts["neighbours"] is False
    assert SearchIndex.read(out).distances is None


@pytest.mark.parametrize("spec", ["flat", "IVF4,Flat"])
def test_a_faiss_index_says_whether_it_certifies(
    spec: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faiss")
    out = tmp_path / "data.index"
    facts = run_json(capsys, "index", "build", "--data", data, "--index", spec, "--out", out)
    assert (facts["spec"], facts["certified"]) == (spec, spec == "flat")
    # an index that cannot certify would never be used
    assert run("plan", "--data", data, "--index", out) == (0 if spec == "flat" else 2)
    captured = capsys.readouterr()
    wanted = "FAISS is asked at every t" if spec == "flat" else "`--index` must certify its answers"
    assert wanted in captured.out + captured.err


def test_an_index_is_not_overwritten_unless_asked(data: Path, index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = index.read_bytes()
    assert run("index", "build", "--data", data, "--no-neighbours", "--out", index) == 2
    assert "pass --overwrite" in capsys.readouterr().err
    assert index.read_bytes() == before
    assert run("index", "build", "--data", data, "--no-neighbours", "--out", index, "--overwrite") == 0
    assert SearchIndex.read(index).distances is None


@pytest.mark.parametrize("when", ["projecting", "measuring", "neighbours", "saving"])
def test_an_interrupted_build_leaves_nothing(
    when: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def interrupted(data: OracleDataset, spec: str, neighbours: bool, progress: Progress) -> SearchIndex:
        def report(what: str, done: int, total: int) -> None:
            seen.append(what)
            if what == when:
                raise KeyboardInterrupt

        return build_index(data, spec, neighbours=neighbours, progress=report)

    def stopped(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("oracle_engine.search.index.build_index", interrupted)
    if when == "saving":
        monkeypatch.setattr("safetensors.torch.save_file", stopped)
    assert run("index", "build", "--data", data, "--out", tmp_path / "out.index") == 130
    assert list(tmp_path.iterdir()) == []
    assert seen[-1] == ("neighbours" if when == "saving" else when)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "--data", "data.npy", "--out", "."], "`--out` must name a file"),
        (["build", "--data", "none.npy", "--out", "out.index"], "none.npy"),
        (["build", "--data", "short.npy", "--out", "out.index"], "must have at least 48 values a sample"),
        (["build", "--data", "data.npy", "--index", "nonsense", "--out", "o"], "could not parse index string"),
        (["info", "none.index"], "none.index: no such file"),
        (["info", "data.npy"], "expected a file of kind 'oracle-index-6'"),
        (["info", "damaged.index"], "damaged"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_status_2(
    arguments: list[str], message: str, points: torch.Tensor, index: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip("faiss")
    monkeypatch.chdir(tmp_path)
    np.save("short.npy", np.zeros((100, 12), dtype=np.float32))
    np.save("data.npy", points.numpy())
    Path("damaged.index").write_bytes(index.read_bytes()[:-16])
    before = sorted(tmp_path.iterdir())
    assert_refused(capsys, message, "index", *arguments)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("spec", ["flat", "IVF4,Flat"])
def test_a_missing_faiss_is_said_before_any_work(
    spec: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert run("index", "build", "--data", data, "--index", spec, "--out", tmp_path / "o") == 2
    assert 'pip install -e ".[faiss]"' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_velocity_uses_the_index_within_the_tolerance(
    data: Path, index: Path, points: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    used: list[SearchIndex | None] = []
    velocity = OracleEngine.velocity

    def spy(self: OracleEngine, *arguments: Any, **options: Any) -> torch.Tensor:
        used.append(self.index)
        found: torch.Tensor = velocity(self, *arguments, **options)
        return found

    monkeypatch.setattr(OracleEngine, "velocity", spy)
    generator = torch.Generator().manual_seed(0)
    x = 0.9 * points[:20] + 0.1 * torch.randn(20, 96, generator=generator)
    np.save(tmp_path / "in.npy", x.numpy())
    out = tmp_path / "out.npy"
    options = ("--t", 0.9, "--index", index, "--tolerance", 1e-3)
    facts = run_json(capsys, "velocity", tmp_path / "in.npy", out, "--data", data, *options)
    assert (facts["index"], facts["tolerance"]) == (str(index), 1e-3)
    assert used[0] is not None
    engine = OracleEngine(OracleDataset(points), mode="exact")
    exact, found = engine.velocity(x, 0.9), torch.from_numpy(np.load(out))
    assert bool(((found - exact).norm(dim=1) <= 1e-3 * exact.norm(dim=1)).all())


def test_an_index_of_other_data_is_refused(
    index: Path, points: torch.Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "other.npy", points.numpy() + 1)
    assert run("plan", "--data", tmp_path / "other.npy", "--index", index) == 2
    assert "expected an index of the data set" in capsys.readouterr().err


def test_the_plan_names_the_routes_and_when_they_are_tried(
    data: Path, index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = run_json(capsys, "plan", "--data", data, "--index", index)
    info = run_json(capsys, "index", "info", index)
    assert plan["route"] == "source, screen, exact"
    assert plan["late"]["routes"] == ["source", "screen", "exact"]
    assert plan["late"]["levels"] == info["levels"]
    assert run("plan", "--data", data, "--index", index) == 0
    level = info["levels"][-1]
    assert f"{level['width']:,} coordinates: t >= {level['unknown']:.3g}" in capsys.readouterr().out


def test_half_of_the_sources_need_no_data_from_the_time_the_plan_says(points: torch.Tensor, index: Path) -> None:
    engine = OracleEngine(OracleDataset(points)).prepare(path=index)
    untouched = engine.plan().late.untouched
    assert untouched is not None
    source = torch.arange(240)
    noise = torch.randn(240, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def share(t: float) -> float:
        x = t * points.double() + (1 - t) * noise
        return engine.posterior(x, t, source=source).route.count("source") / 240

    # the plan takes the mass that a tolerance usually allows
    assert share(untouched - 0.1) < 0.5 < share(untouched + 0.05)


def test_the_plan_says_whether_an_index_would_pay(points: torch.Tensor, index: Path) -> None:
    data, short = OracleDataset(points), OracleDataset(torch.zeros(100, 12))
    assert OracleEngine(data).plan().late.words.startswith("no index; late in t one would pay: engine.prepare()")
    assert "none would pay for 100 samples of 12 values" in OracleEngine(short).plan().late.words
    exact = OracleEngine(data, mode="exact").prepare(path=index).plan()
    assert (exact.route, exact.late.words) == ("exact", "mode 'exact' scans every sample")


def test_the_plan_of_other_modes(points: torch.Tensor, index: Path) -> None:
    data = OracleDataset(points)
    unprepared = OracleEngine(data, mode="top_k").plan()
    assert unprepared.route == ""
    assert "answers nothing without an index" in unprepared.late.words
    assert OracleEngine(data, mode=TopK(7)).prepare(path=index).plan().route == "screen"
    budget = OracleEngine(data, mode=Budget(64)).prepare(path=index).plan()
    assert (budget.route, "64 samples" in budget.late.words) == ("sampled", True)


def test_bars_follow_one_another(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with progress_bars() as report:
        report("first", 1, 2)
        report("first", 2, 2)
        report("second", 1, 1)
    shown = capsys.readouterr().err
    # a line that became shorter is cleared, too: what counts is the one after the last
    ended = shown.index("\r\x1b[K")
    assert shown.index("first  2 of 2") < ended < shown.index("second  1 of 1")
