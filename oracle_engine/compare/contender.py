"""A side of a comparison: how it answers a batch, how far off it may be, and what it says and leaves out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .peers import SideVelocity
from .truth import BAR
from .workloads import Batch


@dataclass(frozen=True)
class Contender:
    """One side.

    answer: the velocity [B, *shape] of a batch, or its log-density [B]. tolerance: the largest relative error of an
    answer that can be used. stated: the error that the side itself states for a batch; None where it states none.
    candidates: the rows that the answers of a batch are made from, [B, k] int64, -1 in unused places; None: from all.
    """

    answer: Callable[[Batch], Tensor]
    tolerance: float = BAR
    stated: Callable[[Batch], float] | None = None
    candidates: Callable[[Batch], Tensor] | None = None

    @classmethod
    def of(cls, velocity: SideVelocity) -> Contender:
        """Return an exact side from a function of (x, t, labels=...)."""
        return cls(lambda batch: velocity(batch.x, batch.t, **batch.conditions))
