"""Queries in arrays of other libraries get the answers of tensors, in arrays of the same library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from refusals import refused
from torch.utils.dlpack import from_dlpack

import oracle_engine as oe
from oracle_engine import samplers
from oracle_engine.science.memorisation import kinetic_energy

NAMES = ("velocity", "denoiser", "score", "noise", "log_density")


class Space:
    """A library of arrays that speaks DLPack, as the standard of array libraries asks for it."""

    @staticmethod
    def from_dlpack(held: Any) -> Array:
        return Array(from_dlpack(held).clone())


class Nameless:
    """An array of a library that takes none back."""

    def __init__(self, held: torch.Tensor) -> None:
        self.held = held

    def __dlpack__(self, **options: Any) -> Any:
        return self.held.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.held.__dlpack_device__()


class Array(Nameless):
    """An array of a library that takes arrays back."""

    def __array_namespace__(self) -> type[Space]:
        return Space


@pytest.fixture
def engine(generator: torch.Generator) -> oe.OracleEngine:
    return oe.OracleEngine(torch.randn(40, 2, 3, generator=generator))


KINDS: dict[str, tuple[Callable[[torch.Tensor], Any], Callable[[Any], torch.Tensor]]] = {
    "numpy": (lambda x: x.numpy(), torch.from_numpy),
    "numpy of another byte order": (lambda x: x.numpy().astype(">f4"), torch.from_numpy),
    "read-only, reversed": (lambda x: np.flip(np.flip(x.numpy(), 0).copy(), 0), torch.from_numpy),
    "dlpack": (Array, lambda y: y.held),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_answers_are_of_the_kind_of_the_queries(
    engine: oe.OracleEngine, kind: str, name: str, generator: torch.Generator
) -> None:
    made, back = KINDS[kind]
    x = torch.randn(5, 2, 3, generator=generator)
    wanted, given = getattr(engine, name)(x, 0.4), made(x)
    found = getattr(engine, name)(given, np.full(5, 0.4))
    assert type(found) is type(given)
    assert torch.equal(back(found), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_of_the_engine_takes_them_too(engine: oe.OracleEngine, kind: str, generator: torch.Generator) -> None:
    made, back = KINDS[kind]
    x = torch.randn(5, 2, 3, generator=generator)
    assert torch.equal(back(engine(made(x), 0.4)), engine(x, 0.4))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_answers_have_the_dtype_of_the_queries(engine: oe.OracleEngine, dtype: str) -> None:
    assert engine.velocity(np.zeros((3, 2, 3), dtype), 0.5).dtype == dtype
    assert engine.log_density(np.zeros((3, 2, 3), dtype), 0.5).dtype == "float64"


def test_posteriors_take_them_too(engine: oe.OracleEngine, generator: torch.Generator) -> None:
    x = torch.randn(5, 2, 3, generator=generator)
    assert torch.equal(engine.posterior(x.numpy(), 0.3).ess, engine.posterior(x, 0.3).ess)
    assert torch.equal(engine.posterior(Array(x), 0.3).mean, engine.posterior(x, 0.3).mean)


@pytest.mark.parametrize("kind", KINDS)
def test_runs_of_a_sampler_keep_the_kind(kind: str, generator: torch.Generator) -> None:
    points = torch.randn(40, 2, 3, generator=generator)
    made, back = KINDS[kind]
    x, times = torch.randn(5, 2, 3, generator=generator), samplers.sampling_times(4)
    given = made(x)
    for velocity in (oe.OracleEngine(points), lambda x, t: -x):
        capture = samplers.Capture(states=True, denoisers=True)
        wanted = samplers.sample(velocity, x, times, capture=capture)
        run = samplers.sample(velocity, given, times, capture=capture)
        for name in ("x", "states", "denoisers"):
            assert type(getattr(run, name)) is type(given)
            assert torch.equal(back(getattr(run, name)), getattr(wanted, name))
        assert torch.equal(kinetic_energy(run), kinetic_energy(wanted))
    noisy = samplers.noised(oe.OracleEngine(points), given, 0.3, generator=torch.Generator().manual_seed(1))
    wanted_noisy = samplers.noised(oe.OracleEngine(points), x, 0.3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(back(noisy), wanted_noisy)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prepared", [False, True])
def test_trajectories_answer_in_kind(kind: str, prepared: bool, generator: torch.Generator) -> None:
    made, back = KINDS[kind]
    engine = oe.OracleEngine(torch.randn(300, 64, generator=generator))
    if prepared:
        engine.prepare("pca")
    x = torch.randn(5, 64, generator=generator)
    given, wanted = engine.trajectory(made(x), labels=None), engine.trajectory(x)
    assert (given.shared_products is not None) == prepared
    then = x + 0.3 * wanted.velocity(x, 0.0)
    for t, state in ((0.0, x), (0.3, then)):
        found = given.velocity(made(state), np.full(5, t))
        assert type(found) is type(made(state))
        assert torch.equal(back(found), wanted.velocity(state, t))
        assert torch.equal(back(given.denoiser(made(state), t)), wanted.denoiser(state, t))
        assert torch.equal(given(state, t), wanted(state, t))


@pytest.mark.usefixtures("unchecked")
def test_arrays_that_cannot_be_queries_are_refused(engine: oe.OracleEngine) -> None:
    with refused("`x` must have a floating dtype; received torch.int64"):
        engine.velocity(np.zeros((3, 2, 3), np.int64), 0.5)
    with refused("`x` must be a number, a tensor"):
        engine.velocity(np.array([["a"]]), 0.5)
    with refused(r"`x` must have shape \[B, 2, 3\]"):
        engine.velocity(np.zeros((3, 4), np.float32), 0.5)
    with refused("`x` must be of a library with from_dlpack; received .*Nameless"):
        engine.velocity(Nameless(torch.zeros(3, 2, 3)), 0.5)
    with refused("`x` must be a torch.Tensor; received list"):
        engine.velocity([[0.0]], 0.5)  # type: ignore[type-var]
    with refused("`x` must have a floating dtype"):
        samplers.sample(engine, np.zeros((3, 2, 3), np.int64), [0.0, 0.5])
    with refused("`samples` must be of a library with from_dlpack"):
        samplers.noised(engine, Nameless(torch.zeros(3, 2, 3)), 0.5)
    with refused("`x` must be a torch.Tensor; received list"):
        samplers.sample(engine, [[0.0]], [0.0, 0.5])  # type: ignore[type-var]


def test_an_engine_takes_what_load_dataset_takes() -> None:
    points = np.arange(6, dtype=np.float32).reshape(3, 2)
    x = torch.zeros(1, 2)
    wanted = oe.OracleEngine(oe.load_dataset(points)).velocity(x, 0.5)
    assert torch.equal(oe.OracleEngine(points).velocity(x, 0.5), wanted)
    assert torch.equal(oe.OracleEngine(list(torch.from_numpy(points))).velocity(x, 0.5), wanted)
    assert len(oe.OracleEngine("digits").data) == 1797
