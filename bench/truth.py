"""The velocity in float64, computed from the formula and without the engine, and the distance from it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from oracle_engine import OracleDataset

# relative velocity error that an exact answer must stay below
BAR = 1e-5

# rows converted to float64 at a time
BLOCK = 4096


def value_blocks(data: OracleDataset) -> Iterator[Tensor]:
    """Yield the samples in value space, [n, D] float64, in the order they are stored in."""
    scale, offset = data.value_map.scale, data.value_map.offset
    for block in data.rows.stored.split(BLOCK):
        yield block.double().mul_(scale).add_(offset)


def mean_value(data: OracleDataset) -> Tensor:
    """Return the mean of the samples in value space, [D] float64."""
    return torch.stack([block.sum(0) for block in value_blocks(data)]).sum(0) / len(data)


def exact_velocity(data: OracleDataset, x: Tensor, t: Tensor | float) -> Tensor:
    """Return the rectified-flow velocity of the queries x [B, *shape] as [B, D] float64.

    Samples have equal weights. Costs two passes over the data and N B values of memory.
    """
    query = x.double().reshape(len(x), -1)
    alpha = torch.as_tensor(t, dtype=torch.float64, device=x.device).reshape(-1, 1)
    sigma = 1 - alpha
    centre = mean_value(data)
    offset = query - alpha * centre
    gain = alpha / sigma.square()
    logits = [
        gain * (offset @ block.T - 0.5 * alpha * block.square().sum(1))
        for block in (values - centre for values in value_blocks(data))
    ]
    weights = torch.cat(logits, 1).softmax(1).split(BLOCK, 1)
    mean = torch.zeros_like(query)
    for weight, block in zip(weights, value_blocks(data), strict=True):
        mean.addmm_(weight, block)
    return mean - (query - alpha * mean) / sigma


def relative_error(velocity: Tensor, truth: Tensor) -> float:
    """Return the largest |v - truth| / |truth| over the queries, for a velocity [B, *shape] and a truth [B, D]."""
    difference = velocity.double().reshape(truth.shape) - truth
    return float((difference.norm(dim=1) / truth.norm(dim=1)).max())
