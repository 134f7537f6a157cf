"""The loss of conditional flow matching taken apart: the loss against the oracle, V(t) and a cross term, by times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any

import torch

from ..base.arrays import Float64, Tensor
from ..base.errors import invalid


@dataclass(frozen=True)
class LossPart:
    """The decomposition of the loss of conditional flow matching, per coordinate, over times in [first, last).

    name: what the part is called in tables. first, last: its times, in [0, 1]; a part that ends at 1 includes 1.
    count: how many queries it has. All numbers below are means over them, NaN where there are none.
    conditional: E|model - u|^2 / D, the CFM loss; conditional = oracle + variance + cross, exactly.
    oracle: E|model - v|^2 / D, which training can bring to zero.
    variance: E|u - v|^2 / D = V(t), which no network can remove.
    cross: 2 E<model - v, v - u> / D.
    cross_error: standard error of `cross`, whose expectation is zero where x_t is made from the samples of the engine,
        by their weights; for held-out samples and leave-one-out v is no conditional mean of u, and a cross term stays.
    u is the conditional target, and v what the OracleTarget returned, whatever its estimate and guidance.
    """

    name: str
    first: float
    last: float
    count: int
    conditional: float
    oracle: float
    variance: float
    cross: float
    cross_error: float

    def __str__(self) -> str:
        return (
            f"{self.name}, t in {self.first:.3g} .. {self.last:.3g}: CFM loss {self.conditional:.4g} = oracle "
            f"{self.oracle:.4g} + V(t) {self.variance:.4g} + cross {self.cross:.2g} +- {self.cross_error:.1g}, "
            f"{self.count:,} queries"
        )


@dataclass(frozen=True)
class LossTerms:
    """The terms of the decomposition for every query, detached: [B] float64 each.

    times: in [0, 1]. oracle: |model - v|^2 / D. variance: |u - v|^2 / D. conditional: |model - u|^2 / D.
    u is the conditional target of CFM, v the oracle target.
    """

    times: Float64[Tensor, "B"]
    oracle: Float64[Tensor, "B"]
    variance: Float64[Tensor, "B"]
    conditional: Float64[Tensor, "B"]

    def __len__(self) -> int:
        return len(self.times)

    def __repr__(self) -> str:
        return f"LossTerms({self.whole()})"

    @classmethod
    def concatenate(cls, parts: Sequence[LossTerms]) -> LossTerms:
        """Return the terms of several batches, `parts`, at least one, as those of one batch."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def whole(self) -> LossPart:
        """Return the decomposition over all times."""
        return self._part("all", 0.0, 1.0, torch.ones_like(self.times, dtype=torch.bool))

    def bins(self, edges: int | Sequence[float] = 10) -> tuple[LossPart, ...]:
        """Return the decomposition over bins of t.

        edges: the number of bins of equal width, at least 1, or their edges, two or more ascending numbers in [0, 1].
        Returns one part a bin. Raises InputError for other `edges`.
        """
        if isinstance(edges, int):
            ends = [edge / max(1, edges) for edge in range(edges + 1)]
        else:
            ends = [float(edge) for edge in edges]
        if len(ends) < 2 or not all(0.0 <= a < b <= 1.0 for a, b in pairwise(ends)):
            raise invalid("edges", "must be at least 1 bin, or ascending edges in [0, 1]", edges, "pass 10")
        return tuple(self._between(f"{a:.3g}-{b:.3g}", a, b) for a, b in pairwise(ends))

    def stages(self, boundary: float) -> tuple[LossPart, LossPart]:
        """Return the decomposition over the two stages, navigation before `boundary` and refinement after it.

        boundary: a time in (0, 1), such as stage_boundary(engine). Raises InputError outside of that.
        """
        if not 0.0 < boundary < 1.0:
            raise invalid("boundary", "must lie between 0 and 1", boundary, "pass stage_boundary(engine)")
        return self._between("navigation", 0.0, boundary), self._between("refinement", boundary, 1.0)

    def _between(self, name: str, first: float, last: float) -> LossPart:
        # a bin that ends at 1 includes its end
        inside = (self.times >= first) & ((self.times < last) | (last >= 1.0))
        return self._part(name, first, last, inside)

    def _part(self, name: str, first: float, last: float, inside: Tensor) -> LossPart:
        """Return the means over the queries that are `inside` a range of times."""
        conditional, oracle, variance = (part[inside] for part in (self.conditional, self.oracle, self.variance))
        cross, count = conditional - oracle - variance, int(inside.sum())
        error = float(cross.std()) / math.sqrt(count) if count > 1 else math.nan
        return LossPart(
            name=name,
            first=first,
            last=last,
            count=count,
            conditional=float(conditional.mean()),
            oracle=float(oracle.mean()),
            variance=float(variance.mean()),
            cross=float(cross.mean()),
            cross_error=error,
        )


def format_loss_table(parts: Sequence[LossPart]) -> str:
    """Return `parts` as aligned text, a line for each below a headline: CFM loss = oracle + V(t) + cross +- error."""
    head = f"{'t':<12}{'queries':>9}{'CFM loss':>12} = {'oracle':>10} + {'V(t)':>10} + {'cross':>10}  +- error"
    return "\n".join([head, *(_row(part) for part in parts)])


def json_loss_rows(parts: Sequence[LossPart]) -> list[dict[str, Any]]:
    """Return the fields of each of `parts` as values that json can write: None in place of NaN and infinity."""
    return [{name: _finite(value) for name, value in asdict(part).items()} for part in parts]


def _row(part: LossPart) -> str:
    return (
        f"{part.name:<12}{part.count:>9,}{part.conditional:>12.4g} = {part.oracle:>10.4g} + {part.variance:>10.4g} + "
        f"{part.cross:>10.2g}  +- {part.cross_error:.1g}"
    )


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
