"""Exact oracle velocities of flow matching over finite data sets.

`import oracle_engine` imports neither torch nor numpy; each public name imports its module when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .base.errors import DataFileError, DistributedError, InputError, MissingDependencyError, OracleError
from .base.machine.settings import __version__

if TYPE_CHECKING:
    from . import adapters, samplers
    from .data.dataset import OracleDataset
    from .data.latents.latents import Normalisation, load_latents
    from .data.load import load_dataset
    from .data.packs.pack import PackReport, pack
    from .data.values import ValueMap
    from .engine.engine import OracleEngine
    from .engine.on_actors import sharded_on_ray
    from .engine.point_gaussians import PointGaussians
    from .engine.sharded import sharded
    from .engine.tangents import total_derivative
    from .paths.paths import EDM, GVP, VP, LinearVP, Path, Polynomial, RectifiedFlow
    from .queries.conditions import Guidance
    from .queries.modes import Budget, TopK
    from .queries.posterior import Posterior
    from .science.stages.analysis import analyse
    from .science.stages.report import StageReport
    from .science.transition import stage_boundary
    from .training.conditional import conditional_target, drop_labels, path_sample
    from .training.estimates import Exact, Flip, PosteriorDraw
    from .training.loss_terms import LossPart, LossTerms
    from .training.losses import OracleLoss, oracle_loss
    from .training.posterior_draws import posterior_draw
    from .training.prefetch import prefetched
    from .training.references import References
    from .training.targets import OracleTarget

__all__ = [
    "EDM",
    "GVP",
    "VP",
    "Budget",
    "DataFileError",
    "DistributedError",
    "Exact",
    "Flip",
    "Guidance",
    "InputError",
    "LinearVP",
    "LossPart",
    "LossTerms",
    "MissingDependencyError",
    "Normalisation",
    "OracleDataset",
    "OracleEngine",
    "OracleError",
    "OracleLoss",
    "OracleTarget",
    "PackReport",
    "Path",
    "PointGaussians",
    "Polynomial",
    "Posterior",
    "PosteriorDraw",
    "RectifiedFlow",
    "References",
    "StageReport",
    "TopK",
    "ValueMap",
    "__version__",
    "adapters",
    "analyse",
    "conditional_target",
    "drop_labels",
    "load_dataset",
    "load_latents",
    "oracle_loss",
    "pack",
    "path_sample",
    "posterior_draw",
    "prefetched",
    "samplers",
    "sharded",
    "sharded_on_ray",
    "stage_boundary",
    "total_derivative",
]

# the module of each name that is imported on its first use
_MODULES = {
    "Budget": "queries.modes",
    "EDM": "paths.paths",
    "Exact": "training.estimates",
    "Flip": "training.estimates",
    "GVP": "paths.paths",
    "Guidance": "queries.conditions",
    "LinearVP": "paths.paths",
    "LossPart": "training.loss_terms",
    "LossTerms": "training.loss_terms",
    "Normalisation": "data.latents.latents",
    "OracleDataset": "data.dataset",
    "OracleEngine": "engine.engine",
    "OracleLoss": "training.losses",
    "OracleTarget": "training.targets",
    "PackReport": "data.packs.pack",
    "Path": "paths.paths",
    "PointGaussians": "engine.point_gaussians",
    "Polynomial": "paths.paths",
    "Posterior": "queries.posterior",
    "PosteriorDraw": "training.estimates",
    "RectifiedFlow": "paths.paths",
    "References": "training.references",
    "StageReport": "science.stages.report",
    "TopK": "queries.modes",
    "VP": "paths.paths",
    "ValueMap": "data.values",
    "analyse": "science.stages.analysis",
    "conditional_target": "training.conditional",
    "drop_labels": "training.conditional",
    "load_dataset": "data.load",
    "load_latents": "data.latents.latents",
    "oracle_loss": "training.losses",
    "pack": "data.packs.pack",
    "path_sample": "training.conditional",
    "posterior_draw": "training.posterior_draws",
    "prefetched": "training.prefetch",
    "sharded": "engine.sharded",
    "sharded_on_ray": "engine.on_actors",
    "stage_boundary": "science.transition",
    "total_derivative": "engine.tangents",
}
_SUBPACKAGES = (
    "adapters",
    "cli",
    "compare",
    "data",
    "engine",
    "jobs",
    "kernels",
    "paths",
    "queries",
    "samplers",
    "scans",
    "science",
    "search",
    "serving",
    "training",
)


def _load(name: str) -> Any:
    """Return a public name or a subpackage after its import; AttributeError for any other name."""
    if name in _SUBPACKAGES:
        return import_module(f".{name}", __name__)
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    # the next access finds it without this function
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_SUBPACKAGES})


if not TYPE_CHECKING:
    # a type checker that sees this function takes every attribute for known
    __getattr__ = _load
