"""Diffusers: a transformer as FlowMatchEulerDiscreteScheduler steps it, and the times of that scheduler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..base.arrays import Float, Float64, Tensor
from ..base.errors import invalid
from ..engine.engine import OracleEngine
from ..queries.request import Guidance
from .conventions import Convention, VelocityModel


@dataclass(frozen=True, eq=False)
class TransformerOutput:
    """What a transformer returns unless it is asked for a tuple: noise - data in `sample`, like the hidden states."""

    sample: Float[Tensor, "B ..."]


class DiffusersTransformer:
    """The oracle as transformer(hidden_states, timestep): timestep = `steps` s, s = 1 noise, output noise - data.

    engine: on rectified_flow, which these schedulers step. steps: num_train_timesteps of the scheduler.
    check_time: as in VelocityModel. Raises InputError as OracleEngine.velocity does, also at timestep 0.
    """

    def __init__(self, engine: OracleEngine, *, steps: float = 1000.0, check_time: bool = True) -> None:
        self.model = VelocityModel(engine, Convention(from_data=True, steps=steps), check_time=check_time)

    def __call__(
        self,
        hidden_states: Float[Tensor, "B ..."],
        timestep: int | float | Tensor,
        class_labels: int | Tensor | None = None,
        *,
        guidance: float | Tensor | Guidance | None = None,
        return_dict: bool = True,
    ) -> TransformerOutput | tuple[Float[Tensor, "B ..."]]:
        """Return the prediction as `.sample`, or as a tuple of one where `return_dict` is False."""
        sample = self.model(hidden_states, timestep, class_labels, guidance)
        return TransformerOutput(sample) if return_dict else (sample,)


def scheduler_times(scheduler: Any) -> Float64[Tensor, "T"]:
    """Return the grid of a scheduler, after its set_timesteps, as times for `samplers.sample`: 1 - sigma, float64.

    scheduler: with `sigmas` in [0, 1], such as FlowMatchEulerDiscreteScheduler. Its shift is in them: sigma shifted by
    s is t shifted by 1 / s. Raises InputError for sigmas outside [0, 1], which belong to another path.
    """
    sigmas = torch.as_tensor(scheduler.sigmas).detach().double().cpu()
    if not bool(((sigmas >= 0) & (sigmas <= 1)).all()):
        remedy = "EDM and k-diffusion schedules go with adapters.EDMDenoiser"
        raise invalid("scheduler", "must have sigmas in [0, 1]", f"sigmas up to {float(sigmas.max()):.3g}", remedy)
    inverted = bool(getattr(getattr(scheduler, "config", None), "invert_sigmas", False))
    return sigmas if inverted else 1.0 - sigmas
