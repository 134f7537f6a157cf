"""Runs of a sampler: from states at the first time of a grid to those at its last, with what is captured on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Generic, cast

import torch

from ..base.arrays import Float, Float64, Int64, Numbers, Tensor, check_floating
from ..base.errors import invalid
from ..base.foreign import Queries, is_foreign, there_and_back
from ..engine.arguments import check_oracle
from ..engine.oracle import Oracle
from ..paths.paths import SMALLEST, Path
from ..paths.time_grids import check_times
from ..queries.conditions import Guidance
from .fields import Field, Switch, Velocity, check_velocity, parts_of, path_at, path_of, times_like
from .steps import METHODS, Step, to_data


@dataclass(frozen=True)
class Capture:
    """What a run keeps of every step, beside its end.

    states: whether to keep x_t before each step and at the end, [S + 1, B, *sample_shape].
    denoisers: whether to keep E[X | x_t] at each step, [S, B, *sample_shape].
    top_k: how many of the heaviest samples to keep at each step, at least 0, with weights and indices [S, B, K]; from
        the engine of the run, at the cost of one more pass over the data a step.
    """

    states: bool = False
    denoisers: bool = False
    top_k: int = 0

    def memory(self, x: Tensor, steps: int) -> int:
        """Return the bytes that a run of `steps` steps from `x` [B, *sample_shape] keeps, on the device of `x`."""
        states = x.nbytes * ((steps + 1) * self.states + steps * self.denoisers)
        return states + 16 * len(x) * steps * self.top_k


@dataclass(frozen=True, eq=False)
class Run(Generic[Queries]):
    """The result of a sampler over S steps.

    x: the states at the last time, [B, *sample_shape], in the dtype and of the kind of the first, as `states` and
        `denoisers` are.
    times: the grid, [S + 1] float64 on the CPU.
    path, method: what was integrated, and how.
    states: x_t before each step and at the end, [S + 1, B, *sample_shape], or None unless captured.
    denoisers: E[X | x_t] at each step, [S, B, *sample_shape], or None unless captured.
    top_weights, top_indices: posterior weights and indices of the heaviest samples at each step, [S, B, K] float64 and
        int64, or None unless captured.
    """

    x: Queries
    times: Float64[Tensor, "T"]
    path: Path
    method: str
    states: Queries | None = None
    denoisers: Queries | None = None
    top_weights: Float64[Tensor, "S B K"] | None = None
    top_indices: Int64[Tensor, "S B K"] | None = None


@torch.no_grad()
def sample(
    velocity: Velocity | Switch,
    x: Queries,
    times: Numbers,
    *,
    method: str = "euler",
    path: str | Path | None = None,
    labels: Numbers | None = None,
    guidance: Numbers | Guidance | None = None,
    capture: Capture | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Run[Queries]:
    """Integrate dx/dt = v(x, t) over `times` from `x` and return the run; no gradient is kept.

    velocity: an OracleEngine; an object with `velocity(x, t)`, t [B] float64; a model v(x, t), t [B] in the dtype of x,
        float32 at least; or a Switch between two of these.
    x: states at the first time, [B, *sample_shape], any floating dtype: initial_noise(...), or noised(...) to resume. A
        NumPy array, or one that speaks DLPack (JAX, CuPy), is taken from where it is; models get tensors on the device
        of the engine in the run, or of x where there is none.
    times: S + 1 strictly increasing times in [0, 1], floating, as sampling_times gives them.
    method: "euler"; "heun", second order with two evaluations a step (Karras et al. 2022, algorithm 1, in t); "ddim"
        (Song et al. 2021), exact wherever the denoiser stands still.
    path: for models alone, rectified_flow unless given; an engine brings its own.
    labels, guidance: for the engine, as in OracleEngine.velocity; bind those of a model beforehand.
    capture: what to keep of every step; nothing unless given.
    progress: called with the number of steps done and of all steps, after each.
    Returns a Run whose `x` is [B, *sample_shape] in the dtype and of the kind of x, as captured states are.

    No velocity is evaluated at t = 1: a step that ends there goes to the denoiser, which for rectified flow is the
    Euler step, so a full-oracle run ends on samples of the data. Raises InputError for arguments that do not
    fit, and for a model that returns another shape or numbers that are not finite. Costs S evaluations, 2 S of heun.

    >>> import torch, oracle_engine as oe
    >>> from oracle_engine import samplers
    >>> engine = oe.OracleEngine(oe.load_dataset("digits"))
    >>> x = samplers.initial_noise(engine, 4, generator=torch.Generator().manual_seed(0))
    >>> run = samplers.sample(engine, x, samplers.sampling_times(10), labels=torch.tensor([0, 1, 2, 3]))
    >>> float(torch.cdist(run.x.flatten(1), engine.data[:].flatten(1)).amin(1).max()) < 1e-3
    True
    """
    check_velocity(velocity)
    sampler = _Sampler(velocity, path_of(velocity, path), method, labels, guidance, capture or Capture())
    home = None if sampler.engine is None else sampler.engine.data.device
    states, back = _taken("x", x, home)
    grid = check_times(times).tolist()
    sampler.check()
    kept = _Kept()
    for step, (t, end) in enumerate(pairwise(grid)):
        states = sampler.step(states, t, end, kept)
        if progress is not None:
            progress(step + 1, len(grid) - 1)
    return sampler.run(states, grid, kept, back)


def initial_noise(
    engine: Oracle, count: int, *, start: float = 0.0, generator: torch.Generator | None = None
) -> Float[Tensor, "B ..."]:
    """Return draws of sigma(start) eps, the states that a run begins with.

    engine: with the path and the samples, whose shape, dtype and device the draws have.
    count: how many, at least 1.
    start: the first time of the run, in [0, 1], with sigma(start) > 0.
    generator: of the draws, on the device of the data; the global one unless given.
    Returns [count, *sample_shape], float64 for samples stored so, else float32.
    Raises InputError for what is no engine, for a `count` below 1, for `start` outside [0, 1] and where no noise is
    left.

    >>> import oracle_engine as oe
    >>> from oracle_engine import samplers
    >>> samplers.initial_noise(oe.OracleEngine(oe.load_dataset("digits"), "edm"), 16).shape
    torch.Size([16, 1, 8, 8])
    """
    check_oracle(engine)
    if count < 1:
        raise invalid("count", "must be at least 1", count, "pass the number of samples to draw")
    sigma = path_at(engine.path, start)[1]
    if not sigma > SMALLEST:
        raise invalid(
            "start", "must leave some noise: sigma(start) > 0", start, "start a run before the end of the path"
        )
    data = engine.data
    shape = (count, *data.sample_shape)
    eps = torch.randn(shape, dtype=data.value_dtype, device=data.device, generator=generator)
    return sigma * eps


def noised(engine: Oracle, samples: Queries, t: float, *, generator: torch.Generator | None = None) -> Queries:
    """Return alpha(t) X + sigma(t) eps, the states that a run resumes with at the time `t`.

    engine: with the path.
    samples: X, [B, *sample_shape], any floating dtype; an array of NumPy or one that speaks DLPack too.
    t: the first time of the run, in [0, 1].
    generator: of the noise, on the device of `samples`; the global one unless given.
    Returns [B, *sample_shape] in the dtype and of the kind of `samples`: the samples themselves where sigma(t) = 0.
    Raises InputError for what is no engine, for samples that are not floating and for `t` outside [0, 1].
    """
    check_oracle(engine)
    points, back = _taken("samples", samples, None)
    alpha, sigma, _, _ = path_at(engine.path, t)
    eps = torch.randn(points.shape, dtype=points.dtype, device=points.device, generator=generator)
    return cast(Queries, back(alpha * points + sigma * eps))


def _taken(name: str, x: Any, device: torch.device | None) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """Return `x`, which errors call `name`, as a tensor, and what makes an array like it of a tensor.

    device: where an array of another library goes, or None for where it is.
    """
    points, back = there_and_back(x, device, name) if is_foreign(x) else (x, lambda answer: answer)
    check_floating(name, points)
    return points, back


class _Kept:
    """What was captured of the steps so far, one tensor a step."""

    def __init__(self) -> None:
        self.states: list[Tensor] = []
        self.denoisers: list[Tensor] = []
        self.weights: list[Tensor] = []
        self.indices: list[Tensor] = []


@dataclass(frozen=True)
class _Sampler:
    """A run: the field it follows, by which method and towards what, and what is captured on the way."""

    velocity: Velocity | Switch
    path: Path
    method: str
    labels: Numbers | None
    guidance: Numbers | Guidance | None
    capture: Capture

    @property
    def engine(self) -> Oracle | None:
        return next((part for part in parts_of(self.velocity) if isinstance(part, Oracle)), None)

    def check(self) -> None:
        """Raise InputError for an unknown method, and for options of an engine where the run has none."""
        if self.method not in METHODS:
            raise invalid("method", f"must be one of {', '.join(METHODS)}", repr(self.method), "use 'euler'")
        options = {"labels": self.labels, "guidance": self.guidance, "capture.top_k": self.capture.top_k or None}
        used = [name for name, value in options.items() if value is not None]
        if self.engine is None and used:
            remedy = "bind what a model takes beforehand: lambda x, t: model(x, t, labels)"
            raise invalid(used[0], "is for an OracleEngine in the run", f"{options[used[0]]} without one", remedy)
        if self.capture.top_k < 0:
            raise invalid("capture.top_k", "must not be negative", self.capture.top_k, "pass 0 to name no samples")

    def step(self, x: Tensor, t: float, end: float, kept: _Kept) -> Tensor:
        """Return the states at the time `end`, from `x` at the time `t`, and add what is to be captured to `kept`."""
        source = self.velocity.at(t) if isinstance(self.velocity, Switch) else self.velocity
        step = Step(Field(source, self.path, self.labels, self.guidance), x, t, end)
        if self.capture.states:
            kept.states.append(x)
        if self.capture.top_k and self.engine is not None:
            posterior = self.engine.posterior(x, times_like(t, x), labels=self.labels, top_k=self.capture.top_k)
            kept.weights.append(posterior.top_weights)
            kept.indices.append(posterior.top_indices)
        advance = to_data if end == 1.0 else METHODS[self.method]
        reached, denoiser = advance(step, self.capture.denoisers)
        if self.capture.denoisers and denoiser is not None:
            kept.denoisers.append(denoiser)
        return reached

    def run(self, x: Tensor, grid: list[float], kept: _Kept, back: Callable[[Tensor], Any]) -> Run[Any]:
        """Return the run over the times of `grid` that ended in `x`, with what was captured; `back` is for states."""
        return Run(
            x=back(x),
            times=torch.tensor(grid, dtype=torch.float64),
            path=self.path,
            method=self.method,
            states=back(torch.stack([*kept.states, x])) if self.capture.states else None,
            denoisers=back(torch.stack(kept.denoisers)) if self.capture.denoisers else None,
            top_weights=torch.stack(kept.weights) if self.capture.top_k else None,
            top_indices=torch.stack(kept.indices) if self.capture.top_k else None,
        )
