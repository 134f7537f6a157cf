"""The steps that a sampler takes, by method: where a step ends, and the denoiser where it begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..base.arrays import Tensor
from ..base.names import METHOD_NAMES
from ..engine.oracle import Oracle
from .fields import Field, denoiser_from, path_at


@dataclass(frozen=True)
class Step:
    """One step along a field.

    x: the states at its beginning, [B, *sample_shape]. t, end: its times, t < end, in [0, 1].
    """

    field: Field
    x: Tensor
    t: float
    end: float

    @property
    def width(self) -> float:
        """How long it takes."""
        return self.end - self.t


# takes a step; returns the states at its end and, at least where the second argument is true, the denoiser at its start
Advance = Callable[[Step, bool], tuple[Tensor, Tensor | None]]


def to_data(step: Step, with_denoiser: bool) -> tuple[Tensor, Tensor | None]:
    """Return the denoiser as the states at t = 1, where no velocity is evaluated."""
    denoiser = step.field.denoiser(step.x, step.t)
    return denoiser, denoiser


def _euler(step: Step, with_denoiser: bool) -> tuple[Tensor, Tensor | None]:
    velocity = step.field.velocity(step.x, step.t)
    return step.x + step.width * velocity, _denoiser(step, velocity) if with_denoiser else None


def _heun(step: Step, with_denoiser: bool) -> tuple[Tensor, Tensor | None]:
    first = step.field.velocity(step.x, step.t)
    second = step.field.velocity(step.x + step.width * first, step.end)
    reached = step.x + 0.5 * step.width * (first + second)
    return reached, _denoiser(step, first) if with_denoiser else None


def _ddim(step: Step, with_denoiser: bool) -> tuple[Tensor, Tensor | None]:
    """Take a step that is exact wherever the denoiser stands still."""
    denoiser = step.field.denoiser(step.x, step.t)
    alpha, sigma, _, _ = path_at(step.field.path, step.t)
    alpha_end, sigma_end, _, _ = path_at(step.field.path, step.end)
    # alpha' xhat + sigma' (x - alpha xhat) / sigma (Song et al. 2021)
    share = sigma_end / sigma
    return share * step.x + (alpha_end - share * alpha) * denoiser, denoiser


def _denoiser(step: Step, velocity: Tensor) -> Tensor:
    # where a path stands still the velocity determines no denoiser, but an engine has it
    if isinstance(step.field.source, Oracle) and path_at(step.field.path, step.t)[2:] == (0.0, 0.0):
        return step.field.denoiser(step.x, step.t)
    return denoiser_from(velocity, step.x, step.t, step.field.path)


# the methods of `sample` by name
METHODS: Mapping[str, Advance] = MappingProxyType(dict(zip(METHOD_NAMES, (_euler, _heun, _ddim), strict=True)))
