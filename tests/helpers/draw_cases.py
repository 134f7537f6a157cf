"""Every draw of references that a target may make, with its probability, however often it draws."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from oracle_engine import OracleDataset, References
from oracle_engine.kernels import Span


class _OneMore(Exception):
    """A draw was made beyond those that are chosen already; `options` are its outcomes and their probabilities."""

    def __init__(self, options: list[tuple[Tensor, float]]) -> None:
        super().__init__()
        self.options = options


def outcomes(data: OracleDataset, span: Span, count: int) -> list[tuple[Tensor, float]]:
    """Return what `count` references of a span may be, rows [count], and how likely."""
    rows = range(span.start, span.stop)
    weights = torch.ones(len(data)) if data.rows.log_weights is None else data.rows.log_weights.exp()
    share = (weights[span.start : span.stop] / weights[span.start : span.stop].sum()).tolist()
    if max(share) - min(share) < 1e-12:
        equal = 1 / math.perm(len(rows), count)
        return [(torch.tensor(chosen), equal) for chosen in itertools.permutations(rows, count)]
    return [
        (torch.tensor(chosen, dtype=torch.int64), math.prod(share[row - span.start] for row in chosen))
        for chosen in itertools.product(rows, repeat=count)
    ]


def every_draw(count: int, evaluate: Callable[[References], Tensor]) -> Iterator[tuple[float, Tensor]]:
    """Yield the probability of each sequence of draws, and what `evaluate` returns with it.

    evaluate: called with References(count) whose draws are chosen here, one sequence after the other.
    """
    chosen: list[list[tuple[Tensor, float]]] = [[]]
    while chosen:
        sequence = chosen.pop()
        upcoming = iter(sequence)

        def draw(data: OracleDataset, span: Span, size: int, _: Any, upcoming: Any = upcoming) -> Tensor:
            found = next(upcoming, None)
            if found is None:
                raise _OneMore(outcomes(data, span, size))
            rows: Tensor = found[0]
            return rows

        try:
            value = evaluate(References(count, draw_rows=draw))
        except _OneMore as more:
            chosen += [[*sequence, option] for option in more.options]
        else:
            yield math.prod(probability for _, probability in sequence), value
