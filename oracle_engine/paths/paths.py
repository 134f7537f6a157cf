"""Probability paths x_t = alpha(t) X + sigma(t) eps, t = 0 noise and t = 1 data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from ..base.arrays import Float64, Int64, Numbers, Tensor, reals
from ..base.calls.checked import required
from ..base.calls.cuda_graphs import capturing
from ..base.calls.transforms import traced
from ..base.errors import invalid
from ..base.names import PATH_NAMES

# replaces sigma = 0 where d_sigma is infinite: their product, which the velocity needs, stays finite and right
SMALLEST = 1e-150


@dataclass(frozen=True)
class Coefficients:
    """The coefficients of a path at B times, float64 [B] each.

    alpha_t, sigma_t: factors of the data and of the noise, x_t = alpha X + sigma eps, both >= 0.
    d_alpha_t, d_sigma_t: their derivatives in t.
    """

    alpha_t: Float64[Tensor, "B"]
    sigma_t: Float64[Tensor, "B"]
    d_alpha_t: Float64[Tensor, "B"]
    d_sigma_t: Float64[Tensor, "B"]

    def take(self, index: slice | Int64[Tensor, "b"]) -> Coefficients:
        """Return the coefficients at the times at `index`, a slice or [b]."""
        parts = self.alpha_t, self.sigma_t, self.d_alpha_t, self.d_sigma_t
        return Coefficients(*[part[index] for part in parts])


@runtime_checkable
class Path(Protocol):
    """A probability path x_t = alpha(t) X + sigma(t) eps, any callable of times.

    It maps times [B] float64 to an object with the attributes alpha_t, sigma_t, d_alpha_t and d_sigma_t, each a tensor
    [B] or a number. The schedulers of facebookresearch/flow_matching are such objects.

    >>> import torch
    >>> from oracle_engine import OracleDataset, OracleEngine, Polynomial
    >>> data = OracleDataset(torch.tensor([[0.0], [1.0]]))
    >>> OracleEngine(data, path=Polynomial(3.0)).velocity(torch.tensor([[0.5]]), 0.5).shape
    torch.Size([1, 1])
    """

    def __call__(self, t: Float64[Tensor, "B"], /) -> Any:
        """Return the coefficients at the times `t`, [B] float64 in [0, 1]."""
        ...


@dataclass(frozen=True)
class RectifiedFlow:
    """Straight lines from noise to data: alpha = t, sigma = 1 - t.

    Rectified flow (Liu et al. 2022), the optimal-transport path of flow matching (Lipman et al. 2022).

    >>> import torch
    >>> from oracle_engine import RectifiedFlow
    >>> at = RectifiedFlow()(torch.tensor([0.25], dtype=torch.float64))
    >>> at.alpha_t.item(), at.sigma_t.item(), at.d_alpha_t.item(), at.d_sigma_t.item()
    (0.25, 0.75, 1.0, -1.0)
    """

    def __call__(self, t: Float64[Tensor, "B"]) -> Coefficients:
        """Return the coefficients at the times `t`, [B] float64 in [0, 1]."""
        one = torch.ones_like(t)
        return Coefficients(t, one - t, one, -one)


@dataclass(frozen=True)
class GVP:
    """Generalised variance preserving: alpha = sin(pi t / 2), sigma = cos(pi t / 2).

    The trigonometric interpolant of Albergo and Vanden-Eijnden (2022), called GVP in SiT (Ma et al. 2024).
    """

    def __call__(self, t: Float64[Tensor, "B"]) -> Coefficients:
        """Return the coefficients at the times `t`, [B] float64 in [0, 1]."""
        quarter = math.pi / 2
        # cos(pi t / 2) from the complement, which keeps its digits near t = 1
        alpha, sigma = torch.sin(quarter * t), torch.sin(quarter * (1 - t))
        return Coefficients(alpha, sigma, quarter * sigma, -quarter * alpha)


@dataclass(frozen=True)
class VP:
    """Variance preserving diffusion with linear beta (Song et al. 2021, eq. 33), time reversed so that t = 1 is data.

    log alpha = -s^2 (beta_max - beta_min) / 4 - s beta_min / 2 with s = 1 - t; sigma^2 = 1 - alpha^2.

    beta_min, beta_max: beta at s = 0 and at s = 1, per unit of time, 0 <= beta_min < beta_max; they are not checked.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __call__(self, t: Float64[Tensor, "B"]) -> Coefficients:
        """Return the coefficients at the times `t`, [B] float64 in [0, 1]."""
        s = 1 - t
        log_alpha = -0.25 * s.square() * (self.beta_max - self.beta_min) - 0.5 * s * self.beta_min
        alpha = log_alpha.exp()
        sigma = (-torch.expm1(2 * log_alpha)).sqrt().clamp_min(SMALLEST)
        d_alpha = alpha * (0.5 * s * (self.beta_max - self.beta_min) + 0.5 * self.beta_min)
        return Coefficients(alpha, sigma, d_alpha, -alpha * d_alpha / sigma)


