"""The derivatives, end points and digits near t = 1 of every path."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from closed_form import times
from hypothesis import given
from path_cases import CASES
from tolerances import assert_close
from torch import Tensor

from oracle_engine.base.errors import InputError
from oracle_engine.engine.engine import OracleEngine
from oracle_engine.paths.paths import EDM, PATHS, VP, Polynomial, coefficients, resolve_path, resolve_times

CPU = torch.device("cpu")


def at(path: Any, *times: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return alpha, sigma, d_alpha and d_sigma at some times."""
    c = coefficients(path, torch.tensor(times, dtype=torch.float64))
    return c.alpha_t, c.sigma_t, c.d_alpha_t, c.d_sigma_t


@pytest.mark.parametrize(("name", "path"), CASES)
def test_derivatives_are_those_autograd_finds(name: str, path: Any) -> None:
    t = torch.linspace(1e-3, 0.999, 37, dtype=torch.float64, requires_grad=True)
    c = coefficients(path, t)
    for value, claimed in ((c.alpha_t, c.d_alpha_t), (c.sigma_t, c.d_sigma_t)):
        (found,) = torch.autograd.grad(value.sum() + 0 * t.sum(), t, retain_graph=True)
        assert_close(claimed.detach(), found, "float64")


@pytest.mark.parametrize("name", [name for name in PATHS if name != "edm"])
def test_ends_are_noise_and_data(name: str) -> None:
    alpha, sigma, _, _ = at(PATHS[name](), 0.0, 1.0)
    # diffusion keeps a little of the data at its start: alpha = exp(-5.025), 0.0066
    start = math.exp(-(VP().beta_max + VP().beta_min) / 4) if name == "vp" else 0.0
    assert_close(alpha, torch.tensor([start, 1.0], dtype=torch.float64), "float64")
    assert_close(sigma, torch.tensor([math.sqrt(1 - start**2), 0.0], dtype=torch.float64), "float64")


@pytest.mark.parametrize("name", ["gvp", "vp", "linear_vp"])
def test_variance_preserving_paths_preserve_variance(name: str) -> None:
    alpha, sigma, d_alpha, d_sigma = at(PATHS[name](), *torch.linspace(0, 0.999, 50).tolist())
    assert_close(alpha.square() + sigma.square(), torch.ones(50), "float64")
    assert_close(alpha * d_alpha + sigma * d_sigma, torch.zeros(50), "float64")


@pytest.mark.parametrize(
    ("name", "leading"),
    [
        ("rectified_flow", lambda s: s),
        ("gvp", lambda s: math.sin(math.pi / 2 * s)),
        ("vp", lambda s: math.sqrt(-math.expm1(-(s**2) * 19.9 / 2 - s * 0.1))),
        ("linear_vp", lambda s: math.sqrt(s * (2 - s))),
        ("polynomial", lambda s: s * (2 - s)),
    ],
)
def test_sigma_keeps_its_digits_near_the_data(name: str, leading: Any) -> None:
    # 1 - 2^-30 is a float64 number, so the distance to the end is known exactly
    rest = 2.0**-30
    _, sigma, _, _ = at(PATHS[name](), 1 - rest)
    assert_close(sigma, torch.tensor([leading(rest)], dtype=torch.float64), "float64", scale=leading(rest))


@pytest.mark.parametrize("name", PATHS)
def test_everything_is_finite_at_the_noise(name: str) -> None:
    for value in at(PATHS[name](), 0.0):
        assert bool(value.isfinite().all())


def test_edm_runs_from_the_largest_noise_to_the_smallest() -> None:
    alpha, sigma, d_alpha, _ = at(EDM(), 0.0, 1.0)
    assert alpha.tolist() == [1.0, 1.0]
    assert d_alpha.tolist() == [0.0, 0.0]
    assert_close(sigma, torch.tensor([80.0, 0.002], dtype=torch.float64), "float64", scale=0.002)


@given(times(0.0, 1.0))
def test_edm_finds_the_time_of_a_noise_level(t: float) -> None:
    path = EDM(sigma_min=0.01, sigma_max=50.0, rho=5.0)
    _, sigma, _, _ = at(path, t)
    assert_close(path.time_of(sigma), torch.tensor([t], dtype=torch.float64), "float64")


@dataclass
class Scheduler:
    """Looks like a scheduler of another library: float32 numbers and whatever shapes it likes."""

    alpha: Any
    sigma: Any

    def __call__(self, t: Tensor) -> SimpleNamespace:
        return SimpleNamespace(alpha_t=self.alpha, sigma_t=self.sigma, d_alpha_t=1, d_sigma_t=torch.tensor(-1.0))


@pytest.mark.parametrize(
    ("alpha", "sigma"), [(0.5, torch.tensor(0.25)), (torch.full((3,), 0.5), torch.full((3,), 0.25))]
)
def test_objects_of_others_become_float64_batches(alpha: Any, sigma: Any) -> None:
    assert [value.tolist() for value in at(Scheduler(alpha, sigma), 0.1, 0.2, 0.3)] == [
        [0.5] * 3,
        [0.25] * 3,
        [1.0] * 3,
        [-1.0] * 3,
    ]


