"""A data set of which some samples are held out, to make queries from that it does not hold."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from oracle_engine import OracleDataset
from oracle_engine.compare.workloads import HELD, Workload

from ..data import load_data

# samples that queries are made from and that the data set does not hold
HELD_OUT = 512


@dataclass(frozen=True)
class Split:
    """A data set and samples of the same kind that are not in it, `held` [512, *shape] in value space."""

    data: OracleDataset
    held: Tensor

    @classmethod
    def load(cls, name: str, count: int) -> Split:
        """Return at most `count` samples of a set, see `load_data`, without labels, and the held-out ones; seeded."""
        full = load_data(name, count + HELD_OUT)
        order = torch.randperm(len(full), generator=torch.Generator().manual_seed(0))[: count + HELD_OUT]
        kept = full.rows.stored[order[HELD_OUT:]].reshape(-1, *full.sample_shape)
        data = OracleDataset(kept, value_map=full.value_map, name=full.name)
        # positions are those of the rows, which are sorted by label
        return cls(data, full.sample_values(order[:HELD_OUT]))

    def workload(self, kind: str, batch: int, t: float | None) -> Workload:
        """Return queries of this kind, HELD or TRAINING."""
        return Workload(self.data, batch, t, kind, self.held if kind == HELD else None)
