"""Workloads to time: data sets in two storage dtypes, batches of training queries, times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from oracle_engine import OracleDataset, load_dataset
from oracle_engine.base.errors import DataFileError

DATA = ("fashion-mnist", "fashion-mnist-fp32", "patches", "patches-fp32")
BATCHES = (1, 16, 64, 256)
TIMES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)

# range of the times of a training batch; nearer the ends a single query would decide the error of the whole batch
MIXED_TIMES = (0.02, 0.98)


@dataclass(frozen=True)
class Workload:
    """A batch of training queries x = t X_s + (1 - t) eps over one data set.

    data: samples [N, *shape] in their storage dtype, with their value map.
    batch: number of queries, B.
    t: one time for the batch, as in a sampler; None draws one for each query, as in training.
    seed: of the drawn samples, the noise and the times.
    """

    data: OracleDataset
    batch: int
    t: float | None
    seed: int = 0

    @property
    def time_label(self) -> str:
        """The time as options and tables write it."""
        return "mixed" if self.t is None else f"{self.t:g}"

    def draw(self) -> tuple[Tensor, Tensor | float]:
        """Return the queries [B, *shape] float32 and their t, a float or [B] float64, on the device of the data."""
        generator = torch.Generator().manual_seed(self.seed)
        low, high = MIXED_TIMES
        drawn = low + (high - low) * torch.rand(self.batch, dtype=torch.float64, generator=generator)
        source = torch.randint(len(self.data), (self.batch,), generator=generator)
        noise = torch.randn(self.batch, *self.data.sample_shape, dtype=torch.float64, generator=generator)
        t = drawn if self.t is None else torch.full_like(drawn, self.t)
        time = t.reshape(-1, *[1] * len(self.data.sample_shape))
        x = (time * self.data[source].cpu() + (1 - time) * noise).float()
        return x.to(self.data.device), t.to(self.data.device) if self.t is None else self.t


def workloads(data: OracleDataset, batches: Sequence[int], times: Sequence[float | None]) -> Iterator[Workload]:
    """Yield every batch size at every time."""
    for batch, t in product(batches, times):
        yield Workload(data, batch, t)


def load_data(name: str) -> OracleDataset:
    """Return a data set by its name in DATA; synthetic images, under another name, replace an absent Fashion-MNIST.

    Raises DataFileError where another set is absent.
    """
    base = name.removesuffix("-fp32")
    if base != name:
        data = load_data(base)
        return OracleDataset(data[:], name=f"{data.name}-fp32")
    try:
        return load_dataset(base)
    except DataFileError:
        if base != "fashion-mnist":
            raise
        return OracleDataset(fashion_shaped(), name="fashion-shaped")


def fashion_shaped(count: int = 60_000, side: int = 28, rank: int = 24, groups: int = 10) -> Tensor:
    """Return synthetic images [count, side, side] uint8 from a seeded mixture of low-rank Gaussians."""
    generator = torch.Generator().manual_seed(0)
    dim = side * side
    centres = 60.0 * torch.randn(groups, dim, generator=generator)
    factors = 80.0 / rank**0.5 * torch.randn(groups, rank, dim, generator=generator)
    parts = [
        centre + torch.randn(count // groups, rank, generator=generator) @ factor
        for centre, factor in zip(centres, factors, strict=True)
    ]
    images = torch.cat(parts)
    images += 4.0 * torch.randn(images.shape, generator=generator)
    return images.add_(127.5).clamp_(0, 255).to(torch.uint8).reshape(-1, side, side)
