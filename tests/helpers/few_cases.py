"""A plugin of pytest that runs a few of the cases of every test, spread evenly: a small form of what takes minutes."""

from __future__ import annotations

from collections import defaultdict

import pytest

# cases of a test that are kept at most
KEPT = 2


def spread(count: int) -> set[int]:
    """Return the places of at most KEPT of `count` cases, the first and the last among them."""
    if count <= KEPT:
        return set(range(count))
    return {place * (count - 1) // (KEPT - 1) for place in range(KEPT)}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep some of the cases of each test."""
    tests: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        tests[item.nodeid.split("[")[0]].append(item)
    kept = [cases[place] for cases in tests.values() for place in sorted(spread(len(cases)))]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
