"""The implementations that a scan can run on: what computes a state, and what memory it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from ..base.errors import invalid
from ..base.settings import Settings
from ..kernels import (
    PosteriorState,
    Rows,
    Work,
    gpu_memory,
    gpu_state,
    native_library,
    native_memory,
    native_state,
    posterior_state,
    reference_memory,
    reference_state,
    scan_memory,
)

# what computes the state of a span of rows
ScanState = Callable[[Work], PosteriorState]


@dataclass(frozen=True)
class Backend:
    """What computes states in full precision, what memory that needs for a batch, and what computes them in half."""

    state: ScanState
    memory: Callable[[Rows, int], int]
    half: ScanState | None = None

    def run(self, precision: str) -> ScanState:
        """Return what computes states in `precision`."""
        return self.half if precision == "half" and self.half is not None else self.state


BACKENDS = {
    "native": Backend(native_state, native_memory),
    "torch": Backend(posterior_state, scan_memory),
    "reference": Backend(reference_state, reference_memory),
    "triton": Backend(gpu_state, gpu_memory, partial(gpu_state, half=True)),
}


def resolve_precision(precision: str, backend: str) -> str:
    """Return `precision` where the backend has it. Raises InputError."""
    if precision not in ("full", "half"):
        raise invalid("precision", "must be full or half", repr(precision), "use 'full'")
    if precision == "half" and BACKENDS[backend].half is None:
        remedy = "pass backend='triton', or precision='full'"
        raise invalid("precision", "can be half with the Triton kernels only", f"backend {backend!r}", remedy)
    return precision


def resolve_backend(backend: str, device: torch.device) -> tuple[str, str]:
    """Return the backend that `backend` stands for on `device`, and why it is that one. Raises InputError."""
    chosen, source = backend, "asked for"
    if backend == "auto":
        chosen, source = Settings.read().backend, "set by ORACLE_BACKEND"
    if chosen == "auto":
        return _best(device)
    if chosen not in BACKENDS:
        raise invalid("backend", f"must be auto, {', '.join(BACKENDS)}", repr(chosen), "use 'auto'")
    if chosen == "native" and _best(device)[0] != "native":
        raise invalid("backend", "can be native where these kernels run", _best(device)[1], "use 'auto'")
    return chosen, f"backend {chosen} was {source}"


def _best(device: torch.device) -> tuple[str, str]:
    if device.type != "cpu":
        return "torch", "the torch backend runs on every device"
    found = native_library()
    if found.library is None:
        return "torch", f"the torch backend runs on every device; {found.reason}"
    return "native", found.reason
