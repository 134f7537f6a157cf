"""What a record of a benchmark calls the best peer."""

from __future__ import annotations

from oracle_engine.compare.record import Row, Side


def side(median_ms: float, error: float) -> Side:
    return Side(median_ms, median_ms, median_ms, median_ms, rounds=3, error=error, peak_mib=None, paired=None)


def row(**sides: Side) -> Row:
    named = {name.replace("_", "-"): each for name, each in sides.items()}
    return Row("noise", 10, 2, "float32", 1, "0.5", others=None, sides=named)


def test_no_run_of_ours_is_a_peer() -> None:
    ours = {"ours": side(1.0, 1e-7), "ours_coarse": side(0.5, 1e-3), "ours_recorded": side(0.8, 1e-7)}
    assert row(**ours).best_peer(exact=True) is None
    exact, fast = side(3.0, 1e-6), side(2.0, 1e-3)
    both = row(**ours, exact=exact, fast=fast)
    assert both.best_peer(exact=True) == "exact"
    assert both.best_peer(exact=False) == "fast"
    # an error that is no number meets no bar
    assert row(**ours, broken=side(0.1, float("nan"))).best_peer(exact=True) is None
