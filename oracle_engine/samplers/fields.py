"""The fields that a sampler integrates: velocity and denoiser at (x, t) of an engine, a model, or both in turn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from ..base.arrays import Float, Float64, Numbers, Tensor
from ..base.errors import invalid
from ..engine.oracle import Oracle
from ..paths.paths import Path, numbers_at, resolve_path, resolve_times, same_path
from ..queries.conditions import Guidance


@runtime_checkable
class HasVelocity(Protocol):
    """An object with a method `velocity(x, t)`, such as an engine or the trajectory of one."""

    def velocity(self, x: Tensor, t: Tensor, /) -> Tensor:
        """Return the velocity, like x, at states [B, *sample_shape] of any floating dtype and times [B] float64."""
        ...


# an engine; an object with `velocity`; or a model v(x, t), called with t [B] in the dtype of x, float32 at least
Velocity = Oracle | HasVelocity | Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Switch:
    """One velocity up to the time `t_switch`, another from there on.

    before: what steps that start before `t_switch` follow: an engine, an object with `velocity`, or a model v(x, t).
    after: what the other steps follow, likewise.
    t_switch: a time in [0, 1], 0 noise and 1 data; put it on the time grid for a change exactly there.
    Raises InputError for a `t_switch` outside [0, 1].

    Switch(engine, model, 0.3) navigates with the oracle and refines with the model; Switch(model, engine, 0.3) is the
    reverse.
    """

    before: Velocity
    after: Velocity
    t_switch: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.t_switch <= 1.0:
            raise invalid("t_switch", "must lie in [0, 1]", self.t_switch, "pass a time, 0 noise and 1 data")

    def at(self, t: float) -> Velocity:
        """Return what a step that starts at the time `t` in [0, 1] follows."""
        return self.before if t < self.t_switch else self.after


def parts_of(velocity: Velocity | Switch) -> tuple[Velocity, ...]:
    """Return the two parts of a Switch, or `velocity` alone."""
    return (velocity.before, velocity.after) if isinstance(velocity, Switch) else (velocity,)


def check_velocity(velocity: Velocity | Switch) -> None:
    """Check that every part of `velocity` may be followed: an engine, an object with `velocity`, or a model v(x, t).

    velocity: what a sampler follows, as :func:`sample` takes it.
    Raises InputError for anything else, and for a model whose attribute `prediction` says that it returns a denoiser,
    noise or a score, such as an OracleTarget or an EDMDenoiser, or whose `convention` is not v(x, t) from noise to
    data, such as a VelocityModel of "repa".
    """
    for part in parts_of(velocity):
        if isinstance(part, (Oracle, HasVelocity)) and not isinstance(part, type):
            continue
        if not callable(part) or isinstance(part, type):
            found = part.__name__ if isinstance(part, type) else type(part).__name__
            remedy = "pass an OracleEngine, or a function v(x, t)"
            raise invalid("velocity", "must be an engine, an object with velocity(x, t), or a model", found, remedy)
        prediction = getattr(part, "prediction", "velocity")
        if prediction in ("denoiser", "noise", "score"):
            found = f"{type(part).__name__}, which returns a {prediction}"
            raise invalid(
                "velocity", "must return a velocity", found, "pass the engine inside of it, or wrap the model"
            )
        convention = getattr(part, "convention", None)
        if convention is not None and (convention.from_data or convention.steps != 1 or convention.time_first):
            found, remedy = f"the convention {convention!r}", "pass the engine inside of it, its attribute .engine"
            raise invalid("velocity", "must be v(x, t) with t = 0 noise and t = 1 data", found, remedy)


def path_of(velocity: Velocity | Switch, path: str | Path | None) -> Path:
    """Return the path that `velocity` belongs to: `path`, or that of its engine, or rectified flow.

    velocity: what a sampler follows, as :func:`sample` takes it.
    path: a name, a callable of t, or None for the path of the engine.
    Raises InputError where `path` and the paths of the engines in `velocity` differ, and for names of no path.
    """
    own = [found for part in parts_of(velocity) if (found := _own_path(part)) is not None]
    chosen = own[0] if path is None and own else resolve_path("rectified_flow" if path is None else path)
    for other in own:
        if not same_path(chosen, other):
            raise invalid("path", f"must be the path of the engine, {other!r}", repr(chosen), "leave path out")
    return chosen


def _own_path(part: Velocity) -> Path | None:
    """Return the path of an engine, of an object with `velocity`, or of the engine in a model, such as an adapter."""
    if isinstance(part, HasVelocity) and hasattr(part, "path"):
        found: Path = part.path
        return found
    engine = getattr(part, "engine", None)
    return engine.path if isinstance(engine, Oracle) else None


@dataclass(frozen=True)
class Field:
    """Velocity and denoiser of what one step of a sampler follows.

    source: an engine, an object with `velocity`, or a model v(x, t).
    path: what the velocity of `source` belongs to.
    labels, guidance: as in OracleEngine.velocity, for [B] queries; they reach engines only.
    """

    source: Velocity
    path: Path
    labels: Numbers | None = None
    guidance: Numbers | Guidance | None = None

    def velocity(self, x: Float[Tensor, "B ..."], t: float) -> Float[Tensor, "B ..."]:
        """Return the velocity at the time `t` in [0, 1), [B, *sample_shape] in the dtype of x.

        x: [B, *sample_shape], any floating dtype. Raises InputError as OracleEngine.velocity does, and for a model that
        returns no tensor, another shape, or numbers that are not finite. Costs one evaluation.
        """
        source, times = self.source, times_like(t, x)
        if isinstance(source, Oracle):
            return source.velocity(x, times, labels=self.labels, guidance=self.guidance)
        if isinstance(source, HasVelocity):
            return _checked(source.velocity(x, times), x, t)
        # half precision would turn late times into 1
        return _checked(source(x, times.to(torch.promote_types(x.dtype, torch.float32))), x, t)

    def denoiser(self, x: Float[Tensor, "B ..."], t: float) -> Float[Tensor, "B ..."]:
        """Return the denoiser E[X | x_t = x], [B, *sample_shape] in the dtype of x: of an engine, else from a velocity.

        x: [B, *sample_shape], any floating dtype. t: a time in [0, 1). Raises InputError as :meth:`velocity` does, and
        where a path stands still, so that its velocity determines no denoiser. Costs one evaluation.
        """
        if isinstance(self.source, Oracle):
            return self.source.denoiser(x, times_like(t, x), labels=self.labels, guidance=self.guidance)
        return denoiser_from(self.velocity(x, t), x, t, self.path)


def denoiser_from(
    velocity: Float[Tensor, "B ..."], x: Float[Tensor, "B ..."], t: float, path: Path
) -> Float[Tensor, "B ..."]:
    """Return the denoiser that belongs to a velocity.

    velocity: [B, *sample_shape], any floating dtype. x: the states, likewise.
    t: the time of all states, in [0, 1]. path: what the velocity belongs to.
    Returns (sigma v - d_sigma x) / (d_alpha sigma - d_sigma alpha), [B, *sample_shape] in the dtype of x, the solution
    of v = d_alpha xhat + d_sigma eps and x = alpha xhat + sigma eps.
    Raises InputError at times where a path stands still, as polynomial(2) does at t = 0, or has an infinite slope: the
    velocity determines no denoiser there.
    """
    alpha, sigma, d_alpha, d_sigma = path_at(path, t)
    determinant = d_alpha * sigma - d_sigma * alpha
    if determinant == 0.0:
        raise invalid("times", "must avoid times where the path stands still", f"t = {t}", "start at 1e-3")
    if not math.isfinite(determinant):
        raise invalid("times", "must avoid times where the path has no slope", f"t = {t}", "stop at 0.999")
    values = (sigma * velocity.double() - d_sigma * x.double()) / determinant
    return values.to(x.dtype)


def path_at(path: Path, t: float) -> tuple[float, float, float, float]:
    """Return alpha, sigma, d_alpha and d_sigma of `path` at the time `t` as numbers.

    Raises InputError for `t` outside [0, 1], and where alpha or sigma is not finite.
    """
    found = numbers_at(path, float(resolve_times(t, 1, None, torch.device("cpu"))))
    if not all(map(math.isfinite, found[:2])):
        raise invalid("path", "must have finite alpha_t and sigma_t", f"another one at t = {t}", "check the path")
    return found


def times_like(t: float, x: Float[Tensor, "B ..."]) -> Float64[Tensor, "B"]:
    """Return the time `t` for each query of `x`, [B] float64 on its device."""
    return torch.full((len(x),), t, dtype=torch.float64, device=x.device)


def _checked(output: Any, x: Tensor, t: float) -> Tensor:
    """Return what a model returned, in the dtype of x. Raises InputError where it is no velocity."""
    if not isinstance(output, Tensor):
        remedy = "wrap the model so that it returns its velocity alone"
        raise invalid("velocity", "must return a torch.Tensor", type(output).__name__, remedy)
    if output.shape != x.shape:
        remedy = "wrap the model; networks that also learn a variance return twice the channels"
        raise invalid("velocity", f"must return the shape of x, {list(x.shape)}", list(output.shape), remedy)
    if output.is_complex():
        raise invalid("velocity", "must return real numbers", output.dtype, "return output.real")
    values = output.to(x.dtype)
    if not bool(values.isfinite().all()):
        raise invalid("velocity", "must return finite numbers", f"a NaN or an infinity at t = {t}", "check the model")
    return values
