"""The engine refuses what it cannot answer in words that help, and otherwise returns finite numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from closed_form import normal
from engine_cases import X, twenty
from hypothesis import given
from hypothesis import strategies as st
from recording import begin_capture
from refusals import refused

from oracle_engine import Budget, Guidance, InputError, OracleDataset, OracleEngine, TopK, posterior_draw


@pytest.fixture
def engine(generator: torch.Generator) -> OracleEngine:
    return twenty(generator)


@pytest.mark.parametrize("method", ["velocity", "denoiser", "score", "noise", "log_density", "posterior"])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 5), r"`x` must have shape \[B, 4\]; received \[2, 5\]. Remedy: reshape"),
        (torch.zeros(4), r"`x` must have shape \[B, 4\]; received \[4\]"),
        (torch.zeros(2, 2, 2), r"`x` must have shape \[B, 4\]; received \[2, 2, 2\]"),
        (
            torch.zeros(2, 4, dtype=torch.int32),
            r"`x` must have a floating dtype; received torch.int32. Remedy: pass x.float",
        ),
        (torch.zeros(2, 4, dtype=torch.complex64), r"`x` must have a floating dtype; received torch.complex64"),
        ([[0.0] * 4], r"`x` must be a torch.Tensor; received list. Remedy: pass torch.as_tensor\(x\)"),
        (torch.zeros(2, 4, device="meta"), "`x` must be on the device of the data, cpu; received meta"),
        (
            torch.tensor([[0.0] * 4, [0.0, math.nan, 0.0, 0.0]]),
            "`x` must be finite; received a NaN or an infinity in query 1",
        ),
        (torch.tensor([[math.inf] * 4]), "`x` must be finite; received a NaN or an infinity in query 0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_queries_that_cannot_be_answered(engine: OracleEngine, method: str, x: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        getattr(engine, method)(x, 0.5)


@pytest.mark.parametrize("method", ["velocity", "log_density", "posterior"])
@pytest.mark.parametrize(
    ("t", "message"),
    [
        (-0.1, r"`t` must lie in \[0, 1\], 0 noise and 1 data; received -0.1"),
        (
            torch.tensor([0.2, 500.0]),
            r"`t` must lie in \[0, 1\].*received 500.0. Remedy: rescale .* t = 1 - step / 1000",
        ),
        (math.nan, r"`t` must lie in \[0, 1\].*received nan"),
        (torch.zeros(3), r"`t` must be a number, \[2\] or \[2, 1, ...\]; received \[3\]"),
        (torch.zeros(1, 2), r"`t` must be a number, \[2\] or \[2, 1, ...\]; received \[1, 2\]"),
        (1.0, r"`t` must leave some noise: sigma\(t\) > 0; received t = 1.0. Remedy: .*OracleEngine\(t_max=0.999\)"),
        (torch.tensor([0.5, 1.0]), r"`t` must leave some noise: .*received t = 1.0"),
    ],
)
def test_times_that_cannot_be_answered(engine: OracleEngine, method: str, t: Any, message: str) -> None:
    with refused(message):
        getattr(engine, method)(X, t)


@pytest.mark.parametrize("path", ["rectified_flow", "gvp", "vp", "linear_vp", "polynomial"])
def test_the_end_of_every_path_is_refused_or_clamped(generator: torch.Generator, path: str) -> None:
    data = OracleDataset(normal(20, 4, generator))
    with refused("`t` must leave some noise"):
        OracleEngine(data, path).velocity(X, 1.0)
    clamped = OracleEngine(data, path, t_max=0.999)
    assert torch.equal(
        clamped.velocity(X, 1.0), OracleEngine(data, path).velocity(X, torch.tensor(0.999, dtype=torch.float64))
    )
    assert bool(clamped.velocity(X, torch.tensor([0.9995, 1.0])).isfinite().all())
    assert torch.equal(clamped.velocity(X, 0.5), OracleEngine(data, path).velocity(X, 0.5))


def test_a_clamp_at_the_end_itself_is_still_refused(engine: OracleEngine) -> None:
    with refused("`t` must leave some noise"):
        OracleEngine(engine.data, t_max=1.0).velocity(X, 1.0)
    # a path that ends in a little noise has an answer there
    assert bool(OracleEngine(engine.data, "edm").velocity(X, 1.0).isfinite().all())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (4, r"`labels` must be classes of the data, 0 .. 3 \(4 classes\), or -1; received 4. Remedy: list them"),
        (torch.tensor([0, -2]), "`labels` must be classes of the data, .*received -2"),
        (torch.tensor([0.0, 1.0]), r"`labels` must be integers; received torch.float32. Remedy: pass labels.long"),
        (torch.tensor([True, False]), "`labels` must be integers; received torch.bool"),
        (torch.tensor([0, 1, 2]), r"`labels` must be one number, \[2\] or \[2, U\]; received \[3\]"),
        (torch.zeros(2, 1, 1).long(), r"`labels` must be one number, \[2\] or \[2, U\]; received \[2, 1, 1\]"),
    ],
)
def test_labels_that_cannot_be_used(engine: OracleEngine, labels: Any, message: str) -> None:
    for method in (engine.velocity, engine.log_density, engine.posterior):
        with refused(message):
            method(X, 0.5, labels=labels)


def test_labels_need_labelled_data(engine: OracleEngine) -> None:
    with refused("`labels` need labelled data; received a data set without labels"):
        OracleEngine(OracleDataset(torch.zeros(3, 4))).velocity(X, 0.5, labels=0)


@pytest.mark.parametrize(
    ("guidance", "message"),
    [
        (math.nan, "`guidance` must be a finite number or "),
        (torch.zeros(3), r"`guidance` must be a finite number or \[2\]"),
        (Guidance(math.inf), "`guidance` must be a finite number"),
        (Guidance(torch.zeros(2, 1)), r"`guidance` must be a finite number or \[2\]"),
    ],
)
def test_guidance_that_cannot_be_used(engine: OracleEngine, guidance: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        engine.velocity(X, 0.5, labels=0, guidance=guidance)


def test_guidance_needs_labels(engine: OracleEngine) -> None:
    with refused("`guidance` needs labels to guide towards; received no labels"):
        engine.velocity(X, 0.5, guidance=2.0)


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        (20, r"`exclude` must be indices of samples, 0 .. 19, or -1; received 20"),
        (torch.tensor([0, -2]), "`exclude` must be indices of samples, .*received -2"),
        (torch.tensor([0.0, 1.0]), "`exclude` must be integers; received torch.float32"),
        (torch.tensor([[0], [1]]), r"`exclude` must be one number or \[2\]; received \[2, 1\]"),
    ],
)
def test_samples_that_cannot_be_left_out(engine: OracleEngine, exclude: Any, message: str) -> None:
    with refused(message):
        engine.velocity(X, 0.5, exclude=exclude)


def test_the_only_sample_cannot_be_left_out(engine: OracleEngine) -> None:
    message = "`exclude` must leave a sample to each query; received none left for query {}. Remedy: pass -1"
    with pytest.raises(InputError, match=message.format(0)):
        OracleEngine(OracleDataset(torch.zeros(1, 4))).velocity(X, 0.5, exclude=0)
    with pytest.raises(InputError, match=message.format(1)):
        engine.velocity(X, 0.5, labels=torch.tensor([0, 3]), exclude=19)
    # the other classes of a union, or none named, are left
    for labels in (torch.tensor([[3, 1], [3, 0]]), -1, 0, None):
        assert bool(engine.velocity(X, 0.5, labels=labels, exclude=19).isfinite().all())


def test_samples_without_weight_are_no_answer_either() -> None:
    weights, labels = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0, 0, 1])
    engine = OracleEngine(OracleDataset(torch.eye(3), labels, weights))
    message = "`weights` must be positive for some sample; received none for query 0"
    with refused(message):
        engine.velocity(torch.zeros(1, 3), 0.5, labels=0)
    with refused(message):
        engine.log_density(torch.zeros(1, 3), 0.5, exclude=2)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("top_k", [-1, 1.5, "2"])
def test_only_a_whole_number_of_samples_can_be_named(engine: OracleEngine, top_k: Any) -> None:
    with refused(f"`top_k` must be a whole number >= 0; received {top_k}"):
        engine.posterior(X, 0.5, top_k=top_k)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "cuda"}, "`backend` must be auto, native, torch, reference.*; received 'cuda'"),
        (
            {"path": "flow"},
            "`path` must be one of rectified_flow, gvp, vp, linear_vp, polynomial, edm, .*received 'flow'",
        ),
        ({"point_std": -0.1}, "`point_std` must be a finite number >= 0; received -0.1"),
        ({"point_std": math.inf}, "`point_std` must be a finite number >= 0; received inf"),
        ({"point_std": math.nan}, "`point_std` must be a finite number >= 0; received nan"),
        ({"t_max": 1.5}, r"`t_max` must lie in \[0, 1\]; received 1.5"),
        ({"t_max": math.nan}, r"`t_max` must lie in \[0, 1\]; received nan"),
    ],
)
def test_engines_that_cannot_be_made(engine: OracleEngine, options: dict[str, Any], message: str) -> None:
    with refused(message):
        OracleEngine(engine.data, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "single"}, "`precision` must be full or half; received 'single'"),
        ({"precision": "half", "backend": "torch"}, "`precision` can be half with the Triton kernels only"),
        ({"precision": "half", "backend": "reference"}, "`precision` can be half .*; received backend 'reference'"),
    ],
)
def test_precisions_that_a_backend_has_not_are_refused(options: dict[str, Any], message: str) -> None:
    with refused(message):
        OracleEngine(OracleDataset(torch.zeros(3, 4)), **options)


@pytest.mark.usefixtures("unchecked")
def test_an_engine_needs_a_data_set() -> None:
    with refused("`data` must be the name of a built-in set, a path, a tensor, an array or an iterable of samples"):
        OracleEngine(3)
    with refused(r"`data` must be a path that exists or a built-in set .* received 'nowhere'"):
        OracleEngine("nowhere")


@pytest.mark.usefixtures("unchecked")
@given(st.data())
def test_nothing_but_an_input_error_is_raised_and_nothing_but_numbers_returned(draw: st.DataObject) -> None:
    engine = OracleEngine(OracleDataset(torch.eye(4).repeat(3, 1), torch.arange(12) % 4, torch.arange(12.0)))
    batch = draw.draw(st.integers(0, 3))
    number = st.sampled_from([0.0, 1e-4, 0.5, 0.999, 1.0, -1.0, math.nan])
    whole = st.sampled_from([-2, -1, 0, 1, 3, 4, 11, 12])
    rows = st.lists(whole, min_size=batch, max_size=batch).map(torch.tensor)
    x = draw.draw(st.sampled_from([0.0, 1.0, 1e4, 1e18, 1e30, math.inf])) * torch.ones(batch, 4)
    t = draw.draw(st.one_of(number, st.lists(number, min_size=batch, max_size=batch).map(torch.tensor)))
    options: dict[str, Any] = {
        "labels": draw.draw(st.none() | whole | rows),
        "exclude": draw.draw(st.none() | whole | rows),
    }
    if draw.draw(st.booleans()):
        options["guidance"] = draw.draw(number | st.just(3.0))
    try:
        velocity = engine.velocity(x, t, **options)
    except InputError:
        return
    assert velocity.shape == x.shape
    assert bool(velocity.isfinite().all())


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        ({}, lambda engine: engine(X, 0.5), "`backend` must not need values on the host while"),
        (
            {"mode": "top_k"},
            lambda engine: engine(X, 0.5),
            "`mode` must not .*that searches.*Remedy: pass mode='exact'",
        ),
        ({}, lambda engine: engine.posterior(X, 0.5), "`posterior` must not .*Remedy: ask for it outside of the graph"),
        ({}, lambda engine: engine.trajectory(X), "`trajectory` must not"),
        ({}, lambda engine: engine(X.clone().requires_grad_(), 0.5), r"`x` must not .*Remedy: pass x.detach\(\)"),
        (
            {},
            lambda engine: engine(X, 0.5, labels=0, guidance=2.0),
            "`guidance` must not .*velocities with and without",
        ),
    ],
)
def test_what_a_graph_cannot_record_is_refused(
    options: dict[str, Any],
    call: Callable[[OracleEngine], Any],
    message: str,
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = twenty(generator).data
    backend = "torch" if "backend" in message else "triton"
    engine = OracleEngine(data, backend=backend, **options)
    begin_capture(monkeypatch)
    with refused(message):
        call(engine)


@pytest.mark.parametrize("name", ["score", "velocity"])
def test_an_answer_that_the_dtype_cannot_hold_is_refused(engine: OracleEngine, name: str) -> None:
    x = torch.full((2, 4), 6e4, dtype=torch.float16)
    x[0] = 0.0
    message = f"`x` must have a dtype that holds the answer; received torch.float16, .* larger {name} in query 1"
    with refused(message):
        getattr(engine, name)(x, 0.5)
    with refused(message):
        getattr(engine, name)(x.clone().requires_grad_(), 0.5)
    for wider in (torch.bfloat16, torch.float32, torch.float64):
        assert getattr(engine, name)(x.to(wider), 0.5).isfinite().all()
    with refused("`x` must have a dtype that holds the answer; received torch.float32"):
        getattr(engine, name)(torch.full((2, 4), 3e38), 0.5)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("t_min", "t_max"), [(0.7, 0.3), (-0.1, 1.0), (0.0, 1.1), (math.nan, 1.0), ("0", 1.0)])
def test_an_interval_of_guidance_lies_in_the_times(t_min: Any, t_max: float) -> None:
    with refused("`guidance` needs an interval 0 <= t_min <= t_max <= 1; received t_min = "):
        Guidance(2.0, t_min=t_min, t_max=t_max)


def test_a_query_too_far_to_square_its_distance_is_refused_by_its_name(engine: OracleEngine) -> None:
    x = torch.zeros(2, 4, dtype=torch.float64)
    x[1] = 1e200
    message = r"`x` must have a distance to the samples that can be squared; received 1e\+200 in query 1"
    for ask in (engine.velocity, engine.log_density, engine.posterior, partial(posterior_draw, engine)):
        with refused(message):
            ask(x, 0.5)


def test_samples_and_weights_that_a_cast_would_change_are_refused() -> None:
    for dtype in (torch.complex64, torch.int64):
        with refused(f"`points` must be stored as one of uint8, .*; received {dtype}"):
            OracleDataset(torch.eye(3, dtype=dtype), storage=torch.float32)
    with refused("`points` must be a dense tensor; received layout torch.sparse_coo"):
        OracleDataset(torch.eye(3).to_sparse())
    with refused("`weights` must be real; received torch.complex128"):
        OracleDataset(torch.eye(3), weights=[1, 2, 3j])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("mode", "name"), [(TopK, "count"), (Budget, "rows")])
@pytest.mark.parametrize("value", [1.5, "2", 0])
def test_modes_score_a_whole_number_of_samples(mode: Callable[..., Any], name: str, value: Any) -> None:
    with refused(f"`{name}` must be a whole number of at least"):
        mode(value)
