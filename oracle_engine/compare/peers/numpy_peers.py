"""The velocity with NumPy, whose products are those of OpenBLAS.

The threads of OpenBLAS spin for a tenth of a second after a product, so that whatever runs next must wait until they
sleep: `compare.timing` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .centred import Attend, Centred, SideVelocity, UnavailableError, times_of, velocity_around

# bytes of the rows that are scored and weighed before the next ones: of half a MiB to 16 this was among the fastest for
# all of 1 to 256 queries of 784 and 3,072 values
CACHED_BYTES = 8 << 20

Array = np.ndarray[Any, np.dtype[np.float32]]


def two_products(samples: Array, half_norms: Array) -> Attend:
    """Queries times data, softmax in place, weights times data."""

    def attend(query: Array, slope: Array) -> Array:
        """Return the mean of all samples, from products over the whole."""
        weights: Array = query @ samples.T
        weights += slope * half_norms
        weights -= weights.max(1, keepdims=True)
        np.exp(weights, out=weights)
        mean: Array = weights @ samples
        mean /= weights.sum(1, keepdims=True)
        return mean

    return attend


def blocked_products(samples: Array, half_norms: Array) -> Attend:
    """The same over blocks of rows that stay in cache between the two products, with a running softmax."""
    size = max(1, CACHED_BYTES // samples[0].nbytes)
    blocks = [slice(start, start + size) for start in range(0, len(samples), size)]

    def attend(query: Array, slope: Array) -> Array:
        """Return the mean of all samples, a block that fits the cache at a time."""
        mean, part = np.zeros_like(query), np.empty_like(query)
        total = np.zeros((len(query), 1), query.dtype)
        highest = np.full_like(total, -np.inf)
        for block in blocks:
            weights = query @ samples[block].T
            weights += slope * half_norms[block]
            peak = np.maximum(highest, weights.max(1, keepdims=True))
            weights -= peak
            np.exp(weights, out=weights)
            kept, highest = np.exp(highest - peak), peak
            mean *= kept
            mean += np.matmul(weights, samples[block], out=part)
            total = total * kept + weights.sum(1, keepdims=True)
        mean /= total
        return mean

    return attend


def _peer(way: Callable[[Array, Array], Attend]) -> Callable[[Centred], SideVelocity]:
    """Return a builder of the velocity that attends in this way."""

    def build(data: Centred) -> SideVelocity:
        """Return the velocity over these samples. Raises UnavailableError on a GPU."""
        if data.samples.device.type != "cpu":
            raise UnavailableError("NumPy computes on the CPU")
        attend, mean = way(data.samples.numpy(), data.half_norms.numpy()), data.mean.numpy()

        def velocity(x: Tensor, t: Tensor | float) -> Tensor:
            """Return the velocity of queries x [B, *shape] at t."""
            alpha, sigma = (time.numpy() for time in times_of(t, data.mean))
            flat = x.reshape(len(x), -1).to(data.mean.dtype).numpy()
            return torch.from_numpy(velocity_around(attend, mean, flat, alpha, sigma)).reshape(x.shape)

        return velocity

    return build


NUMPY: Mapping[str, Callable[[Centred], SideVelocity]] = {
    "numpy": _peer(two_products),
    "numpy-blocks": _peer(blocked_products),
}
