"""Methods in use elsewhere, from the formulas of their papers: one that is exact, and estimates from some samples.

Every one is a softmax of -|x - alpha X|^2 / (2 sigma^2) over some samples; they differ in which, and in what they do
with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...base.machine.environment import memory_bytes
from ..workloads import Batch
from .centred import Centred, UnavailableError

# samples of a chunk whose softmax is averaged with those of the others
CHUNK = 512

# samples of a pool of candidates, and of a reference batch with the samples that the queries were made from
POOL = 512

# nearest samples at every noise level
NEAREST = 200

# bytes of differences that are held at once; methods that hold more are said to
HELD = 1 << 30


@dataclass(frozen=True)
class Method:
    """A way to the posterior mean of centred samples.

    data: the samples. rows: of a batch, the rows that its answers are made from, [k] for all queries or [B, k] for
    each; None: all. chunk: samples of a softmax; None: all of the rows in one.
    """

    data: Centred
    rows: Callable[[Batch], Tensor] | None = None
    chunk: int | None = None

    def velocity(self, batch: Batch) -> Tensor:
        """Return the velocity [B, D]."""
        x, alpha = batch.x.flatten(1), batch.times[:, None].float()
        sigma = 1 - alpha
        query = x - alpha * self.data.mean
        mean = self._mean(batch, query, alpha, sigma) + self.data.mean
        return mean - (x - alpha * mean) / sigma

    def candidates(self, batch: Batch) -> Tensor:
        """Return the rows that each query is answered from, [B, k]."""
        rows = torch.arange(len(self.data.samples)) if self.rows is None else self.rows(batch)
        return rows.expand(len(batch.x), -1) if rows.ndim == 1 else rows

    def _mean(self, batch: Batch, query: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the posterior mean of centred queries over the rows of this method."""
        samples = self.data.samples
        if self.rows is None:
            return self._of_all(query, alpha, sigma)
        rows = self.rows(batch)
        if rows.ndim == 1:
            chosen = samples[rows]
            shared: Tensor = _logits(query, chosen, alpha, sigma).softmax(1) @ chosen
            return shared
        chosen = samples[rows]
        logits = -0.5 * (query[:, None] - alpha[:, None] * chosen).square().sum(2) / sigma.square()
        return torch.bmm(logits.softmax(1)[:, None], chosen)[:, 0]

    def _of_all(self, query: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the mean over all rows: from all differences, or from chunks by themselves."""
        if self.chunk is None:
            return torch.cat(list(self._from_differences(query, alpha, sigma)))
        chunks = self.data.samples.split(self.chunk)
        means = [_logits(query, chunk, alpha, sigma).softmax(1) @ chunk for chunk in chunks]
        return torch.stack(means).mean(0)

    def _from_differences(self, query: Tensor, alpha: Tensor, sigma: Tensor) -> Iterator[Tensor]:
        """Yield the means of as many queries at once as HELD has room for."""
        samples = self.data.samples
        step = max(1, HELD // samples.nbytes)
        for start in range(0, len(query), step):
            part = slice(start, start + step)
            difference = query[part, None] - alpha[part, None] * samples
            logits = -0.5 * difference.square_().sum(2) / sigma[part].square()
            yield logits.softmax(1) @ samples


def difference_tensor(data: Centred) -> Method:
    """All differences of queries and samples, a tensor of B N D values; in pieces of queries beyond a GiB.

    Raises UnavailableError where the differences of one query need more than half of the memory.
    """
    held = memory_bytes()
    if held is not None and data.samples.nbytes > held // 2:
        raise UnavailableError(f"the differences of one query need {data.samples.nbytes / 2**30:.1f} GiB")
    return Method(data)


def mean_of_chunks(data: Centred) -> Method:
    """A softmax within each chunk of samples, and the plain mean of their means."""
    return Method(data, chunk=CHUNK)


def random_pool(data: Centred) -> Method:
    """A softmax over a pool of random samples, the same for all queries of a batch."""
    return Method(data, lambda batch: _some(data, POOL))


def fixed_nearest(data: Centred) -> Method:
    """A softmax over the 200 nearest samples, at every time."""

    def nearest(batch: Batch) -> Tensor:
        """Return the nearest samples of every query."""
        alpha = batch.times[:, None].float()
        query = batch.x.flatten(1) - alpha * data.mean
        scores = torch.addmm(-alpha * data.half_norms, query, data.samples.T)
        return scores.topk(min(NEAREST, len(data.samples)), dim=1).indices

    return Method(data, nearest)


def reference_batch(data: Centred) -> Method:
    """A softmax over a reference batch: the samples that the queries were made from, where known, and random others."""

    def references(batch: Batch) -> Tensor:
        """Return the references of a batch."""
        own = _some(data, 0) if batch.source is None else data.row_of(batch.source)
        found: Tensor = torch.cat([own, _some(data, POOL)]).unique()
        return found

    return Method(data, references)


def _some(data: Centred, count: int) -> Tensor:
    """Return the numbers of `count` random samples, the same ones at every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(len(data.samples), generator=generator)[:count].to(data.samples.device)


def _logits(query: Tensor, samples: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return the logits of queries over samples, from one product."""
    half_norms = 0.5 * samples.square().sum(1)
    return torch.addmm(-alpha * half_norms, query, samples.T) * (alpha / sigma.square())


METHODS: Mapping[str, Callable[[Centred], Method]] = {
    "mean-of-chunks": mean_of_chunks,
    "random-pool": random_pool,
    "fixed-200": fixed_nearest,
    "reference-batch": reference_batch,
}
