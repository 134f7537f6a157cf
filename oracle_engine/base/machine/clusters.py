"""Ray, which finds machines of a cluster for what is to run there; it is imported where it is first needed."""

from __future__ import annotations

import os
from typing import Any

from ..errors import missing


def require_ray(feature: str) -> Any:
    """Return the module ray. Raises MissingDependencyError, which names `feature`, where it is not installed."""
    # what is computed here is nobody else's concern
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise missing("ray", feature, "ray") from error
    return ray


def connect(ray: Any) -> bool:
    """Connect to the cluster that RAY_ADDRESS names, or to one of this machine; return whether none was before."""
    mine = not ray.is_initialized()
    if mine:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    return mine


def result_of(ray: Any, reference: Any) -> Any:
    """Return what a task of Ray returned, or raise what it raised, as it raised it."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause: BaseException = error.cause
        raise cause from None
