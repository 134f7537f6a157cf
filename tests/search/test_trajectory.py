"""A trajectory answers as its engine does along deterministic steps, bounds less, and refuses what it cannot know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from closed_form import normal
from late_cases import eager, make_data, prepared, the_data
from tolerances import assert_rows_close
from torch import Tensor

import oracle_engine.samplers as samplers
from oracle_engine import Guidance, InputError, OracleEngine
from oracle_engine.kernels.screens.bounds.shared_products import SharedProducts
from oracle_engine.kernels.screens.bounds.upper_bounds import UpperLogits
from oracle_engine.scans.exact import ExactScan
from oracle_engine.search.trajectory import Trajectory

STEPS = torch.linspace(0.0, 1.0, 13).double()

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "labels": {"labels": torch.arange(6) % 4},
    "guidance": {"labels": 2, "guidance": Guidance(2.5, 0.1, 0.97)},
}


def euler(velocity: Callable[[Tensor, float], Tensor], x: Tensor) -> list[Tensor]:
    """Return the states of an Euler run, before each step."""
    states = [x]
    for t, end in zip(STEPS[:-1].tolist(), STEPS[1:].tolist(), strict=True):
        states.append(states[-1] + (end - t) * velocity(states[-1], t))
    return states[:-1]


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the queries that are scanned in full, and those that pass a screen with and without shared products."""
    counted: Counter[str] = Counter()
    state, of = ExactScan.state, UpperLogits.of.__func__  # type: ignore[attr-defined]

    def counting_state(self: ExactScan, request: Any, *rest: Any) -> Any:
        counted["exact"] += len(request)
        return state(self, request, *rest)

    def counting_of(cls: type[UpperLogits], *arguments: Any) -> UpperLogits:
        made: UpperLogits = of(cls, *arguments)
        counted["alone" if made.shared_products is None else "shared"] += len(made)
        return made

    monkeypatch.setattr(ExactScan, "state", counting_state)
    monkeypatch.setattr(UpperLogits, "of", classmethod(counting_of))
    return counted


@pytest.mark.parametrize(
    ("kind", "options"), [*(("float32", name) for name in sorted(OPTIONS)), ("uint8", "plain"), ("weights", "plain")]
)
def test_answers_along_a_run_are_those_of_the_engine(generator: torch.Generator, kind: str, options: str) -> None:
    data, given = the_data(kind), OPTIONS[options]
    start = normal(6, data.dim, generator)
    engine = prepared(kind)
    trajectory = engine.trajectory(start, **given)
    exact = OracleEngine(data, mode="exact")
    for t, x in zip(STEPS.tolist(), euler(trajectory.velocity, start), strict=False):
        assert_rows_close(trajectory(x, t), exact.velocity(x, t, **given), "tolerance of a search")
        # the mean of a guided answer may be as short as its two terms cancel
        scale = engine.data.rows.radius + torch.zeros(len(x)).double()
        assert_rows_close(trajectory.denoiser(x, t), exact.denoiser(x, t, **given), "tolerance of a search", scale)


def test_what_the_steps_share_spares_scans(generator: torch.Generator, scanned: Counter[str]) -> None:
    data = make_data(generator, dim=200)
    engine = eager(OracleEngine(data, tolerance=1e-3).prepare())
    start = normal(32, data.dim, generator)
    states = euler(OracleEngine(data, mode="exact").velocity, start)
    trajectory = engine.trajectory(start)
    scans = {}
    for name, velocity in (("engine", engine.velocity), ("trajectory", trajectory.velocity)):
        scanned.clear()
        for t, x in zip(STEPS.tolist(), states, strict=False):
            velocity(x, t)
        scans[name] = scanned["exact"]
        way, other = ("alone", "shared") if name == "engine" else ("shared", "alone")
        assert (scanned[way], scanned[other]) == (32 * len(states), 0)
    assert scans["trajectory"] < scans["engine"]


def test_the_products_of_the_start_are_taken_once(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = prepared()
    made: list[int] = []
    of = SharedProducts.of.__func__  # type: ignore[attr-defined]

    def counting(cls: type[SharedProducts], rows: Any, point: Tensor) -> SharedProducts:
        made.append(len(point))
        result: SharedProducts = of(cls, rows, point)
        return result

    monkeypatch.setattr(SharedProducts, "of", classmethod(counting))
    start = normal(5, the_data("float32").dim, generator)
    euler(engine.trajectory(start).velocity, start)
    assert made == [5]


@pytest.mark.parametrize("method", sorted(samplers.METHODS))
def test_samplers_step_through_a_trajectory(generator: torch.Generator, method: str) -> None:
    engine = prepared()
    start = normal(6, engine.data.dim, generator)
    run = samplers.sample(engine.trajectory(start), start, STEPS, method=method)
    exact = samplers.sample(OracleEngine(engine.data, mode="exact"), start, STEPS, method=method)
    # within one basin a run forgets its errors: both end on the same sample
    assert_rows_close(run.x, exact.x, "prepared")


def test_a_resumed_run_begins_a_trajectory_anywhere(generator: torch.Generator) -> None:
    engine = prepared()
    own = engine.data[torch.arange(8)].double().reshape(8, -1)
    x = 0.6 * own + 0.4 * normal(8, engine.data.dim, generator)
    trajectory = engine.trajectory(x, 0.6)
    step = x + 0.1 * trajectory(x, 0.6)
    exact = OracleEngine(engine.data, mode="exact")
    assert_rows_close(trajectory(step, 0.7), exact.velocity(step, 0.7), "tolerance of a search")


def test_fresh_noise_and_other_batches_are_refused(generator: torch.Generator) -> None:
    engine = prepared()
    start = normal(6, engine.data.dim, generator)
    trajectory = engine.trajectory(start)
    x = start + 0.5 * trajectory(start, 0.0)
    fresh = x.clone()
    fresh[4] += normal(1, engine.data.dim, generator)[0]
    with pytest.raises(InputError, match=r"(?s)deterministic steps.*state 4.*stochastic"):
        trajectory(fresh, 0.5)
    with pytest.raises(InputError, match=r"(?s)all 6 starting points.*3"):
        trajectory(x[:3], 0.5)


@pytest.mark.parametrize("mode", ["exact", "top_k"])
def test_where_nothing_is_shared_it_only_hands_on(generator: torch.Generator, mode: str) -> None:
    engine = prepared(mode=mode)
    start = normal(4, engine.data.dim, generator)
    trajectory: Trajectory = engine.trajectory(start)
    assert trajectory.shared_products is None
    assert torch.equal(trajectory(3 * start, 0.5), engine.velocity(3 * start, 0.5))
    bare = OracleEngine(engine.data).trajectory(start)
    assert bare.shared_products is None
    assert torch.equal(bare(start, 0.3), OracleEngine(engine.data).velocity(start, 0.3))
