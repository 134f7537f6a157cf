"""What re-scoring by direct difference costs: the engine with that step left out, and less accurate for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from oracle_engine.kernels.common.rounding import Windows, windows
from oracle_engine.kernels.portable import scan as chunked

from .peers import UnavailableError, Velocity


def without_rescoring(velocity: Velocity) -> Velocity:
    """Return the engine's `velocity` from coarse logits alone; UnavailableError if the step goes by another name."""
    if not hasattr(chunked, "windows"):
        raise UnavailableError("the engine decides elsewhere what it scores again")

    def nowhere(*arguments: Any) -> Windows:
        found = windows(*arguments)
        return replace(found, rescore=torch.full_like(found.rescore, -torch.inf))

    def coarse(x: Tensor, t: Tensor | float) -> Tensor:
        with patch.object(chunked, "windows", nowhere):
            return velocity(x, t)

    return coarse
