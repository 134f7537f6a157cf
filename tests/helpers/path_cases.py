"""Every path that has a name, and polynomial ones."""

from __future__ import annotations

from oracle_engine.paths.paths import PATHS, Polynomial

CASES = [*((name, make()) for name, make in PATHS.items()), ("cubic", Polynomial(3.0)), ("linear", Polynomial(1.0))]
