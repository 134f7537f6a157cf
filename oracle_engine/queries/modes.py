"""How many samples an answer is made of: the modes of the engine."""

from __future__ import annotations

from dataclasses import dataclass

from ..base.arrays import is_whole
from ..base.errors import invalid
from ..base.seeds import seeded


@dataclass(frozen=True)
class FullScan:
    """Scan every sample."""


@dataclass(frozen=True)
class Auto:
    """Score few samples where that is proved to be within the tolerance, scan every sample elsewhere."""


@dataclass(frozen=True)
class TopK:
    """Score the `count` most promising samples at every t; the answers say what they may have missed.

    count: samples of each query, at least 1. Needs `engine.prepare()`. Raises InputError for any other. Costs a
    product with a screen and one read of `count` samples a query.

    >>> TopK(64)
    TopK(count=64)
    """

    count: int = 256

    def __post_init__(self) -> None:
        if not is_whole(self.count) or self.count < 1:
            raise invalid("count", "must be a whole number of at least 1", self.count, "pass how many samples to score")


@dataclass(frozen=True)
class Budget:
    """Estimate from `rows` samples, with a standard error and no certificate.

    rows: samples of each query, at least 2; 16 at least, and a multiple of 8, are scored. Up to 64 of them are the most
    likely ones, the others are drawn by their approximate weight. seed: of the draws. Needs `engine.prepare("pca")`.
    The standard error counts what was drawn, and what may not have been: where few samples count it says that little is
    known.
    Raises InputError for any other rows and seeds.

    >>> Budget(1024, seed=1)
    Budget(rows=1024, seed=1)
    """

    rows: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        if not is_whole(self.rows) or self.rows < 2:
            raise invalid("rows", "must be a whole number of at least 2", self.rows, "pass how many samples to score")
        seeded(self.seed)


Mode = FullScan | Auto | TopK | Budget

MODES: dict[str, type[FullScan] | type[Auto] | type[TopK] | type[Budget]] = {
    "exact": FullScan,
    "auto": Auto,
    "top_k": TopK,
    "budget": Budget,
}


def resolve_mode(mode: str | Mode) -> Mode:
    """Return the mode called `mode` with its defaults, or `mode` itself where it is one.

    mode: "exact", "auto", "top_k" or "budget", or a value. Raises InputError for anything else.
    """
    if isinstance(mode, str) and mode in MODES:
        return MODES[mode]()
    if not isinstance(mode, Mode):
        names = ", ".join(MODES)
        raise invalid("mode", f"must be one of {names}, or a value like TopK(256)", repr(mode), "use 'auto'")
    return mode
