"""Exact oracle velocities of flow matching over finite data sets."""

from .dataset import OracleDataset, ValueMap
from .draws import posterior_draw
from .engine import OracleEngine
from .env import __version__
from .errors import DataFileError, InputError, MissingDependencyError, OracleError
from .estimates import Exact, Flip, PosteriorDraw, References
from .losses import LossPart, LossTerms, OracleLoss, oracle_loss, stage_boundary
from .modes import Budget, TopK
from .paths import EDM, GVP, VP, LinearVP, Path, Polynomial, RectifiedFlow
from .posterior import Posterior
from .prefetch import prefetched
from .request import Guidance
from .sources import load_dataset
from .targets import OracleTarget, conditional_target, drop_labels, path_sample

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
