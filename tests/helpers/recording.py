"""A CUDA graph being captured, as far as that shows on a machine without one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Waiting(TorchDispatchMode):
    """Notes what a graph cannot record: sizes and values that the host learns, and copies from the host."""

    NAMES = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "bincount",
        "_unique2",
        "unique_dim",
        "unique_consecutive",
        "equal",
        "lift_fresh",
    )

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indexed = name in ("index", "index_put", "index_put_")
        if name in self.NAMES or (indexed and any(part is not None and part.dtype == torch.bool for part in args[1])):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def begin_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have torch say that a graph is being captured."""
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.is_current_stream_capturing", lambda: True)
