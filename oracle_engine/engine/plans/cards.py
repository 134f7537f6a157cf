"""Cards: the memory of what holds the samples of a large data set, and the rates at which it reads and multiplies."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...base.errors import invalid
from ...base.machine.environment import memory_bytes
from .timing import best_seconds

# shares of the rates on the data sheet of an H100 that a copy and products of 16-bit matrices reached on one
# (bench/results/nvidia-h100-80gb-hbm3.json): 3.0 of 3.35 TB/s, 800 of 989 TFLOP/s; other cards are taken to be alike
MEMORY_SHARE, MATRIX_SHARE = 0.9, 0.81

# share of the memory of a card that samples may fill: blocks of logits, queries, states and the runtime need the rest
USABLE = 0.875

# numbers that are read to find the rate of the memory of this machine, and sides of the products
_READ, _SIDE = 1 << 25, 1024


@dataclass(frozen=True)
class Card:
    """What holds a share of the samples and scans it: a card, or a machine without one.

    name: as --card has it. memory: bytes. read: bytes a second that a kernel gets from it. matrix: operations a second
    of 16-bit products, which 8-bit samples take too. host: bytes a second that arrive from the host's memory, None
    where that is the same memory. network: bytes a second to and from other ranks.
    """

    name: str
    memory: float
    read: float
    matrix: float
    host: float | None
    network: float

    @property
    def usable(self) -> float:
        """Bytes that samples may fill."""
        return USABLE * self.memory

    @classmethod
    def of_sheet(cls, name: str, gigabytes: float, rates: tuple[float, float], links: tuple[float, float]) -> Card:
        """Return a card from its data sheet.

        gigabytes: of memory, 1e9 bytes each. rates: TB/s of the memory, and dense TFLOP/s in 16 bits. links: GB/s from
        the host in one direction, and of the network in one direction.
        """
        read, matrix = MEMORY_SHARE * rates[0] * 1e12, MATRIX_SHARE * rates[1] * 1e12
        return cls(name, gigabytes * 1e9, read, matrix, 0.8 * links[0] * 1e9, links[1] * 1e9)

    @classmethod
    def measured(cls) -> Card:
        """Return this machine without a card, its rates measured now in a fraction of a second.

        Its network is taken for one of 10 Gbit/s, which cannot be measured with one machine.
        """
        numbers, square = torch.ones(_READ), torch.ones(_SIDE, _SIDE)
        read = numbers.nbytes / best_seconds(numbers.sum)
        matrix = 2.0 * _SIDE**3 / best_seconds(lambda: square @ square)
        return cls("cpu", float(memory_bytes() or 0), read, matrix, None, 1.25e9)


# data sheets of the manufacturers; networks: one port a card as in the usual servers, 400 Gbit/s, 200 for older ones
_SHEETS = (
    Card.of_sheet("a100", 80.0, (2.04, 312.0), (32.0, 25.0)),
    Card.of_sheet("h100", 80.0, (3.35, 989.0), (64.0, 50.0)),
    Card.of_sheet("h200", 141.0, (4.8, 989.0), (64.0, 50.0)),
    Card.of_sheet("b200", 180.0, (7.7, 2250.0), (64.0, 50.0)),
    Card.of_sheet("l40s", 48.0, (0.864, 362.0), (32.0, 25.0)),
    Card.of_sheet("mi300x", 192.0, (5.3, 1307.0), (64.0, 50.0)),
)
CARDS = {card.name: card for card in _SHEETS}


def card_named(name: str) -> Card:
    """Return the card `name`, one of CARDS, or "cpu" for this machine, measured now. Raises InputError for others."""
    if name == "cpu":
        return Card.measured()
    if name not in CARDS:
        raise invalid("card", f"must be one of cpu, {', '.join(CARDS)}", repr(name), "take the one most like yours")
    return CARDS[name]
