"""The oracle in the call shapes of other libraries; none of them is imported, let alone required."""

from .conventions import CONVENTIONS, Convention, TransformerOutput
from .ddpm import DDPMDenoiser
from .diffusers import DiffusersTransformer, scheduler_times
from .edm import EDMDenoiser
from .matching import MatcherPath, OracleMatcher, matcher_path, with_oracle
from .ode import ODEFunction, SolverModel
from .smalldiffusion import SmallDiffusionModel
from .velocity_model import VelocityModel

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
