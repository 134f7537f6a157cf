"""ODE samplers for the oracle, for models, and for runs that change from one to the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch

from ..base.arrays import Float, Float64, Int64, Tensor, check_floating
from ..base.errors import invalid
from ..engine.engine import OracleEngine
from ..paths.paths import Path
from ..paths.time_grids import check_times
from ..queries.request import Guidance
from .fields import Field, Switch, Velocity, denoiser_from, parts_of, path_at, path_of, times_like


@dataclass(frozen=True)
class Capture:
    """What a run keeps of every step, beside its end; each of the first two holds one tensor like x a step.

    states: x_t, before each step and at the end. denoisers: E[X | x_t] at each step.
    top_k: weights and indices of the heaviest samples at each step, from the engine of the run; one more pass a step.
    """

    states: bool = False
    denoisers: bool = False
    top_k: int = 0

    def memory(self, x: Tensor, steps: int) -> int:
        """Return the bytes that a run of `steps` steps from `x` keeps, on the device of `x`."""
        states = x.nbytes * ((steps + 1) * self.states + steps * self.denoisers)
        return states + 16 * len(x) * steps * self.top_k


@dataclass(frozen=True, eq=False)
class Run:
    """A run of a sampler over S steps.

    x: its end, [B, *shape]. times: [S + 1].
    states: [S + 1, B, *shape]; denoisers: [S, B, *shape]; top_weights, top_indices: [S, B, K]; None unless captured.
    """

    x: Float[Tensor, "B ..."]
    times: Float64[Tensor, "T"]
    path: Path
    method: str
    states: Float[Tensor, "T B ..."] | None = None
    denoisers: Float[Tensor, "S B ..."] | None = None
    top_weights: Float64[Tensor, "S B K"] | None = None
    top_indices: Int64[Tensor, "S B K"] | None = None


@torch.no_grad()
def sample(
    velocity: Velocity | Switch,
    x: Float[Tensor, "B ..."],
    times: Tensor,
    *,
    method: str = "euler",
    path: str | Path | None = None,
    labels: int | Tensor | None = None,
    guidance: float | Tensor | Guidance | None = None,
    capture: Capture | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Run:
    """Integrate dx/dt = v(x, t) over `times` from `x` and return the run; no gradient is kept.

    velocity: an OracleEngine; an object with `velocity(x, t)`, t [B] float64; a model v(x, t), t [B] in the dtype of x;
        or a Switch between two of these.
    x: [B, *shape] at the first time: initial_noise(...), or noised(...) to resume from samples.
    times: strictly increasing in [0, 1], as sampling_times gives them.
    method: "euler"; "heun", second order with two evaluations a step; "ddim", exact wherever the denoiser stands still.
    path: for models alone (rectified_flow unless given); an engine brings its own.
    labels, guidance: for the engine, as in OracleEngine.velocity; bind those of a model beforehand.
    capture: what to keep of every step. progress: called with steps done and all steps.

    Velocities are never asked for at t = 1: the step that ends there goes to the denoiser, which for rectified flow is
    the Euler step, so a full-oracle run ends on samples of the data. Raises InputError for arguments that do not
    fit, and for a model that returns another shape or numbers that are not finite.
    """
    check_floating("x", x)
    grid = check_times(times).tolist()
    sampler = _Sampler(velocity, path_of(velocity, path), _method(method), labels, guidance, capture or Capture())
    sampler.check()
    kept = _Kept()
    for step, (t, end) in enumerate(pairwise(grid)):
        x = sampler.step(x, t, end, kept)
        if progress is not None:
            progress(step + 1, len(grid) - 1)
    return kept.run(x, grid, sampler.path, method, sampler.capture)


def initial_noise(
    engine: OracleEngine, count: int, *, start: float = 0.0, generator: torch.Generator | None = None
) -> Float[Tensor, "B ..."]:
    """Return `count` draws of sigma(start) eps, what a run from t = `start` begins with, float32 or float64.

    The dtype and device are those of the samples. generator: on that device.
    """
    if count < 1:
        raise invalid("count", "must be at least 1", count, "pass the number of samples to draw")
    data = engine.data
    shape = (count, *data.sample_shape)
    eps = torch.randn(shape, dtype=data.value_dtype, device=data.device, generator=generator)
    return path_at(engine.path, start)[1] * eps


def noised(
    engine: OracleEngine, samples: Float[Tensor, "B ..."], t: float, *, generator: torch.Generator | None = None
) -> Float[Tensor, "B ..."]:
    """Return alpha(t) X + sigma(t) eps for the samples X, like them: where a run resumes at the time t."""
    check_floating("samples", samples)
    alpha, sigma, _, _ = path_at(engine.path, t)
    eps = torch.randn(samples.shape, dtype=samples.dtype, device=samples.device, generator=generator)
    return alpha * samples + sigma * eps


# (field, x, t, end, whether the denoiser is wanted) to x at the end of a step and, if wanted, the denoiser at t
_Advance = Callable[[Field, Tensor, float, float, bool], tuple[Tensor, Tensor | None]]


class _Kept:
    """The tensors of the steps so far."""

    def __init__(self) -> None:
        self.states: list[Tensor] = []
        self.denoisers: list[Tensor] = []
        self.weights: list[Tensor] = []
        self.indices: list[Tensor] = []

    def run(self, x: Tensor, grid: list[float], path: Path, method: str, capture: Capture) -> Run:
        """Return the run that ended in x, with what was recorded on the way."""
        return Run(
            x=x,
            times=torch.tensor(grid, dtype=torch.float64),
            path=path,
            method=method,
            states=torch.stack([*self.states, x]) if capture.states else None,
            denoisers=torch.stack(self.denoisers) if capture.denoisers else None,
            top_weights=torch.stack(self.weights) if capture.top_k else None,
            top_indices=torch.stack(self.indices) if capture.top_k else None,
        )


@dataclass(frozen=True)
class _Sampler:
    velocity: Velocity | Switch
    path: Path
    advance: _Advance
    labels: int | Tensor | None
    guidance: float | Tensor | Guidance | None
    capture: Capture

    @property
    def engine(self) -> OracleEngine | None:
        return next((part for part in parts_of(self.velocity) if isinstance(part, OracleEngine)), None)

    def check(self) -> None:
        """Raise InputError for what only an engine can do where there is none."""
        wants = {"labels": self.labels, "guidance": self.guidance, "capture.top_k": self.capture.top_k or None}
        given = [name for name, value in wants.items() if value is not None]
        if self.engine is None and given:
            remedy = "bind what a model takes beforehand: lambda x, t: model(x, t, labels)"
            raise invalid(given[0], "is for an OracleEngine in the run", f"{wants[given[0]]} without one", remedy)
        if self.capture.top_k < 0:
            raise invalid("capture.top_k", "must not be negative", self.capture.top_k, "pass 0 to name no samples")

    def step(self, x: Tensor, t: float, end: float, kept: _Kept) -> Tensor:
        """Return x at the time `end`, from x at the time `t`, and keep what is to be captured."""
        source = self.velocity.at(t) if isinstance(self.velocity, Switch) else self.velocity
        field = Field(source, self.path, self.labels, self.guidance)
        if self.capture.states:
            kept.states.append(x)
        if self.capture.top_k and self.engine is not None:
            posterior = self.engine.posterior(x, times_like(t, x), labels=self.labels, top_k=self.capture.top_k)
            kept.weights.append(posterior.top_weights)
            kept.indices.append(posterior.top_indices)
        reached, denoiser = (_to_data if end == 1.0 else self.advance)(field, x, t, end, self.capture.denoisers)
        if self.capture.denoisers and denoiser is not None:
            kept.denoisers.append(denoiser)
        return reached


def _to_data(field: Field, x: Tensor, t: float, end: float, wanted: bool) -> tuple[Tensor, Tensor | None]:
    denoiser = field.denoiser(x, t)
    return denoiser, denoiser


def _euler(field: Field, x: Tensor, t: float, end: float, wanted: bool) -> tuple[Tensor, Tensor | None]:
    velocity = field.velocity(x, t)
    return x + (end - t) * velocity, _denoiser(field, velocity, x, t) if wanted else None


def _heun(field: Field, x: Tensor, t: float, end: float, wanted: bool) -> tuple[Tensor, Tensor | None]:
    first = field.velocity(x, t)
    second = field.velocity(x + (end - t) * first, end)
    return x + 0.5 * (end - t) * (first + second), _denoiser(field, first, x, t) if wanted else None


def _ddim(field: Field, x: Tensor, t: float, end: float, wanted: bool) -> tuple[Tensor, Tensor | None]:
    denoiser = field.denoiser(x, t)
    alpha, sigma, _, _ = path_at(field.path, t)
    alpha_end, sigma_end, _, _ = path_at(field.path, end)
    # alpha' xhat + sigma' (x - alpha xhat) / sigma (Song et al. 2021)
    share = sigma_end / sigma
    return share * x + (alpha_end - share * alpha) * denoiser, denoiser


def _denoiser(field: Field, velocity: Tensor, x: Tensor, t: float) -> Tensor:
    # where a path stands still the velocity says nothing, but an engine knows
    if isinstance(field.source, OracleEngine) and path_at(field.path, t)[2:] == (0.0, 0.0):
        return field.denoiser(x, t)
    return denoiser_from(velocity, x, t, field.path)


METHODS = {"euler": _euler, "heun": _heun, "ddim": _ddim}


def _method(name: str) -> _Advance:
    if name not in METHODS:
        raise invalid("method", f"must be one of {', '.join(METHODS)}", repr(name), "use 'euler'")
    return METHODS[name]
