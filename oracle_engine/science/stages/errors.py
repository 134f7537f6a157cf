"""Standard errors of the measured transition: its spread when the queries are drawn again from themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from ...base.arrays import Float64, Tensor
from ...base.seeds import seeded
from .points import TransitionTimes, measure_transition, narrowing_curves, transition_names

# draws of the bootstrap (Efron 1979), and the share of them that has to reach a level for its error to be told
CURVE_RESAMPLES = 200
REACHED = 0.9


def transition_errors(
    times: Sequence[float], found: Mapping[str, Float64[Tensor, "T Q"]], seed: int
) -> TransitionTimes:
    """Return the standard errors of the times of the transition, by the bootstrap over the queries.

    times: increasing. found: the statistics of Q queries at T times; a query keeps its sample and its noise at every
    time, so whole curves are drawn. seed: of the draws. None stands for a level that a tenth of the draws or more do
    not reach, and for a single query.
    """
    count = found["top"].shape[1]
    if count < 2:
        return TransitionTimes(*(None for _ in transition_names()))
    draws = seeded(seed)
    drawn = []
    for _ in range(CURVE_RESAMPLES):
        chosen = torch.randint(count, (count,), generator=draws)
        drawn.append(
            measure_transition(times, narrowing_curves({name: part[:, chosen] for name, part in found.items()}))
        )
    return TransitionTimes(**{name: _spread([getattr(part, name) for part in drawn]) for name in transition_names()})


def _spread(values: Sequence[float | None]) -> float | None:
    known = torch.tensor([value for value in values if value is not None], dtype=torch.float64)
    return float(known.std()) if len(known) >= max(2, math.ceil(REACHED * len(values))) else None
