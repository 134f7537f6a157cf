"""The velocity in float64, computed from the formula and without the engine, and the distance from it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..data.dataset import OracleDataset
from .workloads import Batch

# relative velocity error that an exact answer must stay below
BAR = 1e-5

# rows converted to float64 at a time
TRUTH_ROWS = 4096


def value_blocks(data: OracleDataset) -> Iterator[Tensor]:
    """Yield the samples in value space, [n, D] float64, in the order they are stored in."""
    scale, offset = data.value_map.scale, data.value_map.offset
    for start in range(0, len(data), TRUTH_ROWS):
        # rows that stay in files are read block by block
        block = data.rows.stored[start : start + TRUTH_ROWS]
        yield block.double().reshape(len(block), -1).mul_(scale).add_(offset)


def mean_value(data: OracleDataset) -> Tensor:
    """Return the mean of the samples in value space, [D] float64."""
    return torch.stack([block.sum(0) for block in value_blocks(data)]).sum(0) / len(data)


def posterior_weights(data: OracleDataset, batch: Batch) -> Tensor:
    """Return the posterior of the queries over the rows of the data, or over those of their class, [B, N] float64.

    Samples have equal weights. Costs a pass over the data and N B values of memory.
    """
    return _logits(data, batch).softmax(1)


def log_density_of(data: OracleDataset, batch: Batch) -> Tensor:
    """Return the log-density of the queries in nats, [B] float64; costs as :func:`posterior_weights` does."""
    sigma = 1 - batch.times
    offset = batch.x.double().reshape(len(batch.x), -1) - batch.times[:, None] * mean_value(data)
    around = 0.5 * offset.square().sum(1) / sigma.square() + 0.5 * data.dim * (2 * math.pi * sigma.square()).log()
    return _logits(data, batch).logsumexp(1) - math.log(len(data)) - around


def _logits(data: OracleDataset, batch: Batch) -> Tensor:
    """Return the logits of a batch over all samples, in float64."""
    # without the term that all rows of a query share
    alpha, centre = batch.times[:, None], mean_value(data)
    offset = batch.x.double().reshape(len(batch.x), -1) - alpha * centre
    gain = alpha / (1 - alpha).square()
    logits = torch.cat(
        [
            gain * (offset @ block.T - 0.5 * alpha * block.square().sum(1))
            for block in (values - centre for values in value_blocks(data))
        ],
        1,
    )
    if batch.labels is not None and data.sorted_labels is not None:
        logits.masked_fill_(batch.labels[:, None] != data.sorted_labels, -torch.inf)
    return logits


def velocity_of(data: OracleDataset, batch: Batch, weights: Tensor) -> Tensor:
    """Return the rectified-flow velocity that a posterior [B, N] makes, as [B, D] float64; a pass over the data."""
    query, alpha = batch.x.double().reshape(len(batch.x), -1), batch.times[:, None]
    mean = torch.zeros_like(query)
    for part, block in zip(weights.split(TRUTH_ROWS, 1), value_blocks(data), strict=True):
        mean.addmm_(part, block)
    return mean - (query - alpha * mean) / (1 - alpha)


def relative_error(velocity: Tensor, truth: Tensor) -> float:
    """Return the largest |v - truth| / |truth| over the queries, of an answer [B, *shape] and a truth [B, D]."""
    difference = velocity.double().reshape(truth.shape) - truth
    return float((difference.norm(dim=1) / truth.norm(dim=1)).max())
