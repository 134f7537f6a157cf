"""Velocity models speak the conventions of other code: direction of time, sign, null label, steps of diffusers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import other_libraries
import pytest
import torch
from adapter_cases import one_sample, small_images
from closed_form import nearest, normal
from other_libraries import SCHEDULERS
from refusals import refused
from tolerances import assert_close, assert_rows_close
from torch import Tensor

from oracle_engine import InputError, OracleDataset, OracleEngine
from oracle_engine.adapters import (
    CONVENTIONS,
    Convention,
    DiffusersTransformer,
    EDMDenoiser,
    TransformerOutput,
    VelocityModel,
    scheduler_times,
)
from oracle_engine.adapters.conventions import resolve_convention
from oracle_engine.paths.time_grids import sampling_times, shifted
from oracle_engine.samplers.runs import initial_noise, noised, sample


@pytest.fixture
def data(generator: torch.Generator) -> OracleDataset:
    return small_images(generator)


@pytest.fixture
def single(generator: torch.Generator) -> OracleEngine:
    return one_sample(generator)


@pytest.mark.parametrize("name", CONVENTIONS)
def test_conventions_follow_the_time_and_sign_of_the_project(
    name: str, single: OracleEngine, generator: torch.Generator
) -> None:
    point, eps = single.data[0], normal(6, 24, generator)
    share = torch.tensor([0.05, 0.2, 0.4, 0.6, 0.8, 0.95], dtype=torch.float64)[:, None]
    model = VelocityModel(single, name)
    t = share[:, 0]
    if name in ("repa", "diffusers", "sd3", "flux"):
        # their time is the share of noise, and the network learns noise - data
        x, expected = share * eps + (1 - share) * point, eps - point
        t = 1000 * t if name in ("diffusers", "sd3") else t
    else:
        x, expected = (1 - share) * eps + share * point, point - eps
    for states, times, wanted in ((x, t, expected), (x[:1], float(t[0]), expected[:1])):
        output = model(times, states) if name == "torchcfm" else model(states, times)
        assert isinstance(output, Tensor) == (name in ("flow_matching", "torchcfm", "sit", "lightningdit"))
        assert_close(model_tensor(output), wanted, "float64", 10.0)
        assert torch.equal(VelocityModel(single, name, returns="tensor")(x=states, t=times), model_tensor(output))


def model_tensor(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("SiT", "sit"),
        (" SIT ", "sit"),
        ("Flow-Matching", "flow_matching"),
        ("flow matching", "flow_matching"),
        ("Lightning-DiT", "lightningdit"),
        ("TorchCFM", "torchcfm"),
        ("cfm", "torchcfm"),
        ("REPA", "repa"),
        ("Stable Diffusion 3.5", "sd3"),
        ("SD3.5", "sd3"),
        ("FLUX.1", "flux"),
        ("FlowMatchEulerDiscreteScheduler", "diffusers"),
    ],
)
def test_names_are_understood_in_any_spelling(spelling: str, name: str) -> None:
    assert resolve_convention(spelling) is CONVENTIONS[name]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("edm2", r"adapters.EDMDenoiser\(engine\)"),
        ("Karras", r"adapters.EDMDenoiser\(engine\)"),
        ("k-diffusion", r"adapters.EDMDenoiser\(engine\)"),
        ("smalldiffusion", r"adapters.SmallDiffusionModel\(engine\)"),
        ("DDPM", r"adapters.DDPMDenoiser"),
        ("torchdiffeq", r"adapters.ODEFunction\(engine\)"),
        ("reppa", "did you mean 'repa'"),
        ("lightening dit", "did you mean 'lightningdit'"),
        ("diffuser", "did you mean 'diffusers'"),
        ("pixelart", "compare the direction of time"),
        ("", "compare the direction of time"),
        (None, "name the project"),
        (3, "name the project"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_other_names_say_what_to_use(name: Any, remedy: str, single: OracleEngine) -> None:
    with refused(rf"`convention` must be one of flow_matching.*{remedy}"):
        VelocityModel(single, name)
    for wrong in ({"returns": "list"}, {"steps": 0.0}, {"arguments": ("x", "x", "y")}):
        with refused(f"`{next(iter(wrong))}` must be"):
            Convention(**wrong)


def test_the_null_label_of_a_network_means_no_class(data: OracleDataset, generator: torch.Generator) -> None:
    engine = OracleEngine(data)
    x, y = torch.randn(4, 2, 3, 4, generator=generator), torch.tensor([0, 4, 2, 4])
    expected = engine.velocity(x, 0.3, labels=torch.tensor([0, -1, 2, -1]))
    assert torch.equal(VelocityModel(engine, "sit", null_label=4)(x, 0.3, y), expected)
    for build in (lambda: VelocityModel(engine, "sit", null_label=3), lambda: EDMDenoiser(engine, null_label=3)):
        with refused("`null_label` must be no class of the data; received 3"):
            build()
    guided = VelocityModel(engine, Convention(), null_label=4)(x, 0.3, y, guidance=3.0)
    assert torch.equal(guided, engine.velocity(x, 0.3, labels=torch.tensor([0, -1, 2, -1]), guidance=3.0))
    with pytest.raises(InputError, match="`labels` must be classes of the data"):
        VelocityModel(engine, "sit")(x, 0.3, y)


@pytest.mark.parametrize("path", ["rectified_flow", "gvp", "vp", "linear_vp"])
@pytest.mark.parametrize("dim", [2, 300])
def test_times_are_accepted_in_their_direction_and_refused_in_the_other(
    path: str, dim: int, generator: torch.Generator
) -> None:
    # unit variance in every direction: the norm of x alone says nothing
    engine = OracleEngine(OracleDataset(normal(500, dim, generator)), path)
    t = torch.linspace(0.01, 0.99, 64, dtype=torch.float64)
    x = torch.cat([noised(engine, engine.data[i : i + 1], float(t[i]), generator=generator) for i in range(64)])
    right, wrong = VelocityModel(engine, "sit"), VelocityModel(engine, "repa")
    right(x, t)
    for one in range(0, 64, 4):
        right(x[one : one + 1], t[one])
    assert wrong(x, 1 - t)[0].shape == x.shape
    if dim > 2:
        with pytest.raises(InputError, match=r"`t` seems to run the other way.*check_time=False accepts"):
            right(x, 1 - t)
        with pytest.raises(InputError, match=r"`t` seems to run the other way"):
            wrong(x, t)
    VelocityModel(engine, "sit", check_time=False)(x, 1 - t)


def test_coarse_runs_of_a_poor_model_are_not_taken_for_reversed(
    data: OracleDataset, generator: torch.Generator
) -> None:
    engine = OracleEngine(data)
    judged: Callable[..., Tensor] = VelocityModel(engine, "sit")

    def model(x: Tensor, t: Tensor) -> Tensor:
        return 0.8 * judged(x, t) + 0.1

    x = initial_noise(engine, 16, generator=generator)
    assert bool(sample(model, x, sampling_times(12)).x.isfinite().all())


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("library", SCHEDULERS, ids=lambda library: library.__module__.split(".")[0])
def test_diffusers_steps_the_oracle(
    library: Any, shift: float, data: OracleDataset, generator: torch.Generator
) -> None:
    engine, scheduler = OracleEngine(data), library(shift=shift)
    transformer = DiffusersTransformer(engine)
    scheduler.set_timesteps(12)
    labels, x = torch.arange(4), initial_noise(engine, 4, generator=generator).float()
    start = x
    for t in scheduler.timesteps:
        output = transformer(x, timestep=t.expand(4), class_labels=labels, return_dict=False)
        named = transformer(x, t, labels)
        assert isinstance(output, tuple)
        assert isinstance(named, TransformerOutput)
        assert torch.equal(named.sample, output[0])
        x = scheduler.step(output[0], t, x).prev_sample
    assert_rows_close(x, nearest(x, data)[0], "float32 steps")
    times = scheduler_times(scheduler)
    assert_rows_close(x, sample(engine, start, times, labels=labels).x, "float32 steps")
    plain = library()
    plain.set_timesteps(12)
    if shift == 1.0:
        assert torch.equal(times, scheduler_times(plain))
    elif library is other_libraries.FlowMatchScheduler:
        assert_close(times, shifted(scheduler_times(plain), 1 / shift), "float32 steps")


def test_schedules_of_another_path_are_refused() -> None:
    with pytest.raises(InputError, match=r"`scheduler` must have sigmas in \[0, 1\]; received sigmas up to 14.6"):
        scheduler_times(type("Euler", (), {"sigmas": torch.tensor([14.6, 0.03, 0.0])}))
