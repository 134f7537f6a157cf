"""How rows are dealt to shards: every class in equal runs, so that each shard holds a part of every class."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from ..base.arrays import Int64, Tensor


@dataclass(frozen=True, eq=False)
class Deal:
    """Which of the rows, sorted by class, each of S shards holds.

    edges: [C, S + 1] int64; of class c shard s holds the rows edges[c, s] .. edges[c, s + 1] - 1, after those of the
        classes before. Samples without a class are one more class; without labels all samples are one.
    """

    edges: Int64[Tensor, "C E"]

    @classmethod
    def of(cls, count: int, sorted_labels: Int64[Tensor, "N"] | None, shards: int) -> Deal:
        """Return the deal of `count` rows with these labels, [N], or None, to `shards`, at least 1.

        Runs of a class differ by one row at most, and what is left over goes to other shards for other classes.
        """
        counts = torch.tensor([count])
        if sorted_labels is not None:
            counts = sorted_labels.unique_consecutive(return_counts=True)[1].cpu()
        starts = counts.cumsum(0) - counts
        share = counts[:, None] * torch.arange(shards + 1) + (starts % shards)[:, None]
        return cls(starts[:, None] + share // shards)

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return self.edges.shape[1] - 1

    @cached_property
    def _places(self) -> Int64[Tensor, "C S"]:
        """The first row within each shard of each class."""
        sizes = self.edges.diff(dim=1)
        return sizes.cumsum(0) - sizes

    def runs(self, shard: int) -> list[tuple[int, int]]:
        """Return the runs [start, stop) of rows of a shard that are not empty, in rising order; neighbours are one."""
        runs: list[tuple[int, int]] = []
        for start, stop in self.edges[:, shard : shard + 2].tolist():
            if runs and runs[-1][1] == start < stop:
                runs[-1] = (runs[-1][0], stop)
            elif start < stop:
                runs.append((start, stop))
        return runs

    def find(self, row: Int64[Tensor, "..."]) -> tuple[Int64[Tensor, "..."], Int64[Tensor, "..."]]:
        """Return the shards of rows, in any shape, and their places in these; -1 stands for no row and stays -1."""
        flat = self.edges[:, :-1].reshape(-1).contiguous().to(row.device)
        # of runs that begin at the same row all but the last are empty
        run = torch.searchsorted(flat, row.clamp_min(0).contiguous(), right=True) - 1
        place = self._places.reshape(-1).to(row.device)[run] + row - flat[run]
        return torch.where(row < 0, -1, run % self.shards), torch.where(row < 0, -1, place)

    def rows_of(self, shard: int, place: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
        """Return the rows at the places `place` of a shard, in any shape; -1 stands for none and stays -1."""
        places, edges = (part[:, shard].contiguous().to(place.device) for part in (self._places, self.edges))
        run = torch.searchsorted(places, place.clamp_min(0).contiguous(), right=True) - 1
        return torch.where(place < 0, -1, edges[run] + place - places[run])
