"""What an engine can answer while a CUDA graph records it: whatever reads no value on the host."""

from __future__ import annotations

from ..base.errors import InputError, invalid
from ..queries.conditions import Conditions
from ..queries.modes import Auto, FullScan, Mode

# for each parameter that can stand in the way: what was received, and the remedy
OUTSIDE = "ask for it outside of the graph"
OBSTACLES = {
    "posterior": ("a posterior", OUTSIDE),
    "trajectory": ("a trajectory", OUTSIDE),
    "x": ("queries that want a gradient", "pass x.detach(), or call under torch.no_grad()"),
    "backend": ("one that does", "pass backend='triton'"),
    "resident": ("samples that are streamed", "pass resident='all'"),
    "mode": ("a mode that searches or draws", "pass mode='exact'"),
    "estimate": ("draws, or mirrored samples", "use Exact() without an augmentation"),
    "guidance": ("guidance", "record velocities with and without labels, and mix them"),
    "labels": ("the density of some of the weighted samples", OUTSIDE),
}


def obstacle(
    name: str, conditions: Conditions, *, backend: str, mode: Mode, weighted: bool, streams: bool
) -> str | None:
    """Return what keeps a graph from recording an answer, a key of OBSTACLES, or None.

    name: of the answer. conditions: of its queries. backend, mode: of the engine. weighted: whether samples have
    weights. streams: whether they come to the device block by block.
    """
    some = conditions.labels is not None or conditions.exclude is not None
    if name in ("posterior", "trajectory"):
        return name
    if backend != "triton":
        return "backend"
    if streams:
        return "resident"
    if not isinstance(mode, (FullScan, Auto)):
        return "mode"
    if conditions.guidance is not None:
        return "guidance"
    return "labels" if weighted and some and name == "log_density" else None


def unrecordable(parameter: str) -> InputError:
    """Return the error that says why a graph cannot record an answer; `parameter`: a key of OBSTACLES."""
    requirement = "must not need values on the host while a CUDA graph is captured"
    return invalid(parameter, requirement, *OBSTACLES[parameter])