@dataclass(frozen=True)
class LinearVP:
    """Variance preserving with linear alpha: alpha = t, sigma = sqrt(1 - t^2).

    The LinearVPScheduler of flow_matching (Lipman et al. 2024, Flow Matching Guide and Code). d_sigma is infinite at
    t = 1, where sigma is kept at 1e-150.
    """

    def __call__(self, t: Float64[Tensor, "B"]) -> Coefficients:
        """Return the coefficients at the times `t`, [B] float64 in [0, 1]."""
        sigma = ((1 - t) * (1 + t)).sqrt().clamp_min(SMALLEST)
        return Coefficients(t, sigma, torch.ones_like(t), -t / sigma)


@dataclass(frozen=True)
class Polynomial:
    """Convex polynomial: alpha = t^n, sigma = 1 - t^n.

    The PolynomialConvexScheduler of flow_matching (Lipman et al. 2024, Flow Matching Guide and Code).

    n: the exponent, finite and >= 1. Raises InputError where it is not.
    """

    n: float = 2.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.n) and self.n >= 1):
            raise invalid("n", "must be at least 1", self.n, "use rectified_flow for n = 1")

    def __call__(self, t: Float64[Tensor, "B"]) -> Coefficients:
        """Return the coefficients at the times `t`, [B] float64 in [0, 1]."""
        slope = self.n * t.pow(self.n - 1)
        # 1 - t^n by expm1 keeps the digits of sigma near t = 1
        return Coefficients(t.pow(self.n), -torch.expm1(self.n * t.log()), slope, -slope)


