"""Training loops of torchcfm and flow_matching with the conditional target replaced by the oracle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch

from ..base.arrays import Float64, Numbers, Tensor
from ..base.errors import invalid
from ..engine.arguments import check_oracle
from ..engine.oracle import Oracle
from ..paths.paths import SMALLEST, Coefficients, coefficients, resolve_times, same_path
from .evidence import check_independent, check_standard_normal, no_closed_form

# the mean of x_t in those matchers of torchcfm that pair noise and data independently
_MATCHERS: Mapping[str, str] = MappingProxyType(
    {
        "ConditionalFlowMatcher": "linear",
        "TargetConditionalFlowMatcher": "target",
        "VariancePreservingConditionalFlowMatcher": "trigonometric",
    }
)
# how far x_t may be from alpha x_1 + sigma x_0, relative to their size: bfloat16, and a factor 4
ON_PATH = 2.0**-6


@dataclass(frozen=True)
class MatcherPath:
    """The path of a torchcfm matcher, whose x_t has Gaussian noise of width `sigma` beside that of x0.

    mean: "linear" t x1 + (1 - t) x0; "trigonometric" sin(pi t / 2) x1 + cos(pi t / 2) x0; "target" t x1, with noise
        1 - (1 - sigma) t in all.
    sigma: width of the noise in the units of the samples, at least 0.

    Both sources of noise are part of sigma_t, and E[ut | x_t] is the velocity of this path: Tong et al. (2023),
    Lipman et al. (2023), Albergo and Vanden-Eijnden (2023).
    """

    mean: str = "linear"
    sigma: float = 0.0

    def __call__(self, t: Float64[Tensor, "B"]) -> Coefficients:
        """Return alpha, sigma and their derivatives at the times `t`, [B] float64 each."""
        one = torch.ones_like(t)
        if self.mean == "target":
            return Coefficients(t, 1 - (1 - self.sigma) * t, one, (self.sigma - 1) * one)
        if self.mean == "linear":
            alpha, beta, d_alpha, d_beta = t, 1 - t, one, -one
        else:
            quarter = math.pi / 2
            alpha, beta = torch.sin(quarter * t), torch.sin(quarter * (1 - t))
            d_alpha, d_beta = quarter * beta, -quarter * alpha
        width = (beta.square() + self.sigma**2).sqrt()
        return Coefficients(alpha, width, d_alpha, beta * d_beta / width.clamp_min(SMALLEST))


def matcher_path(matcher: Any) -> MatcherPath:
    """Return the path of a torchcfm matcher, for OracleEngine(data, path).

    matcher: a ConditionalFlowMatcher, TargetConditionalFlowMatcher or VariancePreservingConditionalFlowMatcher.
    Raises InputError for couplings without a closed form (minibatch optimal transport, Schrödinger bridges) and for
    classes of other names.
    """
    name = type(matcher).__name__
    if hasattr(matcher, "ot_sampler"):
        raise no_closed_form("matcher", name)
    if name not in _MATCHERS:
        remedy = "pass the engine's velocity to the loss yourself if its path is one of oracle_engine.paths.paths"
        raise invalid("matcher", f"must be one of {', '.join(_MATCHERS)}", name, remedy)
    return MatcherPath(_MATCHERS[name], float(matcher.sigma))


class OracleMatcher:
    """A torchcfm matcher whose ut is the oracle velocity; everything else is the matcher's.

    matcher: a ConditionalFlowMatcher, TargetConditionalFlowMatcher or VariancePreservingConditionalFlowMatcher.
    engine: over the data that x1 is drawn from, on matcher_path(matcher).
    Raises InputError for other matchers, for what is no engine, and where the paths differ.
    """

    def __init__(self, matcher: Any, engine: Oracle) -> None:
        check_oracle(engine)
        path = matcher_path(matcher)
        if not same_path(path, engine.path):
            remedy = "make it OracleEngine(data, matcher_path(matcher))"
            raise invalid("engine", f"must be on the path of the matcher, {path!r}", repr(engine.path), remedy)
        self.matcher, self.engine, self._noise_is_x0 = matcher, engine, path.mean != "target"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.matcher, name)

    def sample_location_and_conditional_flow(
        self,
        x0: Tensor,
        x1: Tensor,
        t: Tensor | None = None,
        return_noise: bool = False,
        *,
        labels: Numbers | None = None,
        source: Numbers | None = None,
    ) -> tuple[Tensor, ...]:
        """Return t [B], xt, the oracle ut, like xt, and with `return_noise` the noise of xt, as the matcher does.

        x0: standard normal noise, [B, *sample_shape], any floating dtype.
        x1: samples of the data, likewise.
        t: times, [B] in [0, 1], 0 noise and 1 data; drawn by the matcher unless given.
        return_noise: whether to return the noise of xt as a fourth tensor.
        labels: as in OracleEngine.velocity, for a class-conditional target.
        source: index of x1 in the data, [B], -1 for none, which a prepared engine uses.
        Raises InputError for x0 that is unmistakably not such noise, or paired with x1, and as OracleEngine.velocity
        does. Costs one velocity.
        """
        if self._noise_is_x0:
            check_standard_normal(x0)
            check_independent(x0, x1)
        t, xt, _, *noise = self.matcher.sample_location_and_conditional_flow(x0, x1, t, return_noise)
        return t, xt, self.engine.velocity(xt, t, labels=labels, source=source), *noise


def with_oracle(sample: Any, engine: Oracle, *, labels: Numbers | None = None, source: Numbers | None = None) -> Any:
    """Return what flow_matching's path.sample returned with `dx_t` replaced by the oracle velocity.

    sample: a dataclass with x_0, x_1, x_t, dx_t [B, *sample_shape] and t [B], as AffineProbPath.sample returns it.
    engine: over the data that x_1 is drawn from, OracleEngine(data, path.scheduler).
    labels: as in OracleEngine.velocity, for a class-conditional target.
    source: index of x_1 in the data, [B], -1 for none, which a prepared engine uses.
    Returns a dataclass of the same type.
    Raises InputError for what is no engine, where x_t is not alpha x_1 + sigma x_0 on its path (another scheduler,
    reversed time, a curved path) and where x_0 is unmistakably no standard normal noise, or paired with x_1. Costs one
    velocity.
    """
    check_oracle(engine)
    missing = [name for name in ("x_0", "x_1", "x_t", "dx_t", "t") if not hasattr(sample, name)]
    if missing:
        found = f"{type(sample).__name__} without {missing[0]}"
        raise invalid("sample", "must be a PathSample of an affine path", found, "discrete paths have no velocity")
    _check_on_path(sample, engine)
    check_standard_normal(sample.x_0)
    check_independent(sample.x_0, sample.x_1)
    return replace(sample, dx_t=engine.velocity(sample.x_t, sample.t, labels=labels, source=source))


def _check_on_path(sample: Any, engine: Oracle) -> None:
    """Raise InputError where x_t of a path sample does not lie on the path of the engine."""
    x = sample.x_t.double()
    times = resolve_times(sample.t, len(x), None, x.device)
    at = coefficients(engine.path, times)
    alpha, sigma = (part.reshape(-1, *[1] * (x.ndim - 1)) for part in (at.alpha_t, at.sigma_t))
    expected = alpha * sample.x_1.double() + sigma * sample.x_0.double()
    if float((x - expected).norm()) > ON_PATH * float(x.norm() + expected.norm()):
        remedy = "make the engine OracleEngine(data, path.scheduler) with the path that drew the sample"
        raise invalid("sample", "must have x_t = alpha x_1 + sigma x_0", f"another x_t on {engine.path!r}", remedy)
