"""The oracle as a transformer of diffusers, and the times of its FlowMatchEulerDiscreteScheduler."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..base.arrays import Float64, Tensor, exact
from ..base.errors import invalid
from ..engine.oracle import Oracle
from .conventions import CONVENTIONS
from .velocity_model import VelocityModel


class DiffusersTransformer(VelocityModel):
    """The oracle as transformer(hidden_states, timestep): timestep = `steps` s, s = 1 noise, output noise - data.

    engine: on rectified_flow, which these schedulers step.
    steps: num_train_timesteps of the scheduler, a positive number; 1 for FLUX, whose pipelines pass timestep / 1000.
    check_time: whether to refuse states that are unmistakably as noisy as at the mirrored time.
    null_label: what `class_labels` say where there is no class; None where they have -1 for it.
    ignore_conditions: whether encoder_hidden_states and pooled_projections are ignored even where no class is named.
    Raises InputError for `steps` that are not positive and for an engine that is none.

    Called as VelocityModel with hidden_states, timestep and class_labels, in this order or by name, and return_dict; a
    guidance of FLUX is that of the engine and needs class labels. There is no answer at timestep 0.

    >>> import torch, oracle_engine as oe
    >>> from oracle_engine import adapters
    >>> transformer = adapters.DiffusersTransformer(oe.OracleEngine(oe.load_dataset("digits")))
    >>> transformer(hidden_states=torch.randn(2, 1, 8, 8), timestep=900, return_dict=False)[0].shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        engine: Oracle,
        *,
        steps: float = 1000.0,
        check_time: bool = True,
        null_label: int | None = None,
        ignore_conditions: bool = False,
    ) -> None:
        convention = replace(CONVENTIONS["diffusers"], steps=steps)
        options = {"check_time": check_time, "null_label": null_label, "ignore_conditions": ignore_conditions}
        super().__init__(engine, convention, **options)  # type: ignore[arg-type]


def scheduler_times(scheduler: Any) -> Float64[Tensor, "T"]:
    """Return the grid of a scheduler, after its set_timesteps, as times for `samplers.sample`.

    scheduler: with `sigmas` in [0, 1], such as FlowMatchEulerDiscreteScheduler. Its shift is in them: sigma shifted by
        s is t shifted by 1 / s.
    Returns 1 - sigma, [S + 1] float64 on the CPU, or sigma itself where the scheduler inverts its sigmas.
    Raises InputError for sigmas outside [0, 1], which belong to another path.
    """
    sigmas = exact(scheduler.sigmas).cpu()
    if not bool(((sigmas >= 0) & (sigmas <= 1)).all()):
        remedy = "EDM and k-diffusion schedules go with adapters.EDMDenoiser"
        raise invalid("scheduler", "must have sigmas in [0, 1]", f"sigmas up to {float(sigmas.max()):.3g}", remedy)
    inverted = bool(getattr(getattr(scheduler, "config", None), "invert_sigmas", False))
    return sigmas if inverted else 1.0 - sigmas
