"""The predicted time of a scan that reads its rows once: a persistent kernel, which there is not.

Its programs score a block of rows, meet, and weigh it out of the cache while they score the next one. Products are
those of the kernels that there are. What it saves is the second read; what it pays, for every block, is that programs
wait for each other, that both loops begin anew, and that logits are sums over slices of D, because a block has too few
tiles of rows to keep all multiprocessors busy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from oracle_engine.kernels.gpu.core.configs import choose
from oracle_engine.kernels.gpu.core.tiles import ceil_div
from oracle_engine.kernels.gpu.tools.jobs import Job
from oracle_engine.kernels.gpu.tools.pretended_card import H100
from oracle_engine.kernels.gpu.tools.waves import launches

from ..gate.kept import Kept
from ..gpu_cases import Case
from .launches import CACHE, Card, Launch, together
from .prediction import predicted, weights_bounds

# bytes of a block: two of them fit into the half of the cache of an H100 that is near to a multiprocessor
BLOCK_BYTES = 12 << 20

# seconds until all programs of a card know that all have come, an atomic addition and reads of its result: estimated
MEETING = 1.5e-6

# batches that read more than they multiply
BATCHES = (2, 16, 64)


@dataclass(frozen=True)
class FromCache:
    """What the model says of an early velocity.

    today: seconds of the kernels that there are. once: of one that reads rows once. block, allowed: seconds that this
    one takes for a block, and may take before it loses.
    """

    today: float
    once: float
    block: float
    allowed: float


def from_cache(case: Case, batch: int, kept: Kept, card: Card) -> FromCache:
    """Return the prediction for a batch of queries over a data set on an H100, all of whose rows have weight.

    case: the data. kept: figures of the gate. card: its rates.
    """
    today = predicted(case, batch, kept, card, early=True)
    rows = max(1, BLOCK_BYTES * case.count // case.bytes)
    blocks, block = ceil_div(case.count, rows), together(block_bounds(case, rows, batch, kept, card))[0]
    return FromCache(today.seconds, today.calls + blocks * block, block, (today.seconds - today.calls) / blocks)


def block_bounds(case: Case, rows: int, batch: int, kept: Kept, card: Card) -> dict[str, float]:
    """Return the seconds that each of the resources takes to weigh a block of `rows` rows and to score the next."""
    configurations, tile = kept.sections["configurations"], choose(H100, case.storage, batch, case.dim).weigh
    slices, scored = score_launch(case, rows, batch, card)
    weighed = weigh_launch(case, rows, batch, card)
    # sums stay in registers from block to block
    summed = {**configurations[str(weighed.job)], "ends": 0.0}
    first, second = scored.bounds(configurations[str(scored.job)], card), weighed.bounds(summed, card)
    bounds = {name: first[name] + second[name] for name in first}
    weights = weights_bounds(Job("sm_90", "weights", case.storage, tile), 4.0 * rows * batch, 0.0, kept, card)
    bounds["issue"] += weights["issue"]
    # slices of logits are written and read
    bounds["cache"] += 2.0 * slices * 4.0 * rows * batch / CACHE
    bounds["waits"] += MEETING
    return bounds


def score_launch(case: Case, rows: int, batch: int, card: Card) -> tuple[int, Launch]:
    """Return into how many slices of D the logits of a block are cut, and the work of the card on them."""
    config = choose(H100, case.storage, batch, case.dim)
    kernel, (tile, _) = next(iter(launches(config, case.storage, rows, batch, case.dim).items()))
    tiles = ceil_div(rows, tile.block_n) * ceil_div(batch, tile.block_b)
    slices = max(1, min(card.machine.multiprocessors // tiles, ceil_div(case.dim, tile.block_d)))
    steps, size = ceil_div(ceil_div(case.dim, slices), tile.block_d), float(rows * case.dim * case.storage.itemsize)
    return slices, Launch(Job("sm_90", kernel, case.storage, tile), tiles * slices, steps, size)


def weigh_launch(case: Case, rows: int, batch: int, card: Card) -> Launch:
    """Return the work of the card on the weighted sum of a block, whose rows are in the cache."""
    tile = choose(H100, case.storage, batch, case.dim).weigh
    tiles = ceil_div(case.dim, tile.block_d) * ceil_div(batch, tile.block_b)
    shares = max(1, min(card.machine.multiprocessors // tiles, ceil_div(rows, tile.block_n)))
    steps = ceil_div(ceil_div(rows, shares), tile.block_n)
    return Launch(Job("sm_90", "dense", case.storage, tile), tiles * shares, steps, 0.0)


def early_cases(cases: Sequence[Case]) -> Iterator[tuple[Case, int]]:
    """Yield the cases with the batches for which one read could pay."""
    for case in cases:
        if choose(H100, case.storage, BATCHES[0], case.dim).fused is None and case.dim > 16:
            yield from ((case, batch) for batch in BATCHES)
