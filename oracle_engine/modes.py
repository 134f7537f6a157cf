"""How much of the data an answer has to look at: the modes of the engine."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import invalid


@dataclass(frozen=True)
class Exact:
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
    """Look at `rows` samples drawn by their approximate weight: an estimate with a standard error, no certificate."""

    rows: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rows < 2:
            raise invalid("rows", "must be at least 2", self.rows, "pass how many samples to look at")


Mode = Exact | Auto | TopK | Budget

MODES: dict[str, type[Exact] | type[Auto] | type[TopK] | type[Budget]] = {
    "exact": Exact,
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
