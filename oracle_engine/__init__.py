"""Exact oracle velocities of flow matching over finite data sets."""

from .base.errors import DataFileError, InputError, MissingDependencyError, OracleError
from .base.settings import __version__
from .data.dataset import OracleDataset, ValueMap
from .data.load import load_dataset
from .engine.engine import OracleEngine
from .paths.paths import EDM, GVP, VP, LinearVP, Path, Polynomial, RectifiedFlow
from .queries.modes import Budget, TopK
from .queries.posterior import Posterior
from .queries.request import Guidance
from .science.transition import stage_boundary
from .training.estimates import Exact, Flip, PosteriorDraw, References
from .training.losses import LossPart, LossTerms, OracleLoss, oracle_loss
from .training.posterior_draws import posterior_draw
from .training.prefetch import prefetched
from .training.targets import OracleTarget, conditional_target, drop_labels, path_sample

__all__ = [
    "EDM",
    "GVP",
    "VP",
    "Budget",
    "DataFileError",
    "Exact",
    "Flip",
    "Guidance",
    "InputError",
    "LinearVP",
    "LossPart",
    "LossTerms",
    "MissingDependencyError",
    "OracleDataset",
    "OracleEngine",
    "OracleError",
    "OracleLoss",
    "OracleTarget",
    "Path",
    "Polynomial",
    "Posterior",
    "PosteriorDraw",
    "RectifiedFlow",
    "References",
    "TopK",
    "ValueMap",
    "__version__",
    "conditional_target",
    "drop_labels",
    "load_dataset",
    "oracle_loss",
    "path_sample",
    "posterior_draw",
    "prefetched",
    "stage_boundary",
]
