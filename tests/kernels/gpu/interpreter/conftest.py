"""What every check in the interpreter can use: poisoned memory, and counted launches.

Triton is not imported here: the other tests load this file too, in a process without the interpreter.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what the kernels allocate with values that show up in any result they reach."""
    allocate = torch.Tensor.new_empty

    def new_empty(self: Tensor, *size: Any, **options: Any) -> Tensor:
        fresh = allocate(self, *size, **options)
        if fresh.is_floating_point():
            return fresh.fill_(torch.nan)
        return fresh.fill_(torch.iinfo(fresh.dtype).max // 2)

    monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the launches of the scan, by name."""
    from oracle_engine.kernels.gpu.scans import scan as triton_scan

    calls: Counter[str] = Counter()

    def count(name: str) -> None:
        call = getattr(triton_scan, name)

        def counting(*values: Any, **options: Any) -> Any:
            calls[name] += 1
            return call(*values, **options)

        monkeypatch.setattr(triton_scan, name, counting)

    for name in ("score", "score_digits", "weigh", "fused"):
        count(name)
    return calls
