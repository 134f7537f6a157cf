"""What an engine can answer while a CUDA graph records it: all that takes no look at a value."""

from __future__ import annotations

from ..base.errors import InputError, invalid
from ..queries.modes import Auto, FullScan, Mode
from ..queries.request import Conditions

# for each parameter that can stand in the way: what was received, and the remedy
OUTSIDE = "ask for it outside of the graph"
OBSTACLES = {
    "posterior": ("a posterior", OUTSIDE),
    "trajectory": ("a trajectory", OUTSIDE),
    "x": ("queries that want a gradient", "pass x.detach(), or call under torch.no_grad()"),
    "backend": ("one that does", "pass backend='triton'"),
    "mode": ("a mode that searches or draws", "pass mode='exact'"),
    "estimate": ("draws, or mirrored samples", "use Exact() without an augmentation"),
    "guidance": ("guidance", "record velocities with and without labels, and mix them"),
    "labels": ("the density of some of the weighted samples", OUTSIDE),
}


def obstacle(name: str, backend: str, mode: Mode, given: Conditions, weighted: bool) -> str | None:
    """Return what keeps a graph from recording what is called `name`, a key of OBSTACLES, or None."""
    some = given.labels is not None or given.exclude is not None
    if name in ("posterior", "trajectory"):
        return name
    if backend != "triton":
        return "backend"
    if not isinstance(mode, FullScan | Auto):
        return "mode"
    if given.guidance is not None:
        return "guidance"
    return "labels" if weighted and some and name == "log_density" else None


def unrecordable(parameter: str) -> InputError:
    """Word why a graph cannot record an answer."""
    return invalid(parameter, "must not need a look at values while a CUDA graph is captured", *OBSTACLES[parameter])
