"""How much of the data an answer has to look at: the modes of the engine."""

from __future__ import annotations

from dataclasses import dataclass

from ..base.errors import invalid


@dataclass(frozen=True)
class FullScan:
    """Scan every sample."""


@dataclass(frozen=True)
class Auto:
    """Look at few samples where that is proved to be within the tolerance, scan every sample elsewhere."""


@dataclass(frozen=True)
class TopK:
    """Look at the `count` most promising samples at every t; the answers say what they may have missed."""

    count: int = 256

    def __post_init__(self) -> None:
        if self.count < 1:
            raise invalid("count", "must be at least 1", self.count, "pass how many samples to look at")


@dataclass(frozen=True)
class Budget:
    """Look at `rows` samples: an estimate with a standard error, no certificate.

    Up to 64 of them are the most likely ones, the others are drawn by their approximate weight with `seed`. At least
    16, and a multiple of 8, are looked at.
    """

    rows: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rows < 2:
            raise invalid("rows", "must be at least 2", self.rows, "pass how many samples to look at")


Mode = FullScan | Auto | TopK | Budget

MODES: dict[str, type[FullScan] | type[Auto] | type[TopK] | type[Budget]] = {
    "exact": FullScan,
    "auto": Auto,
    "top_k": TopK,
    "budget": Budget,
}


def resolve_mode(mode: str | Mode) -> Mode:
    """Return the mode called `mode` with its defaults, or `mode` itself where it is one. Raises InputError."""
    if isinstance(mode, str) and mode in MODES:
        return MODES[mode]()
    if not isinstance(mode, Mode):
        names = ", ".join(MODES)
        raise invalid("mode", f"must be one of {names}, or a value like TopK(256)", repr(mode), "use 'auto'")
    return mode
