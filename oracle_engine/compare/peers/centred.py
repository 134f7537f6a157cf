"""What every peer holds, and the velocity around its posterior mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...data.dataset import OracleDataset
from ..truth import mean_value, value_blocks

# how a side answers: the velocity [B, *shape] of queries x [B, *shape] at t, a float or [B]; labels=[B] where the batch
# has them
SideVelocity = Callable[..., Tensor]

# posterior mean [B, D] of centred samples for queries [B, D] in units of the logit and slopes [B or 1, 1] of |z|^2/2;
# tensors of torch, or arrays of NumPy
Attend = Callable[[Any, Any], Any]


class UnavailableError(Exception):
    """A peer that cannot run here; the message says why."""


@dataclass(frozen=True)
class Centred:
    """Samples z_j = X_j - mu in value space, in the order of the rows.

    samples: [N, D]; mean: mu [D]; half_norms: |z_j|^2 / 2 [N]; all of one floating dtype. segments: the rows of each
    class, by label; empty without labels. row_of: the rows of samples by their numbers.
    """

    samples: Tensor
    mean: Tensor
    half_norms: Tensor
    segments: Mapping[int, slice] = field(default_factory=dict)
    row_of: Callable[[Tensor], Tensor] = lambda index: index

    @classmethod
    def of(cls, data: OracleDataset, dtype: torch.dtype = torch.float32) -> Centred:
        """Centre in float64, then round once to `dtype`."""
        mean = mean_value(data)
        samples = torch.empty(len(data), data.dim, dtype=dtype, device=data.device)
        half_norms = torch.empty(len(data), dtype=dtype, device=data.device)
        start = 0
        for block in value_blocks(data):
            block -= mean
            stop = start + len(block)
            samples[start:stop], half_norms[start:stop] = block, 0.5 * block.square().sum(1)
            start = stop
        segments = {label: slice(span.start, span.stop) for label, span in data.segments.items()}
        return cls(samples, mean.to(dtype), half_norms, segments, data.row_of)


def times_of(t: Tensor | float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma, [B or 1, 1] in the dtype of `like`; sigma is rounded once."""
    alpha = torch.as_tensor(t, dtype=torch.float64, device=like.device).reshape(-1, 1)
    return alpha.to(like.dtype), (1 - alpha).to(like.dtype)


def velocity_around(attend: Attend, mean: Any, x: Any, alpha: Any, sigma: Any) -> Any:
    """Return the velocity [B, D] of queries x [B, D] whose centred posterior mean is `attend`.

    The logits are gain <x - alpha mu, z_j> - gain alpha |z_j|^2 / 2 with gain = alpha / sigma^2.
    """
    gain = alpha / (sigma * sigma)
    denoised = attend(gain * (x - alpha * mean), -gain * alpha) + mean
    return denoised - (x - alpha * denoised) / sigma
