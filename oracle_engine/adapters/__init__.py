"""The oracle in the call shapes of other libraries; none of them is imported, let alone required."""

from .conventions import CONVENTIONS, Convention, VelocityModel
from .denoisers import DDPMDenoiser, EDMDenoiser, SmallDiffusionModel
from .diffusers import DiffusersTransformer, TransformerOutput, scheduler_times
from .matching import MatcherPath, OracleMatcher, matcher_path, with_oracle
from .ode import ODEFunction, SolverModel

__all__ = [
    "CONVENTIONS",
    "Convention",
    "DDPMDenoiser",
    "DiffusersTransformer",
    "EDMDenoiser",
    "MatcherPath",
    "ODEFunction",
    "OracleMatcher",
    "SmallDiffusionModel",
    "SolverModel",
    "TransformerOutput",
    "VelocityModel",
    "matcher_path",
    "scheduler_times",
    "with_oracle",
]
