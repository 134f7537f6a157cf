"""The velocity that sides of a comparison are compared with."""

from __future__ import annotations

from torch import Tensor

from oracle_engine import OracleDataset
from oracle_engine.compare.truth import posterior_weights, velocity_of
from oracle_engine.compare.workloads import Batch


def exact_velocity(data: OracleDataset, batch: Batch) -> Tensor:
    """Return the rectified-flow velocity of the queries as [B, D] float64."""
    return velocity_of(data, batch, posterior_weights(data, batch))
