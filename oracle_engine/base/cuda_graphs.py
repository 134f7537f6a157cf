"""Checks of values, which have to be skipped while a CUDA graph records work: values exist only at replay."""

from __future__ import annotations

import torch

from .arrays import Bool, Tensor


def capturing() -> bool:
    """Return whether the current CUDA stream is being captured into a graph."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def holds(condition: Bool[Tensor, "..."]) -> bool:
    """Return whether all of `condition` is true, or True without reading it while a graph is captured.

    condition: bool, any shape and device. Outside a capture the host waits for the device once.
    """
    return capturing() or bool(condition.all())
