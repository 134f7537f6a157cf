"""A late batch is one call of the native library, with little around it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from closed_form import clusters
from late_cases import eager
from torch.utils._python_dispatch import TorchDispatchMode

from oracle_engine import OracleDataset, OracleEngine
from oracle_engine.kernels import native_library
from oracle_engine.kernels.native import means, pairs, screens, search, views

# operations of torch around a batch, whatever its size: checks, the certificate, and what is kept of it
MOST_OPERATIONS = 140


class Counted(TorchDispatchMode):
    """Counts operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(native_library().library is None, reason=native_library().reason)
def test_a_late_batch_is_one_search(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    data = OracleDataset(clusters(600, 96, generator).float())
    engine = eager(OracleEngine(data).prepare("pca"))
    x = 0.9 * data[:40] + 0.1 * torch.randn(40, 96, generator=generator)
    names: Counter[str] = Counter()

    def counted(name: str, *arguments: Any) -> None:
        names[name] += 1
        views.called(name, *arguments)

    for module in (search, pairs, screens, means):
        monkeypatch.setattr(module, "called", counted)
    assert set(engine.posterior(x, 0.9, top_k=0).route) == {"screen"}
    names.clear()
    with Counted() as operations:
        engine.velocity(x, 0.9)
    assert names == {"oracle_search": 1, "oracle_combined_norms": 1, "oracle_combine": 1}
    assert operations.count <= MOST_OPERATIONS
