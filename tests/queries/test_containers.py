"""Times, labels, guidance and indices mean the same in every container, with all their digits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from closed_form import direct_velocity, normal
from hypothesis import given
from hypothesis import strategies as st
from tolerances import assert_rows_close
from torch import Tensor

from oracle_engine import (
    Flip,
    Guidance,
    OracleDataset,
    OracleEngine,
    OracleTarget,
    conditional_target,
    load_dataset,
    oracle_loss,
    path_sample,
    posterior_draw,
    samplers,
)
from oracle_engine.adapters import DDPMDenoiser, EDMDenoiser, VelocityModel

pytestmark = pytest.mark.usefixtures("unchecked")

# float32 takes the first of these 1.3 % nearer to 1
LATE = [0.999999, 0.3, 0.9999]


@pytest.fixture(scope="module")
def engine() -> OracleEngine:
    generator = torch.Generator().manual_seed(7)
    return OracleEngine(OracleDataset(normal(40, 6, generator), torch.arange(40) % 4))


def queries(engine: OracleEngine, t: list[float]) -> Tensor:
    """Return one query for each time, made from the first samples."""
    noise = normal(len(t), 6, torch.Generator().manual_seed(8))
    return path_sample("rectified_flow", engine.data[: len(t)], noise, torch.tensor(t, dtype=torch.float64))


def containers(values: list[Any]) -> list[Any]:
    """Return what holds `values` exactly."""
    array = np.array(values)
    return [
        values,
        tuple(values),
        array,
        array.astype(array.dtype.newbyteorder(">")),
        np.stack([array, array], 1)[:, 0],
        [torch.tensor(value, dtype=torch.as_tensor(array).dtype) for value in values],
        list(array),
        torch.as_tensor(array),
    ]


def test_the_reported_case(engine: OracleEngine) -> None:
    x = queries(engine, LATE)
    exact, size = direct_velocity(engine.data[:].double(), x, torch.tensor(LATE, dtype=torch.float64))
    for t in containers(LATE):
        assert_rows_close(engine.velocity(x, t), exact, "bar of the terms", size)
    # arrays and tensors of float32 mean what they hold
    rounded = torch.tensor(LATE).double()
    assert torch.equal(engine.velocity(x, np.array(LATE, np.float32)), engine.velocity(x, rounded))
    assert not torch.equal(engine.velocity(x, rounded), engine.velocity(x, LATE))


@pytest.mark.parametrize(
    "ask",
    [
        lambda engine, x, t: engine.denoiser(x, t),
        lambda engine, x, t: engine.score(x, t),
        lambda engine, x, t: engine.noise(x, t),
        lambda engine, x, t: engine.log_density(x, t),
        lambda engine, x, t: engine.posterior(x, t).ess,
        lambda engine, x, t: engine.trajectory(x, t).velocity(x, t),
        lambda engine, x, t: OracleTarget(engine)(x, t),
        lambda engine, x, t: OracleTarget(engine, augmentation=Flip())(x, t),
        lambda engine, x, t: posterior_draw(engine, x, t, generator=torch.Generator().manual_seed(0)),
        lambda engine, x, t: path_sample("vp", x, x.flip(0), t),
        lambda engine, x, t: conditional_target("gvp", x, x.flip(0), t, prediction="score"),
        lambda engine, x, t: oracle_loss(lambda x, t: -x, OracleTarget(engine), x, t=t, eps=x.flip(0)).x_t,
        lambda engine, x, t: VelocityModel(engine, "sit", check_time=False)(x, t),
        lambda engine, x, t: EDMDenoiser(engine)(x, t),
        lambda engine, x, t: samplers.sample(engine, x, sorted(t, key=float)).x,
    ],
)
def test_times_keep_their_digits_everywhere(engine: OracleEngine, ask: Callable[..., Tensor]) -> None:
    x = queries(engine, LATE)
    expected = ask(engine, x, torch.tensor(LATE, dtype=torch.float64))
    for t in containers(LATE)[:-1]:
        # some of them take the straight way, which rounds in another order
        found = ask(engine, x, t)
        assert_rows_close(found.reshape(len(x), -1), expected.reshape(len(x), -1), "float64")


def test_compiled_code_keeps_the_digits_too(engine: OracleEngine) -> None:
    x = queries(engine, LATE)
    expected = engine.velocity(x, LATE)
    for t in (LATE, tuple(LATE), [[time] for time in LATE], np.array(LATE), torch.tensor(LATE, dtype=torch.float64)):
        compiled = torch.compile(lambda x, t=t: engine.velocity(x, t), backend="eager", fullgraph=True)
        assert torch.equal(compiled(x), expected)


def test_one_time_for_all_keeps_its_digits(engine: OracleEngine) -> None:
    x = queries(engine, [0.999999] * 2)
    expected = engine.velocity(x, torch.tensor(0.999999, dtype=torch.float64))
    for t in (0.999999, [0.999999], np.float64(0.999999), np.array(0.999999, ">f8"), [[0.999999], [0.999999]]):
        assert torch.equal(engine.velocity(x, t), expected)


def test_labels_guidance_and_indices_are_read_from_every_container(engine: OracleEngine) -> None:
    t = [0.2, 0.5, 0.7]
    x = queries(engine, t)
    given: dict[str, list[Any]] = {
        "labels": [1, 2, -1],
        "guidance": [1.5, 0.1, 3.0],
        "exclude": [0, -1, 2],
        "source": [0, 1, 2],
    }
    tensors: dict[str, Any] = {name: torch.tensor(values) for name, values in given.items()}
    tensors["guidance"] = tensors["guidance"].new_tensor(given["guidance"], dtype=torch.float64)
    expected = engine.velocity(x, t, **tensors)
    for name, values in given.items():
        for held in containers(values):
            assert torch.equal(engine.velocity(x, t, **(tensors | {name: held})), expected), name
    for scale in containers(given["guidance"]):
        assert torch.equal(engine.velocity(x, t, **(tensors | {"guidance": Guidance(scale)})), expected)
    # unions as rows of a list
    rows = engine.velocity(x, t, labels=torch.tensor([[1, 0], [2, -1], [-1, -1]]))
    for union in ([[1, 0], [2, -1], [-1, -1]], np.array([[1, 0], [2, -1], [-1, -1]], ">i2")):
        assert torch.equal(engine.velocity(x, t, labels=union), rows)


def test_numbers_beside_samples_keep_their_digits() -> None:
    points, weights = torch.eye(3, dtype=torch.float64), [0.1, 0.7, 0.2]
    x = torch.zeros(1, 3, dtype=torch.float64)
    expected = OracleEngine(OracleDataset(points, weights=torch.tensor(weights, dtype=torch.float64))).velocity(x, 0.4)
    for held in containers(weights)[:-1]:
        assert torch.equal(OracleEngine(OracleDataset(points, weights=held)).velocity(x, 0.4), expected)
        assert torch.equal(OracleEngine(load_dataset(points, weights=held)).velocity(x, 0.4), expected)
    labelled = [OracleDataset(points, held) for held in containers([2, 0, 1])]
    assert len({data.fingerprint for data in labelled}) == 1


def test_models_get_times_in_their_own_precision(engine: OracleEngine) -> None:
    x, seen = engine.data[:2].float(), list[Tensor]()

    def model(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return -x

    target, eps = OracleTarget(engine), torch.ones(2, 6)
    for t in (0.999999, [0.999999, 0.5], np.array([0.999999, 0.5])):
        oracle_loss(model, target, x, t=t, eps=eps)
        assert seen[-1].dtype == torch.float32
        assert seen[-1].shape == (2,)
    oracle_loss(model, target, x, t=torch.tensor([0.5, 0.1], dtype=torch.float64), eps=eps)
    assert seen[-1].dtype == torch.float64


def test_steps_are_read_from_every_container(engine: OracleEngine) -> None:
    schedule = np.linspace(0.9999, 0.01, 10)
    x = queries(engine, [0.5, 0.5])
    expected = DDPMDenoiser(engine, torch.tensor(schedule), check_time=False).denoise(x, torch.tensor([3, 8]))
    for held in containers([3, 8]):
        denoiser = DDPMDenoiser(engine, schedule.astype(">f8"), check_time=False)
        assert torch.equal(denoiser.denoise(x, held), expected)


@given(
    st.lists(st.floats(0, 1 - 1e-9), min_size=1, max_size=4),
    st.integers(0, 7),
    st.sampled_from(["[B]", "[B, 1]", "[1]", "number"]),
)
def test_every_container_of_times_gives_one_answer(numbers: list[float], kind: int, shape: str) -> None:
    generator = torch.Generator().manual_seed(7)
    small = OracleEngine(OracleDataset(normal(40, 6, generator), torch.arange(40) % 4))
    x = queries(small, numbers)
    if shape == "[B, 1]":
        t: Any = [[number] for number in numbers] if kind % 2 else np.array(numbers)[:, None].astype(">f8")
        wanted = numbers
    elif shape == "[B]":
        t, wanted = containers(numbers)[kind], numbers
    else:
        t = containers(numbers[:1])[kind] if shape == "[1]" else numbers[0]
        wanted = numbers[:1] * len(numbers)
    exact = small.velocity(x, torch.tensor(wanted, dtype=torch.float64))
    assert torch.equal(small.velocity(x, t), exact)
