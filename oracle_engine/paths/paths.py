"""Probability paths x_t = alpha(t) X + sigma(t) eps with t = 0 noise and t = 1 data, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from ..base.arrays import Float64, Tensor, on_device
from ..base.cuda_graphs import holds
from ..base.errors import invalid

# in place of sigma = 0 where d_sigma is infinite: their product, which the velocity needs, stays finite and right
SMALLEST = 1e-150


@dataclass(frozen=True)
class Coefficients:
    """A path at given times: alpha, sigma and their derivatives in t, float64 [B] each."""

    alpha_t: Float64[Tensor, "B"]
    sigma_t: Float64[Tensor, "B"]
    d_alpha_t: Float64[Tensor, "B"]
    d_sigma_t: Float64[Tensor, "B"]


@runtime_checkable
class Path(Protocol):
    """Anything that maps times [B] to an object with alpha_t, sigma_t, d_alpha_t and d_sigma_t.

    The schedulers of facebookresearch/flow_matching are such objects.
    """

    def __call__(self, t: Float64[Tensor, "B"], /) -> Any:
        """Return the coefficients at the times `t`."""
        ...


@dataclass(frozen=True)
class RectifiedFlow:
    """Straight lines: alpha = t, sigma = 1 - t (Liu et al. 2022, Lipman et al. 2022)."""

    def __call__(self, t: Float64[Tensor, "B"]) -> Coefficients:
        """Return the coefficients at the times `t`."""
        one = torch.ones_like(t)
        return Coefficients(t, 1 - t, one, -one)


@dataclass(frozen=True)
class GVP:
    """Generalised variance preserving: alpha = sin(pi t / 2), sigma = cos(pi t / 2) (Ma et al. 2024, SiT)."""

    def __call__(self, t: Float64[Tensor, "B"]) -> Coefficients:
        """Return the coefficients at the times `t`."""
        quarter = math.pi / 2
        # cos(pi t / 2) from the complement, which keeps its digits near t = 1
        alpha, sigma = torch.sin(quarter * t), torch.sin(quarter * (1 - t))
        return Coefficients(alpha, sigma, quarter * sigma, -quarter * alpha)


@dataclass(frozen=True)
class VP:
    """Variance preserving diffusion with linear beta (Song et al. 2021), time reversed so that t = 1 is data.

    log alpha = -s^2 (beta_max - beta_min) / 4 - s beta_min / 2 with s = 1 - t; sigma^2 = 1 - alpha^2.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __call__(self, t: Float64[Tensor, "B"]) -> Coefficients:
        """Return the coefficients at the times `t`."""
        s = 1 - t
        log_alpha = -0.25 * s.square() * (self.beta_max - self.beta_min) - 0.5 * s * self.beta_min
        alpha = log_alpha.exp()
        sigma = (-torch.expm1(2 * log_alpha)).sqrt().clamp_min(SMALLEST)
        d_alpha = alpha * (0.5 * s * (self.beta_max - self.beta_min) + 0.5 * self.beta_min)
        return Coefficients(alpha, sigma, d_alpha, -alpha * d_alpha / sigma)


@dataclass(frozen=True)
class LinearVP:
    """Variance preserving with linear alpha: alpha = t, sigma = sqrt(1 - t^2)."""

    def __call__(self, t: Float64[Tensor, "B"]) -> Coefficients:
        """Return the coefficients at the times `t`."""
        sigma = ((1 - t) * (1 + t)).sqrt().clamp_min(SMALLEST)
        return Coefficients(t, sigma, torch.ones_like(t), -t / sigma)


@dataclass(frozen=True)
class Polynomial:
    """Convex polynomial: alpha = t^n, sigma = 1 - t^n, n >= 1."""

    n: float = 2.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.n) and self.n >= 1):
            raise invalid("n", "must be at least 1", self.n, "use rectified_flow for n = 1")

    def __call__(self, t: Float64[Tensor, "B"]) -> Coefficients:
        """Return the coefficients at the times `t`."""
        slope = self.n * t.pow(self.n - 1)
        # 1 - t^n by expm1 keeps the digits of sigma near t = 1
        return Coefficients(t.pow(self.n), -torch.expm1(self.n * t.log()), slope, -slope)


