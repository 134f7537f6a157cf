"""Exact oracle velocities of flow matching over finite data sets."""

from .dataset import OracleDataset, ValueMap
from .engine import OracleEngine
from .env import __version__
from .errors import DataFileError, InputError, MissingDependencyError, OracleError
from .modes import Auto, Budget, Exact, TopK
from .paths import EDM, GVP, VP, LinearVP, Path, Polynomial, RectifiedFlow
from .posterior import Posterior
from .request import Guidance
from .sources import load_dataset

__all__ = [
    "EDM",
    "GVP",
    "VP",
    "Auto",
    "Budget",
    "DataFileError",
    "Exact",
    "Guidance",
    "InputError",
    "LinearVP",
    "MissingDependencyError",
    "OracleDataset",
    "OracleEngine",
    "OracleError",
    "Path",
    "Polynomial",
    "Posterior",
    "RectifiedFlow",
    "TopK",
    "ValueMap",
    "__version__",
    "load_dataset",
]
