"""The samples that a scan leaves to rescoring."""

from __future__ import annotations

import torch

from ...base.arrays import Bool, Tensor
from ..common.rescore import Pairs


class RescoreCollector:
    """The samples of each query that are to be rescored, up to a limit beyond which the query has overflowed."""

    def __init__(self, batch: int, limit: int, device: torch.device) -> None:
        """Start an empty list of at most `limit` samples for each of `batch` queries."""
        self.limit, self._found = limit, [Pairs.none(device)]
        self.count = torch.zeros(batch, dtype=torch.int64, device=device)

    @property
    def overflowed(self) -> Bool[Tensor, "B"]:
        """Which queries have more samples listed than are rescored one by one, [B]."""
        return self.count > self.limit

    def add(self, pairs: Pairs) -> None:
        """List these samples."""
        if len(pairs):
            self._found.append(pairs)
            self.count += torch.bincount(pairs.query, minlength=len(self.count))

    def pairs(self) -> Pairs:
        """Return all samples listed, those of overflowed queries among them."""
        return Pairs.joined(self._found)
