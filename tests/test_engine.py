"""The engine refuses what it cannot answer in words that help, behaves as a module, and is safe to share."""

from __future__ import annotations

import copy
import io
import math
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import jaxtyping
import pytest
import torch
from closed_form import normal
from hypothesis import given
from hypothesis import strategies as st
from tolerances import assert_close
from torch import Tensor

from oracle_engine import Guidance, InputError, OracleDataset, OracleEngine, Posterior
from oracle_engine.backends import BACKENDS, Backend

LABELS = torch.arange(20) % 3
X = torch.zeros(2, 4)


@pytest.fixture
def engine(generator: torch.Generator) -> OracleEngine:
    # class 3 has a single sample, number 19
    labels = torch.cat([LABELS[:19], torch.tensor([3])])
    return OracleEngine(OracleDataset(normal(20, 4, generator).float(), labels, name="twenty"))


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Annotations are not checked, as for a user: what is wrong reaches the engine's own checks."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def refused(message: str) -> AbstractContextManager[Any]:
    """Expect an InputError that starts with this, and ends in a remedy."""
    return pytest.raises(InputError, match=rf"^(?=.*\. Remedy: .+\.$){message}")


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


def test_a_negative_number_of_samples_cannot_be_named(engine: OracleEngine) -> None:
    with refused("`top_k` must not be negative; received -1"):
        engine.posterior(X, 0.5, top_k=-1)


def test_a_data_set_of_few_samples_has_a_posterior_without_further_arguments() -> None:
    posterior = OracleEngine(OracleDataset(torch.eye(3))).posterior(torch.zeros(2, 3), 0.5)
    assert_close(posterior.top_weights[:, :3], torch.full((2, 3), 1 / 3), "moment")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "cuda"}, "`backend` must be auto, torch, reference.*; received 'cuda'"),
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


@pytest.mark.usefixtures("unchecked")
def test_an_engine_needs_a_data_set() -> None:
    points: Any = torch.zeros(3, 4)
    with refused(r"`data` must be an OracleDataset; received Tensor. Remedy: use oracle_engine.load_dataset"):
        OracleEngine(points)


@pytest.mark.usefixtures("unchecked")
def test_whole_numbers_are_times_and_scales_too(engine: OracleEngine) -> None:
    assert torch.equal(engine.velocity(X, 0), engine.velocity(X, 0.0))
    assert torch.equal(engine.velocity(X, 0.5, labels=1, guidance=2), engine.velocity(X, 0.5, labels=1, guidance=2.0))


def test_the_backend_is_named_with_the_reason(engine: OracleEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORACLE_BACKEND", raising=False)
    assert OracleEngine(engine.data).backend == "torch"
    asked = OracleEngine(engine.data, backend="reference")
    assert (asked.backend, asked.backend_reason.split(";")[0]) == ("reference", "backend reference was asked for")
    monkeypatch.setenv("ORACLE_BACKEND", "reference")
    settled = OracleEngine(engine.data)
    assert settled.backend == "reference"
    assert "set by ORACLE_BACKEND" in settled.backend_reason
    assert OracleEngine(engine.data, backend="torch").backend == "torch"


def test_the_backend_that_is_named_is_the_one_that_runs(engine: OracleEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def recorded(name: str, backend: Backend) -> Backend:
        def state(*arguments: Any) -> Any:
            ran.append(name)
            return backend.state(*arguments)

        return replace(backend, state=state)

    for name, backend in BACKENDS.items():
        monkeypatch.setitem(BACKENDS, name, recorded(name, backend))
    for name in ("torch", "reference"):
        OracleEngine(engine.data, backend=name).velocity(X, 0.5)
    assert ran == ["torch", "reference"]


def test_the_plan_can_be_read_before_any_work(engine: OracleEngine) -> None:
    plan = engine.plan(batch=64)
    assert (plan.batch, plan.backend, plan.route) == (64, engine.backend, "exact")
    assert plan.operations == 4 * 64 * 20 * 4
    assert plan.memory > 0
    assert plan.seconds > 0
    text = str(plan)
    assert [line.split()[0] for line in text.splitlines()] == [
        *("data", "batch", "backend", "route", "reason", "late", "memory", "cost", "expected"),
    ]
    assert "OracleDataset('twenty', 20 x [4]" in text
    assert engine.backend_reason in text
    with refused("`batch` must be at least 1; received 0"):
        engine.plan(batch=0)


def test_memory_of_the_plan_does_not_grow_with_the_data() -> None:
    def memory(count: int) -> int:
        return OracleEngine(OracleDataset(torch.zeros(count, 256, dtype=torch.uint8))).plan(batch=32).memory

    assert memory(400_000) == memory(100_000)


def test_every_query_says_which_way_it_took(engine: OracleEngine) -> None:
    assert engine.posterior(X, 0.5).route == ("exact", "exact")


def test_printing_shows_data_path_and_backend(engine: OracleEngine) -> None:
    text = repr(engine)
    assert re.search(r"OracleDataset\('twenty', 20 x \[4\].*path=RectifiedFlow\(\).*backend='torch'", text)


def test_a_module_without_parameters_or_state(engine: OracleEngine) -> None:
    assert list(engine.parameters()) == []
    assert list(engine.buffers()) == []
    assert engine.state_dict() == {}
    engine.load_state_dict({})


@pytest.mark.parametrize("cast", ["half", "double", "bfloat16", "float", "eval", "train"])
def test_casts_leave_the_data_as_they_are(engine: OracleEngine, cast: str) -> None:
    before = engine.velocity(X, 0.5)
    data = engine.data
    assert getattr(engine, cast)() is engine
    assert engine.data is data
    assert torch.equal(engine.velocity(X, 0.5), before)


def test_moving_follows_the_device_and_not_the_dtype(engine: OracleEngine) -> None:
    data = engine.data
    assert engine.to("cpu").data is data
    assert engine.to("cpu", torch.float16).data is data
    parent = torch.nn.Sequential(engine)
    parent.to("meta")
    assert engine.data.device.type == "meta"
    assert OracleEngine(data, device="meta").data.device.type == "meta"
    assert data.device.type == "cpu"


def everything(engine: OracleEngine, x: Tensor) -> Posterior:
    """Ask for all there is, so that every cache of the data set is filled where this is called."""
    engine.velocity(x, 0.3, labels=1, guidance=2.0, exclude=4)
    return engine.posterior(x, 0.3, labels=torch.tensor([[0, 1]] * len(x)), exclude=4)


AROUND: dict[str, Any] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "enable_grad": torch.enable_grad,
    "autocast to bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", dtype=torch.float16),
}


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize("dim", [4, 64])
def test_answers_do_not_depend_on_what_is_around(generator: torch.Generator, name: str, dim: int) -> None:
    points = normal(90, dim, generator).float()
    x = torch.randn(3, dim, generator=generator)
    expected = everything(OracleEngine(OracleDataset(points, torch.arange(90) % 3)), x)
    engine = OracleEngine(OracleDataset(points, torch.arange(90) % 3))
    with AROUND[name]():
        inside = everything(engine, x)
    # what was prepared inside serves outside too
    for answer in (inside, everything(engine, x)):
        assert torch.equal(answer.mean, expected.mean)
        assert torch.equal(answer.log_density, expected.log_density)
        assert torch.equal(answer.top_indices, expected.top_indices)
    assert torch.is_grad_enabled()


