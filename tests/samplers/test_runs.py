"""Runs end on samples of the data, converge at the order of their method, and follow the velocity they are given."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from closed_form import nearest
from tolerances import assert_close, assert_rows_close, assert_within
from torch import Tensor

from oracle_engine import Guidance, InputError, OracleDataset, OracleEngine
from oracle_engine.paths.paths import PATHS
from oracle_engine.paths.time_grids import sampling_times, shift_for, shifted
from oracle_engine.samplers.fields import Switch
from oracle_engine.samplers.runs import Capture, initial_noise, noised, sample
from oracle_engine.samplers.steps import METHODS


@pytest.fixture
def data(generator: torch.Generator) -> OracleDataset:
    points = torch.randn(60, 3, 4, 4, generator=generator, dtype=torch.float64)
    return OracleDataset(points, torch.arange(60) % 3)


class Recorded:
    """A velocity that records the times of its evaluations, and returns that of an engine."""

    def __init__(self, inner: OracleEngine) -> None:
        self.inner, self.times = inner, list[float]()

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (len(x),)
        self.times.append(float(t[0]))
        return self.inner.velocity(x, t)


@pytest.mark.parametrize("path", sorted(PATHS))
@pytest.mark.parametrize("method", METHODS)
def test_a_full_oracle_run_lands_on_samples(
    path: str, method: str, data: OracleDataset, generator: torch.Generator
) -> None:
    engine = OracleEngine(data, path)
    # polynomial(2) stands still at t = 0
    start = 1e-3 if path == "polynomial" else 0.0
    x = initial_noise(engine, 6, start=start, generator=generator)
    run = sample(engine, x, sampling_times(16, start=start), method=method)
    found, index = nearest(run.x, data)
    assert_rows_close(run.x, found, "landing")
    assert len(index.unique()) > 1


def test_labels_guidance_and_unions_choose_where_a_run_lands(data: OracleDataset, generator: torch.Generator) -> None:
    engine = OracleEngine(data)
    x = initial_noise(engine, 8, generator=generator)
    labels = torch.arange(8) % 3
    for guidance in (None, 1.5, Guidance(2.0, 0.1, 0.5)):
        run = sample(engine, x, sampling_times(12), labels=labels, guidance=guidance)
        found, index = nearest(run.x, data)
        assert torch.equal(index % 3, labels)
        assert_rows_close(run.x, found, "landing")


def test_a_step_is_what_the_formula_says(data: OracleDataset, generator: torch.Generator) -> None:
    engine, labels = OracleEngine(data), torch.tensor([0, 1, 2, 0])
    x = torch.randn(4, 3, 4, 4, generator=generator, dtype=torch.float64)
    times = torch.tensor([0.2, 0.35], dtype=torch.float64)
    v = engine.velocity(x, 0.2, labels=labels, guidance=3.0)
    euler = x + 0.15 * v
    heun = x + 0.075 * (v + engine.velocity(euler, 0.35, labels=labels, guidance=3.0))
    for method, expected in (("euler", euler), ("ddim", euler), ("heun", heun)):
        assert_close(sample(engine, x, times, method=method, labels=labels, guidance=3.0).x, expected, "float64")


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2), ("ddim", 1)])
def test_methods_converge_at_their_order(method: str, order: int) -> None:
    # Gaussian data of width 2: x_t is x_0 times the width of the marginal
    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return x * ((4 * t - (1 - t)) / (4 * t.square() + (1 - t).square()))[:, None]

    x = torch.ones(1, 1, dtype=torch.float64)
    exact = math.sqrt(4 * 0.7**2 + 0.3**2)
    errors = [
        abs(float(sample(velocity, x, sampling_times(steps, stop=0.7), method=method).x) - exact)
        for steps in (64, 128, 256)
    ]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("path", sorted(PATHS))
def test_ddim_is_exact_while_the_denoiser_stands_still(path: str, generator: torch.Generator) -> None:
    target = torch.randn(1, 7, generator=generator, dtype=torch.float64)
    engine = OracleEngine(OracleDataset(target), path)
    eps = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    at = {t: engine.path(torch.tensor([t], dtype=torch.float64)) for t in (0.1, 0.8)}
    first, last = (at[t].alpha_t * target + at[t].sigma_t * eps for t in (0.1, 0.8))
    times = torch.tensor([0.1, 0.15, 0.8], dtype=torch.float64)
    assert_close(sample(engine, first, times, method="ddim").x, last, "float64", float(last.abs().max()))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", sorted(PATHS))
def test_a_model_that_is_the_oracle_makes_the_same_run_and_is_never_asked_at_one(
    path: str, method: str, data: OracleDataset, generator: torch.Generator
) -> None:
    engine = OracleEngine(data, path)
    model = Recorded(engine)
    times = sampling_times(8, start=0.05)
    x = noised(engine, data[torch.arange(4)], 0.05, generator=generator)
    expected = sample(engine, x, times, method=method)
    assert_rows_close(sample(model, x, times, method=method, path=path).x, expected.x, "bar")
    # two evaluations a step for heun, but one where the step ends at t = 1
    assert len(model.times) == (15 if method == "heun" else 8)
    assert max(model.times) < 1.0


@pytest.mark.parametrize("reverse", [False, True])
def test_a_switch_follows_one_and_then_the_other(
    reverse: bool, data: OracleDataset, generator: torch.Generator
) -> None:
    engine = OracleEngine(data)
    before, after = Recorded(engine), Recorded(engine)
    switch = Switch(before, engine, 0.3) if reverse else Switch(engine, after, 0.3)
    x = initial_noise(engine, 3, generator=generator)
    run = sample(switch, x, sampling_times(10))
    asked = before.times if reverse else after.times
    assert asked == pytest.approx([0.0, 0.1, 0.2] if reverse else [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    assert_rows_close(run.x, sample(engine, x, sampling_times(10)).x, "bar")


def test_a_model_that_takes_over_decides_the_end(data: OracleDataset, generator: torch.Generator) -> None:
    engine = OracleEngine(data)
    x = initial_noise(engine, 3, generator=generator)
    # a model that stands still keeps what the oracle reached
    run = sample(Switch(engine, lambda x, t: torch.zeros_like(x), 0.5), x, sampling_times(10))
    assert_close(run.x, sample(engine, x, sampling_times(5, stop=0.5)).x, "float64")


def test_an_object_with_a_velocity_is_followed_in_float64(data: OracleDataset, generator: torch.Generator) -> None:
    engine = OracleEngine(data)

    class Handle:
        def velocity(self, x: Tensor, t: Tensor) -> Tensor:
            assert t.dtype == torch.float64
            return engine.velocity(x, t)

    x = initial_noise(engine, 3, generator=generator).float()
    times = sampling_times(10, shift=0.4)
    assert_rows_close(sample(Handle(), x, times).x, sample(engine, x, times).x, "bar")


def test_a_noised_sample_is_found_again(data: OracleDataset, generator: torch.Generator) -> None:
    engine = OracleEngine(data)
    x = noised(engine, data[torch.arange(10)], 0.85, generator=generator)
    run = sample(engine, x, sampling_times(8, start=0.85))
    assert_rows_close(run.x, data[torch.arange(10)], "landing")


def test_what_is_captured_is_what_happened(data: OracleDataset, generator: torch.Generator) -> None:
    engine, times = OracleEngine(data), sampling_times(6)
    x = initial_noise(engine, 5, generator=generator)
    for method in METHODS:
        capture = Capture(states=True, denoisers=True, top_k=2)
        run = sample(engine, x, times, method=method, capture=capture)
        assert run.states is not None
        assert run.denoisers is not None
        assert run.top_weights is not None
        assert run.top_indices is not None
        assert torch.equal(run.states[0], x)
        assert torch.equal(run.states[-1], run.x)
        for step, t in enumerate(times[:-1]):
            p = engine.posterior(run.states[step], t, top_k=2)
            assert_close(run.denoisers[step], p.mean, "float64")
            assert torch.equal(run.top_indices[step], p.top_indices)
            assert torch.equal(run.top_weights[step], p.top_weights)
        kept = (run.states, run.denoisers, run.top_weights, run.top_indices)
        assert capture.memory(x, 6) == sum(part.nbytes for part in kept)
    plain = sample(engine, x, times)
    assert (plain.states, plain.denoisers, plain.top_weights, plain.top_indices) == (None,) * 4


def test_the_denoiser_is_captured_where_the_path_stands_still(generator: torch.Generator) -> None:
    engine = OracleEngine(OracleDataset(torch.randn(9, 4, generator=generator)), "polynomial")
    x = torch.randn(2, 4, generator=generator)
    run = sample(engine, x, sampling_times(4), capture=Capture(denoisers=True))
    assert run.denoisers is not None
    assert torch.equal(run.denoisers[0], engine.denoiser(x, 0.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_run_keeps_the_dtype_of_its_start_and_models_get_times_they_can_tell_apart(
    dtype: torch.dtype, data: OracleDataset
) -> None:
    seen = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return torch.zeros_like(x)

    assert sample(model, torch.zeros(2, 3, dtype=dtype), sampling_times(2000, start=0.998)).x.dtype == dtype
    assert len({float(t[0]) for t in seen}) == 2000
    assert sample(OracleEngine(data), torch.zeros(2, 3, 4, 4, dtype=dtype), sampling_times(3)).x.dtype == dtype


def test_progress_counts_the_steps(data: OracleDataset) -> None:
    seen: list[tuple[int, int]] = []
    sample(
        OracleEngine(data),
        torch.zeros(1, 3, 4, 4),
        sampling_times(3),
        progress=lambda done, all_: seen.append((done, all_)),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_shifted_grids_follow_the_formula_and_keep_their_ends() -> None:
    plain = torch.arange(11, dtype=torch.float64) / 10
    for s in (0.25, 1.0, 3.0):
        times = sampling_times(10, shift=s)
        assert_close(times, s * plain / (1 + (s - 1) * plain), "float64")
        assert_close(shifted(times, 1 / s), plain, "float64")
    part = sampling_times(7, shift=0.3, start=0.21, stop=0.83)
    assert part[[0, -1]].tolist() == [0.21, 0.83]
    gaps = shifted(part, 1 / 0.3).diff()
    assert_within(gaps - gaps[0], "float64")


def test_a_shift_puts_the_share_of_steps_that_was_asked_for() -> None:
    times = sampling_times(100, shift=shift_for(0.7, before=0.12))
    assert float(times[70]) == pytest.approx(0.12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "`steps` must be at least 1; received 0"),
        ({"shift": 0.0}, "`shift` must be positive and finite"),
        ({"start": 0.5, "stop": 0.5}, "`start, stop` must satisfy"),
        ({"stop": 1.5}, "`start, stop` must satisfy"),
    ],
)
def test_grids_that_cannot_be_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sampling_times(**{"steps": 5, **options})


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (torch.tensor([1.0, 0.5, 0.0]), r"must increase strictly.*received 1.0 \.\. 0.0. Remedy: pass times.flip"),
        (torch.tensor([0.0, 0.5, 0.5]), "must increase strictly.*Remedy: sort them"),
        (torch.tensor([0.0, 999.0]), r"must lie in \[0, 1\]"),
        (torch.tensor([0.5]), "must be one-dimensional"),
        (torch.tensor([0, 1]), "must have a floating dtype"),
    ],
)
def test_times_that_cannot_be_followed(times: Tensor, message: str, data: OracleDataset) -> None:
    with pytest.raises(InputError, match=f"`times` {message}"):
        sample(OracleEngine(data), torch.zeros(1, 3, 4, 4), times)


def test_arguments_that_do_not_fit(data: OracleDataset) -> None:
    engine, x, times = OracleEngine(data), torch.zeros(2, 3, 4, 4), sampling_times(3)

    def still(x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def refused(message: str, *arguments: Any, **options: Any) -> None:
        with pytest.raises(InputError, match=message):
            sample(*arguments, **options)

    refused("`method` must be one of euler, heun, ddim; received 'rk4'", engine, x, times, method="rk4")
    refused("`labels` is for an OracleEngine in the run; received 3 without one", still, x, times, labels=3)
    refused("`guidance` is for an OracleEngine", still, x, times, guidance=2.0)
    refused("`capture.top_k` is for an OracleEngine", still, x, times, capture=Capture(top_k=2))
    refused("`capture.top_k` must not be negative", engine, x, times, capture=Capture(top_k=-1))
    refused("`path` must be the path of the engine, RectifiedFlow", engine, x, times, path="vp")
    refused("`path` must be the path", Switch(engine, OracleEngine(data, "gvp"), 0.5), x, times)
    refused("`path` must be one of", still, x, times, path="straight")
    refused(r"`x` must have shape \[B, 3, 4, 4\]", engine, torch.zeros(2, 5), times)
    refused("`times` must avoid times where the path stands still", still, x, times, path="polynomial", method="ddim")
    with pytest.raises(InputError, match=r"`t_switch` must lie in \[0, 1\]"):
        Switch(engine, still, 300.0)
    with pytest.raises(InputError, match="`count` must be at least 1"):
        initial_noise(engine, 0)
    with pytest.raises(InputError, match=r"`t` must lie in \[0, 1\]"):
        noised(engine, x, 1.5)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda x, t: x[:1], r"must return the shape of x, \[2, 3\]; received \[1, 3\]"),
        (lambda x, t: (x, t), "must return a torch.Tensor; received tuple"),
        (lambda x, t: x / 0, "must return finite numbers; received a NaN or an infinity at t = 0.0"),
    ],
)
def test_a_model_that_returns_something_else_is_told(model: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"`velocity` {message}"):
        sample(model, torch.ones(2, 3), sampling_times(3))


def test_no_graph_is_kept(data: OracleDataset) -> None:
    weight = torch.ones(1, requires_grad=True)
    assert not sample(lambda x, t: weight * x, torch.ones(2, 3), sampling_times(3)).x.requires_grad
