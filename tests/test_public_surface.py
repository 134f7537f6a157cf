"""Whatever a caller passes, in any container, dtype and layout: an answer within the bar, or an InputError."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from closed_form import clusters, normal, stored_as, values_of
from engine_cases import PREDICTIONS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from surface_cases import (
    Form,
    Problem,
    coefficients,
    indices_of,
    labels_of,
    points_of,
    posterior_weights,
    predictions,
    scales_of,
    times_of,
    usable_samples,
)
from tolerances import TOLERANCES, assert_close, assert_within
from torch import Tensor

from oracle_engine import InputError, OracleDataset, OracleEngine, Posterior

# how far the last rounding may move an answer beside its error
ROUNDING = {torch.float16: "float16 output", torch.bfloat16: "bfloat16 output"}
COUNT, CLASSES = 30, 3
# calls have six arguments to vary
MANY = 16


class Asked(NamedTuple):
    """One call: the engine, its model, the answer that is asked for, and each argument."""

    engine: OracleEngine
    problem: Problem
    name: str
    x: Form
    t: Form
    conditions: dict[str, Form]


@cache
def engines() -> dict[str, tuple[OracleEngine, Problem]]:
    """Return engines over every kind of data set, each with what it stands for."""
    generator = torch.Generator().manual_seed(2)
    points, wide = normal(COUNT, 6, generator), clusters(400, 40, generator)
    labels = torch.arange(COUNT) % (CLASSES + 1) - 1
    weights = torch.rand(COUNT, generator=generator, dtype=torch.float64) + 0.1
    prepared = OracleEngine(OracleDataset(wide.float(), torch.arange(400) % CLASSES)).prepare("pca")
    made = {
        "float32": OracleEngine(OracleDataset(points.float(), torch.arange(COUNT) % CLASSES)),
        "some without a class": OracleEngine(OracleDataset(points.half(), labels), "gvp"),
        "weighted images": OracleEngine(
            OracleDataset(stored_as(points, torch.uint8).reshape(COUNT, 1, 2, 3), labels, weights)
        ),
        "reference": OracleEngine(OracleDataset(points, labels, weights), backend="reference"),
        "prepared": prepared,
    }
    return {name: (engine, _problem(engine)) for name, engine in made.items()}


def _problem(engine: OracleEngine) -> Problem:
    data = engine.data
    rows = data.rows
    classes = np.full(len(data), -1) if data.sorted_labels is None else data.sorted_labels.numpy()
    weights = np.ones(len(data)) if rows.log_weights is None else rows.log_weights.double().exp().numpy()
    # in the order of the points: what callers number is not what rows are sorted by
    order = data.index_of(torch.arange(len(data))).argsort()
    path = "gvp" if type(engine.path).__name__ == "GVP" else "rectified_flow"
    return Problem(values_of(data)[order].numpy(), classes[order.numpy()], weights[order.numpy()], path)


@st.composite
def calls(draw: DrawFn) -> Asked:
    """Return calls in which most arguments are right."""
    engine, problem = engines()[draw(st.sampled_from(sorted(engines())))]
    count, size = draw(st.integers(2, 4)), len(problem.points)
    t = draw(times_of(count))
    near = torch.tensor(draw(st.lists(st.integers(0, size - 1), min_size=count, max_size=count)))
    spread = draw(st.sampled_from([1e-3, 1.0, 1.0, 5.0]))
    times = np.full(count, 0.5) if t.meaning is None else np.asarray(t.meaning, dtype=np.float64)
    alpha, sigma = (torch.as_tensor(part.astype(np.float64))[:, None] for part in coefficients(problem.path, times)[:2])
    noise = normal(count, problem.points.shape[1], torch.Generator().manual_seed(draw(st.integers(0, 99))))
    x = alpha * torch.as_tensor(problem.points)[near] + spread * sigma * noise
    conditions = {"labels": draw(labels_of(count, CLASSES)), "exclude": draw(indices_of(count, size))}
    name = draw(st.sampled_from([*PREDICTIONS, "log_density", "posterior"]))
    # a scale without labels is an error that hides the others
    if name in PREDICTIONS and (conditions["labels"].value is not None or draw(st.integers(0, 7)) == 7):
        conditions["guidance"] = draw(scales_of(count))
    as_passed = draw(points_of(engine.data.sample_shape))
    return Asked(engine, problem, name, as_passed(x.reshape(count, *engine.data.sample_shape)), t, conditions)


@pytest.mark.usefixtures("unchecked")
@settings(
    max_examples=MANY * settings().max_examples,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(calls())
def test_an_answer_is_right_or_refused(asked: Asked) -> None:
    conditions = {name: form.value for name, form in asked.conditions.items() if form.value is not None}
    forms = [asked.x, asked.t, *asked.conditions.values()]
    understood = all(form.meaning is not None for form in forms)
    answer = _answer(asked, conditions)
    if isinstance(answer, InputError):
        assert "Remedy: " in str(answer)
        assert not (understood and all(form.usual for form in forms)) or _excused(asked), str(answer)
        return
    assert understood
    assert "guidance" not in conditions or "labels" in conditions
    _assert_right(asked, answer)


def _answer(asked: Asked, conditions: dict[str, Any]) -> Any:
    """Return the answer, or the InputError that was raised instead."""
    try:
        return getattr(asked.engine, asked.name)(asked.x.value, asked.t.value, **conditions)
    except InputError as error:
        return error


def _excused(asked: Asked) -> bool:
    """Whether right arguments ask for what is none: guidance to nothing, nothing left, or more than float16 holds."""
    labels, exclude = (asked.conditions[name].meaning for name in ("labels", "exclude"))
    guided = asked.conditions.get("guidance")
    if guided is not None and guided.value is not None and asked.conditions["labels"].value is None:
        return True
    if not usable_samples(asked.problem, labels, exclude).any(1).all():
        return True
    half = isinstance(asked.x.value, Tensor) and asked.x.value.dtype == torch.float16
    return half and asked.name in PREDICTIONS and float(np.abs(_expected(asked)[asked.name]).max()) > 65503.0


def _expected(asked: Asked) -> dict[str, np.ndarray]:
    """Return every prediction, the log-densities and the weights of the model."""
    problem, t = asked.problem, np.asarray(asked.t.meaning)
    x = asked.x.meaning.detach().reshape(len(t), -1).numpy()
    labels, exclude = (asked.conditions[name].meaning for name in ("labels", "exclude"))
    weights, log_density = posterior_weights(problem, x, t, usable_samples(problem, labels, exclude))
    mean = weights @ problem.points
    guidance = asked.conditions.get("guidance")
    if guidance is not None and guidance.value is not None:
        free = usable_samples(problem, np.full_like(labels, -1), exclude)
        whole = posterior_weights(problem, x, t, free)[0] @ problem.points
        mean = whole + np.asarray(guidance.meaning)[:, None] * (mean - whole)
    return {"log_density": log_density, "weights": weights, **predictions(problem, x, t, mean)}


def _units(asked: Asked, expected: dict[str, np.ndarray]) -> np.ndarray:
    """Return what errors are relative to, [B]: the terms of the velocity, in the units of the prediction."""
    sigma = coefficients(asked.problem.path, np.asarray(asked.t.meaning))[1]
    guidance = asked.conditions.get("guidance")
    scale = 1.0 if guidance is None or guidance.value is None else 1.0 + np.abs(np.asarray(guidance.meaning))
    lengths = np.linalg.norm(asked.problem.points.astype(np.float64), axis=1).max()
    terms = lengths + np.linalg.norm(expected["noise"].astype(np.float64), axis=1)
    unit: np.ndarray = (scale * terms / (sigma if asked.name == "score" else 1.0)).astype(np.float64)
    return unit


def _assert_right(asked: Asked, answer: Any) -> None:
    expected = _expected(asked)
    if isinstance(answer, Posterior):
        _assert_right_posterior(asked, answer, expected)
        return
    wanted = torch.as_tensor(expected[asked.name].astype(np.float64))
    assert isinstance(answer, type(asked.x.value)) or isinstance(asked.x.value, torch.nn.Parameter)
    answer = torch.as_tensor(answer)
    if asked.name == "log_density":
        assert_close(answer, wanted, "moment")
        return
    native = isinstance(asked.x.value, np.ndarray)
    assert answer.dtype == (torch.float64 if native else asked.x.value.dtype)
    assert answer.shape == asked.x.value.shape
    _assert_prediction(asked, answer, wanted, _units(asked, expected))


def _assert_prediction(asked: Asked, answer: Tensor, wanted: Tensor, units: np.ndarray) -> None:
    given = torch.float64 if isinstance(asked.x.value, np.ndarray) else asked.x.value.dtype
    bar = "tolerance of a search" if asked.engine.index is not None else "bar of the terms"
    rounding = TOLERANCES[ROUNDING.get(given, "float32 output")].value
    error = (answer.detach().double().reshape(wanted.shape) - wanted).norm(dim=1)
    assert_within((error - rounding * wanted.norm(dim=1)).clamp_min(0.0) / torch.as_tensor(units), bar)


def _assert_right_posterior(asked: Asked, answer: Posterior, expected: dict[str, np.ndarray]) -> None:
    wanted = torch.as_tensor(expected["denoiser"].astype(np.float64))
    _assert_prediction(asked, answer.mean, wanted, _units(asked, expected))
    weights = torch.as_tensor(expected["weights"].astype(np.float64))
    if asked.engine.index is None:
        assert_close(answer.log_density, torch.as_tensor(expected["log_density"].astype(np.float64)), "moment")
        assert_close(answer.ess, 1.0 / weights.square().sum(1), "moment")
        assert_close(answer.entropy, -torch.xlogy(weights, weights).sum(1), "moment")
    named = weights.gather(1, answer.top_indices.clamp_min(0))
    assert_close(answer.top_weights, torch.where(answer.top_indices < 0, 0.0, named), "tolerance of a search")
