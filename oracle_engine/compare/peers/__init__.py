"""Other ways to compute the same velocity, each written for speed with the usual tools.

All of them hold the centred samples in floating point and precomputed half norms. Their preparation is not timed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from ...base.machine.environment import environment_report
from .centred import Centred, SideVelocity, UnavailableError
from .class_peers import CLASSES
from .numpy_peers import NUMPY
from .torch_peers import TORCH

__all__ = [
    "CLASSES",
    "NUMPY",
    "PEERS",
    "TORCH",
    "Centred",
    "SideVelocity",
    "UnavailableError",
    "build_peer",
    "default_peers",
]

PEERS: Mapping[str, Callable[[Centred], SideVelocity]] = {**TORCH, **NUMPY, **CLASSES}


def default_peers(device: torch.device) -> list[str]:
    """Return the unconditional peers worth timing on `device`; the others run when they are named."""
    names = ["eager", "eager-columns", "eager-transposed", "compiled", "compiled-columns", "sdpa", "keops"]
    if device.type == "cuda":
        return [*names, "bf16", "tf32"]
    # without matrix units a bf16 product is done in software, a hundred times slower than float32
    fast = {"AMX", "AVX512-BF16"} & set(environment_report()["cpu"]["matrix_units"])
    return [*names, *NUMPY, *(["bf16"] if fast else [])]


def build_peer(name: str, data: Centred) -> SideVelocity:
    """Return the velocity of the peer `name`, a key of PEERS, computed in the dtype of `data`.

    Raises UnavailableError where it cannot run.
    """
    return PEERS[name](data)
