"""What cannot be looked at while a CUDA graph records work: values, which are there only when it is replayed."""

from __future__ import annotations

import torch

from .arrays import Bool, Tensor


def capturing() -> bool:
    """Return whether the current CUDA stream is being captured into a graph."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def holds(condition: Bool[Tensor, "..."]) -> bool:
    """Return whether all of `condition` is true, which is taken for granted while a graph is captured."""
    return capturing() or bool(condition.all())
