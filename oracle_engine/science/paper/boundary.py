"""The predicted end of navigation, around which the figures choose their times."""

from __future__ import annotations

from collections.abc import Sequence

from ...engine.engine import OracleEngine
from ..transition import predict_transition

# chosen times end here: later there is next to nothing left to see
LATEST = 0.95
# where times lie around when samples cannot be told apart
MIDDLE = 0.3


def predicted_boundary(engine: OracleEngine, seed: int) -> float | None:
    """Return the predicted transition of the data of an engine along its path; None where there is none.

    engine: whose data, path and point_std count. seed: of the prediction.
    """
    return predict_transition(engine.data, engine.path, engine.point_std, seed).anisotropic


def times_around(boundary: float | None, multiples: Sequence[float]) -> tuple[float, ...]:
    """Return times that are multiples of the boundary, rising and in [0, 0.95]; 0.3 stands for an unknown one."""
    middle = MIDDLE if boundary is None else boundary
    return tuple(sorted({round(min(LATEST, multiple * middle), 3) for multiple in multiples}))


def marks_at(boundary: float | None, name: str = "transition") -> dict[str, float]:
    """Return the mark of a panel at the boundary, or none where it is unknown."""
    return {} if boundary is None else {name: boundary}
