"""Workloads of the late route: a data set with samples held out of it, and batches of queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from oracle_engine import OracleDataset, load_dataset

# samples that queries are made from and that the data set does not hold
HELD_OUT = 512

# where the queries of a batch come from
HELD, TRAINING = "held-out", "training"


@dataclass(frozen=True)
class Split:
    """A data set and samples of the same kind that are not in it, `held` [512, *shape] in value space."""

    data: OracleDataset
    held: Tensor

    @classmethod
    def load(cls, name: str, count: int) -> Split:
        """Return `count` samples of a built-in set, without labels, and the held-out ones; both seeded."""
        full = load_dataset(name, count=count + HELD_OUT)
        order = torch.randperm(len(full), generator=torch.Generator().manual_seed(0))
        kept = full.rows.stored[order[HELD_OUT:]].reshape(-1, *full.sample_shape)
        data = OracleDataset(kept, value_map=full.value_map, name=full.name)
        # positions are those of the rows, which are sorted by label
        return cls(data, full.sample_values(order[:HELD_OUT]))


@dataclass(frozen=True)
class Batch:
    """Queries x [B, *shape] float32 at t, a float or [B] float64; source: the index in the data of each, or None."""

    x: Tensor
    t: Tensor | float
    source: Tensor | None

    @property
    def times(self) -> Tensor:
        """The time of every query, [B] float64."""
        return torch.as_tensor(self.t, dtype=torch.float64).expand(len(self.x))

    @classmethod
    def draw(cls, split: Split, kind: str, size: int, t: float | None, *, seed: int = 0) -> Batch:
        """Return x = t X + (1 - t) eps; t None draws one in [0, 1) for each query, as in training."""
        generator = torch.Generator().manual_seed(seed)
        times = torch.rand(size, dtype=torch.float64, generator=generator)
        times = times if t is None else torch.full_like(times, t)
        origin = torch.randint(HELD_OUT if kind == HELD else len(split.data), (size,), generator=generator)
        samples = split.held[origin] if kind == HELD else split.data[origin]
        noise = torch.randn(samples.shape, dtype=torch.float64, generator=generator)
        time = times.reshape(-1, *[1] * len(split.data.sample_shape))
        x = (time * samples + (1 - time) * noise).float()
        return cls(x, times if t is None else t, None if kind == HELD else origin)
