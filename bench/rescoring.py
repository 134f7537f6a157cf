"""What re-scoring by direct difference costs: the engine with that step left out, and less accurate for it."""

from __future__ import annotations

from unittest.mock import patch

import torch
from torch import Tensor

from oracle_engine.kernels import chunked

from .peers import UnavailableError, Velocity


def without_rescoring(velocity: Velocity) -> Velocity:
    """Return the engine's `velocity` from coarse logits alone; UnavailableError if the step goes by another name."""
    if not hasattr(chunked, "rescore_window"):
        raise UnavailableError("the engine decides elsewhere what it scores again")

    def nowhere(live: Tensor, *_: object) -> Tensor:
        return torch.full_like(live, -torch.inf)

    def coarse(x: Tensor, t: Tensor | float) -> Tensor:
        with patch.object(chunked, "rescore_window", nowhere):
            return velocity(x, t)

    return coarse
