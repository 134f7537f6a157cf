"""Other libraries that compute the same: smalldiffusion's ideal denoiser, scikit-learn's kernel density."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...data.dataset import OracleDataset
from ..truth import value_blocks
from ..workloads import Batch
from .centred import UnavailableError

# values of the samples from which on a tree takes minutes to build and to ask
MOST_IN_TREE = 60_000_000


def ideal_denoiser(data: OracleDataset) -> Callable[[Batch], Tensor]:
    """Return the velocity by `smalldiffusion.IdealDenoiser`, which predicts the noise of x = X + sigma eps in float32.

    Raises UnavailableError where it is not installed.
    """
    try:
        from smalldiffusion import IdealDenoiser
    except ImportError as error:
        raise UnavailableError(f"smalldiffusion cannot be imported: {error}") from error
    samples = torch.cat([block.float() for block in value_blocks(data)]).reshape(-1, *data.sample_shape)
    denoiser = IdealDenoiser(samples)

    def velocity(batch: Batch) -> Tensor:
        """Return the velocity that the denoiser gives at x / alpha and sigma / alpha."""
        alpha = batch.times.float().reshape(-1, *[1] * len(data.sample_shape))
        x, sigma = batch.x / alpha, (1 - alpha) / alpha
        denoised = x - sigma * denoiser(x, sigma)
        found: Tensor = denoised - (batch.x - alpha * denoised) / (1 - alpha)
        return found

    return velocity


def kernel_density(data: OracleDataset) -> Callable[[Batch], Tensor]:
    """Return the log-density [B] by `sklearn.neighbors.KernelDensity` over alpha X, of bandwidth sigma, in float64.

    A tree of one leaf for each time is built at the first call. Raises UnavailableError where scikit-learn is not
    installed, and where a tree would take minutes.
    """
    try:
        from sklearn.neighbors import KernelDensity
    except ImportError as error:
        raise UnavailableError("scikit-learn is not installed") from error
    if len(data) * data.dim > MOST_IN_TREE:
        raise UnavailableError(f"a tree over {len(data):,} x {data.dim:,} values takes minutes")
    samples = torch.cat(list(value_blocks(data))).cpu().numpy()
    fitted: dict[float, Any] = {}

    def density(batch: Batch) -> Tensor:
        """Return the log-density of a batch at one time; the estimator is fitted once for each time."""
        t = float(batch.times[0])
        if t not in fitted:
            fitted.clear()
            # one leaf: bounds of smaller ones are subtracted from each other, which late costs all digits
            fitted[t] = KernelDensity(bandwidth=1 - t, leaf_size=len(samples)).fit(t * samples)
        return torch.from_numpy(fitted[t].score_samples(batch.x.double().flatten(1).cpu().numpy()))

    return density