@dataclass(frozen=True)
class EDM:
    """Variance exploding with the noise levels of Karras et al. (2022): alpha = 1, sigma from sigma_max to sigma_min.

    sigma(t) = (sigma_max^(1/rho) + t (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho; t = 1 is the smallest noise.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not (0 < self.sigma_min < self.sigma_max < math.inf and self.rho > 0):
            raise invalid("EDM", "needs 0 < sigma_min < sigma_max and rho > 0", self, "use the defaults")

    def __call__(self, t: Float64[Tensor, "B"]) -> Coefficients:
        """Return the coefficients at the times `t`."""
        first, last = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        root = first + t * (last - first)
        d_sigma = self.rho * root.pow(self.rho - 1) * (last - first)
        return Coefficients(torch.ones_like(t), root.pow(self.rho), torch.zeros_like(t), d_sigma)

    def time_of(self, sigma: Float64[Tensor, "B"]) -> Float64[Tensor, "B"]:
        """Return the time at which the noise level is `sigma`."""
        first, last = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        fraction: Tensor = (sigma.pow(1 / self.rho) - first) / (last - first)
        return fraction


PATHS: dict[str, Callable[[], Path]] = {
    "rectified_flow": RectifiedFlow,
    "gvp": GVP,
    "vp": VP,
    "linear_vp": LinearVP,
    "polynomial": Polynomial,
    "edm": EDM,
}


def resolve_path(path: str | Path) -> Path:
    """Return the path called `path`, or `path` itself where it is one. Raises InputError for unknown names."""
    if isinstance(path, str):
        if path not in PATHS:
            raise invalid("path", f"must be one of {', '.join(PATHS)}, or a callable", repr(path), "check the spelling")
        return PATHS[path]()
    if not callable(path):
        raise invalid("path", "must be a name or a callable of t", type(path).__name__, "pass 'rectified_flow'")
    return path


def resolve_times(t: float | Tensor, batch: int, t_max: float | None, device: torch.device) -> Float64[Tensor, "B"]:
    """Return `t` (a number, [], [B] or [B, 1, ...]) as float64 [B], clamped at `t_max` where that is given.

    Raises InputError for other shapes and for times outside [0, 1].
    """
    # a Python number goes to float64 at once: by way of float32 it would lose half of its digits
    times = on_device(t, device).detach().double()
    if times.numel() == batch and times.shape[:1] == (batch,):
        times = times.reshape(batch)
    elif times.numel() == 1 and times.ndim <= 1:
        times = times.reshape(1).expand(batch)
    else:
        raise invalid(
            "t", f"must be a number, [{batch}] or [{batch}, 1, ...]", list(times.shape), "pass one time a query"
        )
    if not holds((times >= 0) & (times <= 1)):
        bad = times[~((times >= 0) & (times <= 1))][0].item()
        raise invalid(
            "t",
            "must lie in [0, 1], 0 noise and 1 data",
            bad,
            "rescale the times; integer steps are t = 1 - step / 1000",
        )
    return times if t_max is None else times.clamp_max(t_max)


def coefficients(path: Path, t: Float64[Tensor, "B"]) -> Coefficients:
    """Return the path at the times `t` in float64, whatever object the path returns."""
    result = path(t)
    names = ("alpha_t", "sigma_t", "d_alpha_t", "d_sigma_t")
    missing = [name for name in names if not hasattr(result, name)]
    if missing:
        raise invalid(
            "path",
            f"must return an object with {', '.join(names)}",
            f"no {missing[0]}",
            "see oracle_engine.paths.paths.Path",
        )
    return Coefficients(*(on_device(getattr(result, name), t.device).double().expand_as(t) for name in names))


@dataclass(frozen=True)
class Prediction:
    """The denoiser of a batch in every parametrisation; x and denoiser are float64 [B, D].

    noise = sigma (x - alpha m) / s^2, denoiser = m + alpha p^2 (x - alpha m) / s^2, velocity = d_alpha denoiser +
    d_sigma noise, score = -(x - alpha m) / s^2, with m the posterior mean of the samples, p the width of each
    sample (`point_std`) and s^2 = sigma^2 + alpha^2 p^2. None of them cancels near t = 1.
    """

    x: Float64[Tensor, "B D"]
    mean: Float64[Tensor, "B D"]
    at: Coefficients
    point_std: float

    @property
    def variance(self) -> Float64[Tensor, "B"]:
        """Variance of x around alpha X_j: s^2 [B]."""
        return marginal_variance(self.at, self.point_std)

    @property
    def velocity_gain(self) -> Float64[Tensor, "B"]:
        """Factor |A| from a change of the mean to one of the velocity, [B].

        A = sigma (d_alpha sigma - alpha d_sigma) / s^2; with p = 0 that is d_alpha - alpha d_sigma / sigma.
        """
        at = self.at
        return (at.sigma_t * (at.d_alpha_t * at.sigma_t - at.alpha_t * at.d_sigma_t) / self.variance).abs()

    @property
    def score(self) -> Float64[Tensor, "B D"]:
        """Gradient of log p_t."""
        return (self.at.alpha_t[:, None] * self.mean - self.x) / self.variance[:, None]

    @property
    def noise(self) -> Float64[Tensor, "B D"]:
        """Posterior mean of eps."""
        return -self.at.sigma_t[:, None] * self.score

    @property
    def denoiser(self) -> Float64[Tensor, "B D"]:
        """Posterior mean of the data."""
        if self.point_std == 0.0:
            return self.mean
        return self.mean - (self.at.alpha_t * self.point_std**2)[:, None] * self.score

    @property
    def velocity(self) -> Float64[Tensor, "B D"]:
        """Posterior mean of d_alpha X + d_sigma eps."""
        return self.at.d_alpha_t[:, None] * self.denoiser + self.at.d_sigma_t[:, None] * self.noise


def marginal_variance(at: Coefficients, point_std: float) -> Float64[Tensor, "B"]:
    """Return s^2 = sigma^2 + alpha^2 point_std^2, [B]."""
    return at.sigma_t.square() + (at.alpha_t * point_std).square()


def same_path(one: Path, other: Path) -> bool:
    """Whether two paths have the same alpha and sigma, to single precision, at a few times."""
    times = torch.linspace(0.03, 0.97, 9, dtype=torch.float64)
    first, second = coefficients(one, times), coefficients(other, times)
    pairs = ((first.alpha_t, second.alpha_t), (first.sigma_t, second.sigma_t))
    # schedules of other libraries may be made in single precision
    return all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in pairs)
