"""The oracle as a transformer of diffusers, and the times of its FlowMatchEulerDiscreteScheduler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..base.arrays import Float, Float64, Tensor
from ..base.errors import invalid
from ..engine.engine import OracleEngine
from ..queries.conditions import Guidance
from .conventions import Convention, VelocityModel


@dataclass(frozen=True, eq=False)
class TransformerOutput:
    """The output of a transformer of diffusers.

    sample: noise - data, [B, *sample_shape] in the dtype of the hidden states.
    """

    sample: Float[Tensor, "B ..."]


class DiffusersTransformer:
    """The oracle as transformer(hidden_states, timestep): timestep = `steps` s, s = 1 noise, output noise - data.

    engine: on rectified_flow, which these schedulers step.
    steps: num_train_timesteps of the scheduler, a positive number.
    check_time: whether to refuse states that are unmistakably as noisy as at the mirrored time.
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
        """Return the prediction noise - data, like the hidden states.

        hidden_states: noised samples, [B, *sample_shape], any floating dtype, on the device of the data.
        timestep: a number, [] or [B] in (0, steps].
        class_labels: classes, an integer or [B], -1 for none, or None.
        guidance: as in OracleEngine.velocity, a number, [B], or a Guidance, whose interval is in engine times.
        return_dict: whether to return a TransformerOutput, or a tuple of one tensor.
        Returns [B, *sample_shape] in the dtype of `hidden_states`, as `.sample` or in the tuple.
        Raises InputError as VelocityModel does, also at timestep 0, where no noise is left. Costs one velocity.
        """
        sample = self.model(hidden_states, timestep, class_labels, guidance=guidance)
        return TransformerOutput(sample) if return_dict else (sample,)


def scheduler_times(scheduler: Any) -> Float64[Tensor, "T"]:
    """Return the grid of a scheduler, after its set_timesteps, as times for `samplers.sample`.

    scheduler: with `sigmas` in [0, 1], such as FlowMatchEulerDiscreteScheduler. Its shift is in them: sigma shifted by
        s is t shifted by 1 / s.
    Returns 1 - sigma, [S + 1] float64 on the CPU, or sigma itself where the scheduler inverts its sigmas.
    Raises InputError for sigmas outside [0, 1], which belong to another path.
    """
    sigmas = torch.as_tensor(scheduler.sigmas).detach().double().cpu()
    if not bool(((sigmas >= 0) & (sigmas <= 1)).all()):
        remedy = "EDM and k-diffusion schedules go with adapters.EDMDenoiser"
        raise invalid("scheduler", "must have sigmas in [0, 1]", f"sigmas up to {float(sigmas.max()):.3g}", remedy)
    inverted = bool(getattr(getattr(scheduler, "config", None), "invert_sigmas", False))
    return sigmas if inverted else 1.0 - sigmas
