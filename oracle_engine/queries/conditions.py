"""What an answer depends on beside x and t, as the caller passes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ..base.arrays import Numbers, is_number
from ..base.errors import invalid


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of the oracle: v_0 + scale (v_y - v_0) for t in [t_min, t_max], v_y outside.

    v_y is the velocity given the labels and v_0 the unconditional one.
    scale: a finite number, or one for each query, [B]. t_min, t_max: the interval, 0 <= t_min <= t_max <= 1; anything
    else raises InputError.
    Ho and Salimans (2021), arXiv 2207.12598; the interval follows Kynkäänniemi et al. (2024), arXiv 2404.07724.

    >>> Guidance(2.0, t_min=0.2, t_max=0.8)
    Guidance(scale=2.0, t_min=0.2, t_max=0.8)
    """

    scale: Numbers
    t_min: float = 0.0
    t_max: float = 1.0

    def __post_init__(self) -> None:
        ends = (self.t_min, self.t_max)
        if not all(is_number(end) for end in ends) or not 0.0 <= self.t_min <= self.t_max <= 1.0:
            found, remedy = f"t_min = {ends[0]!r}, t_max = {ends[1]!r}", "pass t_min=0.0, t_max=1.0 for all times"
            raise invalid("guidance", "needs an interval 0 <= t_min <= t_max <= 1", found, remedy)


class Conditions(NamedTuple):
    """The conditions of a batch of B queries; None stands for no condition at all.

    labels: class of each query, an integer, [B], or [B, U] for the union of U different classes, -1 for none; or
    one-hot rows [B, K], as :func:`resolve_labels` reads them. guidance: its scale, a number or [B], or a Guidance.
    exclude: index of the sample that does not count, a number or [B], -1 for none. source: index of the sample that x
    was made from, a number or [B], -1 for unknown. Each may be a tensor, an array or a sequence.
    """

    labels: Numbers | None = None
    guidance: Numbers | Guidance | None = None
    exclude: Numbers | None = None
    source: Numbers | None = None

    @property
    def are_none(self) -> bool:
        """Whether there is no condition at all."""
        some = self.labels is not None or self.guidance is not None
        return not (some or self.exclude is not None or self.source is not None)


UNCONDITIONAL = Conditions()
