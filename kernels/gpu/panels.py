"""Tiles of queries that have rows of their own: the segments of a batch by classes, found on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...base.arrays import Int64, Shaped, Tensor


@dataclass(frozen=True)
class Panels:
    """Queries sorted by the rows they are about, in tiles of queries with the same rows.

    table: [U, 4] int32: of every tile its first query and the one after the last, its first row and the one after the
    last, all zero for tiles that are not needed. columns: [P] int32, which column of the tiles, [U b], each query has.
    height: the most rows of a tile.
    """

    table: Shaped[Tensor, "U 4"]
    columns: Shaped[Tensor, "P"]
    height: int

    def __len__(self) -> int:
        return self.table.shape[0]

    @classmethod
    def of(cls, spans: Int64[Tensor, "P 2"], block_b: int, height: int) -> Panels:
        """Return the tiles of sorted queries; no synchronisation.

        spans: [P, 2], rows [start, stop) of each query, equal ones beside each other. block_b: queries of a tile.
        height: the most rows of a query, at least 1.
        """
        count, place = len(spans), torch.arange(len(spans), device=spans.device)
        new = torch.ones_like(place, dtype=torch.bool)
        new[1:] = (spans[1:] != spans[:-1]).any(1)
        inside = place - torch.where(new, place, 0).cummax(0).values
        head = inside % block_b == 0
        panel = head.cumsum(0) - 1
        # what heads no tile goes to one place behind the table
        table = torch.zeros(count + 1, 4, dtype=torch.int32, device=spans.device)
        target = torch.where(head, panel, count)
        facts = torch.stack([place, place, *spans.unbind(1)], dim=1).int()
        table.index_copy_(0, target, facts)
        table[:, 1].index_add_(0, panel, torch.ones_like(panel, dtype=torch.int32))
        return cls(table[:count].contiguous(), (panel * block_b + inside % block_b).int(), height)
