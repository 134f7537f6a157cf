"""ODE samplers for the oracle, for models, and for runs that change from one to the other."""

from ..paths.time_grids import sampling_times, shift_for, shifted
from .fields import Switch, Velocity
from .runs import Capture, Run, initial_noise, noised, sample
from .steps import METHODS

__all__ = [
    "METHODS",
    "Capture",
    "Run",
    "Switch",
    "Velocity",
    "initial_noise",
    "noised",
    "sample",
    "sampling_times",
    "shift_for",
    "shifted",
]