def test_the_default_dtype_of_torch_changes_nothing(generator: torch.Generator) -> None:
    engine = OracleEngine(OracleDataset(normal(90, 64, generator).float(), torch.arange(90) % 3))
    x = torch.randn(3, 64, generator=generator)
    expected = everything(engine, x)
    torch.set_default_dtype(torch.float64)
    try:
        answer = everything(engine, x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(answer.mean, expected.mean)
    assert torch.equal(answer.log_density, expected.log_density)


def test_calls_leave_their_arguments_alone(engine: OracleEngine) -> None:
    x, t, labels, exclude = (
        torch.ones(2, 4),
        torch.full((2,), 0.5),
        torch.tensor([[0, 1], [2, -1]]),
        torch.tensor([1, -1]),
    )
    held = [tensor.clone() for tensor in (x, t, labels, exclude)]
    stored = engine.data.rows.stored.clone()
    engine.velocity(x, t, labels=labels, guidance=2.0, exclude=exclude)
    engine.posterior(x, t, labels=labels, exclude=exclude)
    for before, after in zip(held, (x, t, labels, exclude), strict=True):
        assert torch.equal(before, after)
    assert torch.equal(engine.data.rows.stored, stored)


def through_torch_save(engine: OracleEngine) -> OracleEngine:
    buffer = io.BytesIO()
    torch.save(engine, buffer)
    buffer.seek(0)
    loaded: OracleEngine = torch.load(buffer, weights_only=False)
    return loaded


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda engine: pickle.loads(pickle.dumps(engine)), through_torch_save]
)
@pytest.mark.parametrize("used", [False, True])
def test_a_copy_answers_alike(engine: OracleEngine, copied: Any, used: bool) -> None:
    if used:
        everything(engine, X)
    twin = copied(engine)
    assert torch.equal(everything(twin, X).mean, everything(engine, X).mean)
    assert (twin.backend, twin.path, twin.t_max) == (engine.backend, engine.path, engine.t_max)


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_threads_that_share_an_engine_get_the_answers_of_one(generator: torch.Generator, precision: str) -> None:
    points = normal(800, 64, generator).float()
    t = torch.tensor([0.05, 0.3, 0.6, 0.9, 0.99], dtype=torch.float64).repeat(4)
    x = t[:, None] * points[:20] + (1 - t[:, None]) * normal(20, 64, generator)
    alone = everything(OracleEngine(OracleDataset(points, torch.arange(800) % 3)), x).mean
    shared = OracleEngine(OracleDataset(points, torch.arange(800) % 3))
    torch.set_float32_matmul_precision(precision)
    try:
        with ThreadPoolExecutor(4) as pool:
            for answer in pool.map(lambda _: everything(shared, x).mean, range(12)):
                assert_close(answer, alone, "float32 output")
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision("highest")


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


def test_a_velocity_is_made_without_a_graph_inside_a_training_step(engine: OracleEngine) -> None:
    model = torch.nn.Linear(4, 4)
    (model(X + 1) - engine(X + 1, 0.5)).square().mean().backward()
    assert model.weight.grad is not None


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
