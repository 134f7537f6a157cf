"""Checks of arguments by their statistics: times that run the other way, and x0 that is no standard normal noise."""

from __future__ import annotations

import math

from ..base.arrays import Bool, Float, Float64, Numbers, Tensor
from ..base.errors import InputError, invalid
from ..engine.oracle import Oracle
from ..paths.paths import coefficients, resolve_times

# the direction of time can be checked where the mirrored time has this many times the noise
CONTRAST = 4.0
# how many values of noise suffice to estimate its size
ENOUGH_VALUES = 16
# a mean square of noise may differ from 1 by this much, and by this many standard errors
DEPARTURE, STANDARD_ERRORS = 0.1, 8.0


def check_direction(engine: Oracle, x: Float[Tensor, "B ..."], t: Numbers, velocity: Tensor) -> None:
    """Raise InputError where `x` is unmistakably as noisy as at 1 - t, and far too noisy for t.

    engine: with the path.
    x: states, [B, *sample_shape], any floating dtype.
    t: a number, [], [B] or [B, 1, ...] in [0, 1], 0 noise and 1 data.
    velocity: the oracle at x and t, like x, from which x - alpha xhat follows; nothing is evaluated.
    Raises InputError as :func:`refuse_reversed` does.
    """
    times = resolve_times(t, len(x), engine.t_max, x.device)
    checkable = _checkable(coefficients(engine.path, times).sigma_t, coefficients(engine.path, 1 - times).sigma_t)
    if not bool(checkable.any()):
        return
    at, mirrored = (coefficients(engine.path, part[checkable]) for part in (times, 1 - times))
    flat, slope = (part.detach()[checkable].double().flatten(1) for part in (x, velocity))
    # sigma (d_alpha x - alpha v) / (d_alpha sigma - d_sigma alpha) = x - alpha xhat
    share = at.sigma_t / (at.d_alpha_t * at.sigma_t - at.d_sigma_t * at.alpha_t)
    rest = share[:, None] * (at.d_alpha_t[:, None] * flat - at.alpha_t[:, None] * slope)
    refuse_reversed(rest, at.sigma_t, mirrored.sigma_t)


def one_time(t: Float64[Tensor, "..."]) -> bool:
    """Return whether the times `t`, of any shape, are all the same, as those of a solver are."""
    times = t.detach().reshape(-1)
    return bool((times == times[:1]).all())


def mostly_noise(engine: Oracle, t: Float64[Tensor, "..."]) -> bool:
    """Return whether all states are at one time that has far more noise than the mirrored one.

    engine: with the path. t: times of any shape, in [0, 1], 0 noise and 1 data.
    """
    if t.numel() == 0 or not one_time(t):
        return False
    first = t.detach().reshape(-1)[:1].clamp(0.0, 1.0)
    at, mirrored = (coefficients(engine.path, part).sigma_t for part in (first, 1 - first))
    return bool(_checkable(mirrored, at).all())


def refuse_reversed(rest: Float64[Tensor, "B D"], sigma: Float64[Tensor, "B"], mirrored: Float64[Tensor, "B"]) -> None:
    """Raise InputError where the rests x - alpha xhat are of the size of `mirrored`, not of `sigma`.

    rest: x - alpha xhat, [B, D] float64; on the path it is about sigma eps.
    sigma: the noise of the path at the times of the queries, [B] float64.
    mirrored: the noise of the path at the mirrored times, [B] float64.
    Raises InputError where all queries whose mirrored time is much noisier agree, so that a sampler that has left the
    path is not taken for one that runs backwards.
    """
    checkable = _checkable(sigma, mirrored)
    if int(checkable.sum()) * rest.shape[1] < ENOUGH_VALUES:
        return
    size = rest[checkable].square().mean(1).sqrt()
    ratio = size / mirrored[checkable]
    # outside of this range neither time explains x, as where a solver tries a step that is much too long
    if bool(((ratio > 0.5) & (ratio < CONTRAST)).all()):
        found = f"noise of {float(size.median()):.2g} where the path leaves {float(sigma[checkable].median()):.2g}"
        remedy = "reverse the time, or name the convention of your tool; check_time=False accepts it as it is"
        raise invalid("t", "seems to run the other way: this x belongs to the mirrored time", found, remedy)


def _checkable(sigma: Float64[Tensor, "B"], mirrored: Float64[Tensor, "B"]) -> Bool[Tensor, "B"]:
    return mirrored >= CONTRAST * sigma


def check_standard_normal(x0: Tensor) -> None:
    """Raise InputError unless the mean square of `x0` [B, *sample_shape] is about 1, as that of standard noise is."""
    if x0.numel() < ENOUGH_VALUES:
        return
    size = float(x0.detach().double().square().mean())
    if not abs(size - 1.0) < DEPARTURE + STANDARD_ERRORS * math.sqrt(2.0 / x0.numel()):
        remedy = (
            "draw it with torch.randn_like(x1); another source, or arguments in the other order, has another oracle"
        )
        raise invalid("x0", "must be standard normal noise", f"a mean square of {size:.3g}", remedy)


def check_independent(x0: Tensor, x1: Tensor) -> None:
    """Raise InputError where noise and data are unmistakably paired, as by optimal transport in the batch.

    x0: noise, [B, *sample_shape]. x1: data, likewise. For independent x0 the sum of <x0, x1 - mean> over its standard
    deviation is standard normal.
    """
    noise, data = (part.detach().double().flatten(1) for part in (x0, x1))
    data = data - data.mean(0)
    spread = float(data.norm())
    score = float((noise * data).sum()) / spread if spread > 0.0 else 0.0
    if abs(score) > STANDARD_ERRORS:
        raise no_closed_form("x0", f"pairs that are correlated by {score:.0f} standard errors")


def no_closed_form(parameter: str, received: str) -> InputError:
    """Return the InputError that refuses a coupling between noise and data; the caller raises it.

    parameter: the argument that has the coupling. received: what was found.
    """
    wanted = (
        "must pair noise and data independently: a plan within the minibatch makes x_t depend on the other samples "
        "and on the batch size, so that its marginal velocity is no softmax over the data and has no closed form"
    )
    return invalid(
        parameter,
        wanted,
        received,
        "pair noise and data at random, as ConditionalFlowMatcher does, or train on the plan's own ut",
    )
