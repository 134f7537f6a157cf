"""A plugin of pytest that runs one case of every test, the middle one: a small form of what takes minutes."""

from __future__ import annotations

from collections import defaultdict

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep one of the cases of each test."""
    tests: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        tests[item.nodeid.split("[")[0]].append(item)
    kept = [cases[len(cases) // 2] for cases in tests.values()]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