def test_an_object_without_derivatives_is_refused_by_the_name_of_what_is_missing() -> None:
    with pytest.raises(InputError, match=r"`path` must return an object with alpha_t, sigma_t.*received no d_alpha_t"):
        coefficients(lambda t: SimpleNamespace(alpha_t=t, sigma_t=1 - t), torch.zeros(1, dtype=torch.float64))


@pytest.mark.usefixtures("unchecked")
def test_a_name_or_an_object_is_a_path() -> None:
    own = EDM(0.1, 10.0)
    assert resolve_path(own) is own
    assert resolve_path("vp") == VP()
    with pytest.raises(
        InputError, match=r"must be one of rectified_flow, .*received 'flow'\. Remedy: check the spelling"
    ):
        resolve_path("flow")
    not_a_path: Any = 3
    with pytest.raises(InputError, match="must be a name or a callable of t; received int"):
        resolve_path(not_a_path)
    a_class: Any = VP
    with pytest.raises(InputError, match=r"received the class VP\. Remedy: make one, VP\(\)"):
        resolve_path(a_class)


@pytest.mark.parametrize(
    ("slope", "wrong"), [((2.0, -2.0), "sigma_t"), ((-1.0, -1.0), "alpha_t"), ((1.0, 1.0), "sigma_t")]
)
def test_a_path_whose_derivatives_are_of_something_else_is_refused(slope: tuple[float, float], wrong: str) -> None:
    def path(t: Tensor) -> SimpleNamespace:
        return SimpleNamespace(
            alpha_t=slope[0] * t if slope[0] > 1 else t, sigma_t=1 - t, d_alpha_t=slope[0], d_sigma_t=slope[1]
        )

    with pytest.raises(InputError, match=f"`path` must have the derivative of {wrong} in t as d_{wrong}; received"):
        OracleEngine(torch.randn(5, 3), path=path)


@pytest.mark.parametrize(("name", "path"), CASES)
def test_every_true_path_is_taken(name: str, path: Any) -> None:
    def own(t: Tensor) -> Any:
        return path(t)

    assert OracleEngine(torch.randn(5, 3), path=own).path is own


@pytest.mark.parametrize("n", [0.5, 0.0, -1.0, math.inf, math.nan])
def test_polynomials_need_a_power_of_at_least_one(n: float) -> None:
    with pytest.raises(InputError, match="`n` must be at least 1; received"):
        Polynomial(n)


@pytest.mark.parametrize("levels", [(0.0, 80.0, 7.0), (1.0, 1.0, 7.0), (0.1, math.inf, 7.0), (0.1, 1.0, 0.0)])
def test_noise_levels_must_fall(levels: tuple[float, float, float]) -> None:
    with pytest.raises(InputError, match="needs 0 < sigma_min < sigma_max and rho > 0"):
        EDM(*levels)


@pytest.mark.parametrize(
    ("t", "expected"),
    [
        (0.25, [0.25] * 3),
        (torch.tensor(0.25), [0.25] * 3),
        (torch.tensor([0.25]), [0.25] * 3),
        (torch.tensor([0.25, 0.5, 0.75]), [0.25, 0.5, 0.75]),
        (torch.tensor([0.25, 0.5, 0.75])[:, None, None, None], [0.25, 0.5, 0.75]),
        (torch.tensor([0, 0, 0]), [0.0] * 3),
    ],
)
def test_accepted_shapes_of_time(t: float | Tensor, expected: list[float]) -> None:
    resolved = resolve_times(t, 3, None, CPU)
    assert resolved.dtype == torch.float64
    assert resolved.tolist() == expected


def test_a_number_keeps_its_digits() -> None:
    assert resolve_times(0.1, 1, None, CPU).item() == 0.1
    assert resolve_times(1 - 1e-9, 2, None, CPU).tolist() == [1 - 1e-9] * 2


def test_times_are_clamped_only_when_asked() -> None:
    assert resolve_times(torch.tensor([0.5, 1.0]), 2, 0.75, CPU).tolist() == [0.5, 0.75]
    assert resolve_times(torch.tensor([0.5, 1.0]), 2, None, CPU).tolist() == [0.5, 1.0]


@pytest.mark.parametrize("shape", [(2,), (1, 3), (3, 2), (2, 1), (1, 1)])
def test_other_shapes_of_time_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"`t` must be a number, \[3\] or \[3, 1, \.\.\.\]; received \["):
        resolve_times(torch.zeros(shape), 3, None, CPU)


@pytest.mark.parametrize("t", [-0.01, 1.5, 999.0, math.nan, math.inf])
def test_times_outside_the_path_are_refused_with_the_remedy_for_steps(t: float) -> None:
    with pytest.raises(InputError, match=rf"must lie in \[0, 1\].*received {t}.*t = 1 - step / 1000"):
        resolve_times(torch.tensor([0.5, t], dtype=torch.float64), 2, None, CPU)
