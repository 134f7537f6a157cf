"""What an engine can answer while a CUDA graph records it: all that takes no look at a value."""

from __future__ import annotations

from .errors import InputError, invalid
from .modes import Auto, FullScan, Mode
from .request import Conditions


def check_recordable(name: str, backend: str, mode: Mode, given: Conditions, weighted: bool, derivative: bool) -> None:
    """Raise InputError where what is called `name` takes steps that depend on values, which a graph cannot record."""
    if name in ("posterior", "trajectory"):
        raise _refused(name, f"a {name}", "ask for it outside of the graph")
    if backend != "triton":
        raise _refused("backend", repr(backend), "pass backend='triton'")
    if not isinstance(mode, FullScan | Auto):
        raise _refused("mode", repr(mode), "pass mode='exact'")
    if derivative:
        raise _refused("x", "queries that want a gradient", "pass x.detach(), or call under torch.no_grad()")
    if given.guidance is not None:
        raise _refused("guidance", "guidance", "record velocities with and without labels, and mix them")
    if weighted and name == "log_density" and (given.labels is not None or given.exclude is not None):
        raise _refused("labels", "the density of some of the weighted samples", "ask for it outside of the graph")


def _refused(parameter: str, received: str, remedy: str) -> InputError:
    return invalid(parameter, "must not need a look at values while a CUDA graph is captured", received, remedy)
