"""Workloads to time: batches of queries at a time, from samples of a data set or held out of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from ..data.dataset import OracleDataset

BATCHES = (1, 16, 64, 256)
TIMES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)

# range of the times of a training batch; nearer the ends a single query would decide the error of the whole batch
MIXED_TIMES = (0.02, 0.98)

# what queries are made from: samples of the data, the same asked about their class, samples that the data do not hold
TRAINING, LABELLED, HELD = "training", "labelled", "held-out"


@dataclass(frozen=True)
class Batch:
    """Queries x [B, *shape] float32 at t, a float or [B] float64.

    source: the index in the data of the sample behind each query, or None. labels: the class that each asks about, or
    None.
    """

    x: Tensor
    t: Tensor | float
    source: Tensor | None = None
    labels: Tensor | None = None

    @property
    def times(self) -> Tensor:
        """The time of every query, [B] float64."""
        return torch.as_tensor(self.t, dtype=torch.float64, device=self.x.device).expand(len(self.x))

    @property
    def conditions(self) -> dict[str, Tensor]:
        """The keywords that a velocity needs beside x and t."""
        return {} if self.labels is None else {"labels": self.labels}

    def __getitem__(self, part: slice) -> Batch:
        """Return some of the queries."""
        t = self.t[part] if isinstance(self.t, Tensor) else self.t
        source, labels = (None if of is None else of[part] for of in (self.source, self.labels))
        return Batch(self.x[part], t, source, labels)


@dataclass(frozen=True)
class Workload:
    """A batch of queries x = t X_s + (1 - t) eps over one data set.

    data: samples [N, *shape] in their storage dtype, with their value map.
    batch: number of queries, B.
    t: one time for the batch, as in a sampler; None draws one for each query, as in training.
    kind: TRAINING, LABELLED or HELD. held: the samples that HELD queries are made from, [n, *shape] in value space.
    seed: of the drawn samples, the noise and the times.
    """

    data: OracleDataset
    batch: int
    t: float | None
    kind: str = TRAINING
    held: Tensor | None = None
    seed: int = 0

    @property
    def time_label(self) -> str:
        """The time as options and tables write it."""
        return "mixed" if self.t is None else f"{self.t:g}"

    def draw(self) -> Batch:
        """Return the queries, on the device of the data."""
        generator, device = torch.Generator().manual_seed(self.seed), self.data.device
        low, high = MIXED_TIMES
        drawn = low + (high - low) * torch.rand(self.batch, dtype=torch.float64, generator=generator)
        origin = self.data if self.held is None else self.held
        source = torch.randint(len(origin), (self.batch,), generator=generator)
        noise = torch.randn(self.batch, *self.data.sample_shape, dtype=torch.float64, generator=generator)
        t = drawn if self.t is None else torch.full_like(drawn, self.t)
        time = t.reshape(-1, *[1] * len(self.data.sample_shape))
        x = (time * origin[source].cpu() + (1 - time) * noise).float().to(device)
        asked = self.data.labels if self.kind == LABELLED else None
        return Batch(
            x,
            t.to(device) if self.t is None else self.t,
            None if self.held is not None else source,
            None if asked is None else asked[source.to(device)],
        )


def workloads(
    data: OracleDataset, batches: Sequence[int], times: Sequence[float | None], kind: str = TRAINING
) -> Iterator[Workload]:
    """Yield every batch size at every time."""
    for batch, t in product(batches, times):
        yield Workload(data, batch, t, kind)