@dataclass(frozen=True)
class EDM:
    """Variance exploding with the noise levels of Karras et al. (2022, eq. 5): alpha = 1, sigma(t) below.

    sigma(t) = (sigma_max^(1/rho) + t (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho; t = 1 is the smallest noise.

    sigma_min, sigma_max: the noise levels at t = 1 and t = 0, in units of the data, 0 < sigma_min < sigma_max.
    rho: > 0; a larger one spends more of the time near sigma_min.

    Raises InputError where these limits do not hold.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not (0 < self.sigma_min < self.sigma_max < math.inf and self.rho > 0):
            raise invalid("EDM", "needs 0 < sigma_min < sigma_max and rho > 0", self, "use the defaults")

    def __call__(self, t: Float64[Tensor, "B"]) -> Coefficients:
        """Return the coefficients at the times `t`, [B] float64 in [0, 1]."""
        first, last = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        root = first + t * (last - first)
        d_sigma = self.rho * root.pow(self.rho - 1) * (last - first)
        return Coefficients(torch.ones_like(t), root.pow(self.rho), torch.zeros_like(t), d_sigma)

    def time_of(self, sigma: Float64[Tensor, "B"]) -> Float64[Tensor, "B"]:
        """Return the time at which the noise level is `sigma`, [B] float64, in [0, 1] for sigma_min..sigma_max."""
        first, last = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        fraction: Tensor = (sigma.pow(1 / self.rho) - first) / (last - first)
        return fraction


PATHS: dict[str, Callable[[], Path]] = dict(
    zip(PATH_NAMES, (RectifiedFlow, GVP, VP, LinearVP, Polynomial, EDM), strict=True)
)


def resolve_path(path: str | Path) -> Path:
    """Return the path called `path`, or `path` itself where it is a callable.

    path: a key of PATHS, which stands for that path with its default parameters, or a callable as :class:`Path` says.
    Raises InputError for other names and for what is not callable.
    """
    if isinstance(path, str):
        if path not in PATHS:
            raise invalid("path", f"must be one of {', '.join(PATHS)}, or a callable", repr(path), "check the spelling")
        return PATHS[path]()
    if not callable(path):
        raise invalid("path", "must be a name or a callable of t", type(path).__name__, "pass 'rectified_flow'")
    if isinstance(path, type):
        found = f"the class {path.__name__}"
        raise invalid("path", "must be a name or a callable of t", found, f"make one, {path.__name__}()")
    return path


def check_derivatives(path: Path) -> None:
    """Raise InputError where alpha and sigma of a path contradict its derivatives at most of nine times in 0.05..0.95.

    path: a callable as :class:`Path` says; those of PATHS are taken as they are.
    """
    if type(path) in PATHS.values():
        return
    times, step = torch.linspace(0.05, 0.95, 9, dtype=torch.float64), 1e-3
    try:
        at, before, after = (coefficients(path, times + shift) for shift in (0.0, -step, step))
    except RuntimeError:
        # of a schedule that lies on a card; calls say what is wrong with others
        return
    for name in ("alpha_t", "sigma_t"):
        told, slope = getattr(at, f"d_{name}"), (getattr(after, name) - getattr(before, name)) / (2 * step)
        # a schedule may have corners, and be made in single precision
        wrong = (told - slope).abs() > 0.05 * slope.abs() + 1e-2
        if int(wrong.sum()) > len(times) // 2:
            first = int(wrong.nonzero()[0])
            requirement = f"must have the derivative of {name} in t as d_{name}"
            found = f"{told[first]:.4g} at t = {times[first]:.3g}, where {name} changes by {slope[first]:.4g}"
            raise invalid("path", requirement, found, "differentiate in t, 0 noise and 1 data")


def resolve_times(t: Numbers, batch: int, t_max: float | None, device: torch.device) -> Float64[Tensor, "B"]:
    """Return one time for each query, [B] float64 on `device`.

    t: a number, or a tensor, array or sequence [], [1], [B] or [B, 1, ...] of any real dtype, in [0, 1]; Python numbers
        keep all their digits. batch: the number of queries B. t_max: later times are lowered to this one; None leaves
        all as they are. device: where the queries are.

    Raises InputError for other shapes, for what is no number and for times outside [0, 1]. The values are read by the
    host, except while a CUDA graph is captured, when they are not checked.
    """
    if isinstance(t, (int, float)) and 0 <= t <= 1:
        # nothing of such a number has to be read anywhere
        times = torch.full((batch,), t, dtype=torch.float64, device=device)
        return times if t_max is None else times.clamp_max(t_max)
    # all digits of Python numbers are kept, of which float32 would lose half
    times = one_per_query(reals("t", t, device).detach(), batch)
    remedy = "rescale the times; integer steps are t = 1 - step / 1000"
    if traced() or not capturing():
        times = required(times, times == times.clamp(0.0, 1.0), "t", "must lie in [0, 1], 0 noise and 1 data", remedy)
    return times if t_max is None else times.clamp_max(t_max)


def one_per_query(times: Float64[Tensor, "..."], batch: int) -> Float64[Tensor, "B"]:
    """Return times [], [1], [B] or [B, 1, ...] as one for each of `batch` queries, [B].

    times: of any values, which are not read. batch: B. Raises InputError for other shapes.
    """
    if times.numel() == batch and times.shape[:1] == (batch,):
        return times.reshape(batch)
    if times.numel() == 1 and times.ndim <= 1:
        return times.reshape(1).expand(batch)
    wanted = f"must be a number, [{batch}] or [{batch}, 1, ...]"
    raise invalid("t", wanted, list(times.shape), "pass one time a query")


def coefficients(path: Path, t: Float64[Tensor, "B"]) -> Coefficients:
    """Return the coefficients of a path as float64 [B] tensors on the device of `t`.

    path: a callable as :class:`Path` says, whose results may be tensors of any dtype or numbers.
    t: [B] float64 in [0, 1].

    Raises InputError where the result lacks one of alpha_t, sigma_t, d_alpha_t and d_sigma_t.
    """
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
    parts = (reals(name, getattr(result, name), t.device) for name in names)
    return Coefficients(*[part if part.shape == t.shape else part.expand_as(t) for part in parts])


def numbers_at(path: Path, t: float) -> tuple[float, float, float, float]:
    """Return alpha, sigma and their derivatives at one time t in [0, 1]: what :func:`coefficients` has, in numbers.

    path: as there. Raises InputError as there.
    """
    if type(path) is RectifiedFlow:
        # the path of most calls, without a tensor
        return t, 1.0 - t, 1.0, -1.0
    with torch.no_grad():
        at = coefficients(path, torch.full((1,), t, dtype=torch.float64, device="cpu"))
        return at.alpha_t.item(), at.sigma_t.item(), at.d_alpha_t.item(), at.d_sigma_t.item()


def same_path(one: Path, other: Path) -> bool:
    """Return whether two paths have the same alpha and sigma at nine times in 0.03..0.97.

    one, other: callables as :class:`Path` says; they are compared to 1e-5 relative and 1e-6 absolute.
    Raises InputError where one of them returns no coefficients.
    """
    times = torch.linspace(0.03, 0.97, 9, dtype=torch.float64)
    first, second = coefficients(one, times), coefficients(other, times)
    pairs = ((first.alpha_t, second.alpha_t), (first.sigma_t, second.sigma_t))
    # schedules of other libraries may be made in single precision
    return all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in pairs)
