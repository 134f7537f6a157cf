"""Checks of values, which have to be skipped while a CUDA graph records work or code is traced: there are none yet."""

from __future__ import annotations

import torch

from ..arrays import Bool, Tensor
from .transforms import unreadable


def capturing() -> bool:
    """Return whether the current CUDA stream is being captured into a graph."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def holds(condition: Bool[Tensor, "..."]) -> bool:
    """Return whether all of `condition` is true, or True where it cannot be read.

    condition: bool, any shape and device. It is not read while a graph is captured or code traced, nor inside of vmap;
    else the host waits for the device once.
    """
    return unreadable(condition) or capturing() or bool(condition.all())
