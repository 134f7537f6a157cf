"""What every test module shares: the Hypothesis profiles, a seeded generator, and which annotations are checked."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
import torch
from annotations import EVERY_CASE, check_first_examples, later_cases, unchecked_annotations
from hypothesis import settings

from oracle_engine.kernels import Rows
from oracle_engine.kernels.screens import Screen, SearchCosts
from oracle_engine.kernels.screens.choice import choose
from oracle_engine.kernels.screens.kinds import int8_products

# the same examples on every run, and no deadline: the first call of a kernel pays for warm-up and page faults
settings.register_profile("ci", derandomize=True, deadline=None, max_examples=25, print_blob=True)
# what looks for new problems: HYPOTHESIS_PROFILE=search
settings.register_profile("search", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


LATER_CASES = pytest.StashKey[set[str]]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put what takes longest first, and note in which cases annotations are left unchecked.

    Several processes end together where none begins with a test of a minute while the others have nothing left.
    """
    items.sort(key=lambda item: not any(item.get_closest_marker(name) for name in ("interpreter", "slow")))
    config.stash[LATER_CASES] = set() if EVERY_CASE else later_cases(items)
    if not EVERY_CASE:
        check_first_examples(items)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Keep what there is before the first test from being looked through whenever memory is given back."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Leave everything to the collector again, as libraries that look for leaks at the end want it."""
    gc.unfreeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Run a test, without checks of annotations in its later cases."""
    if item.nodeid not in item.config.stash[LATER_CASES]:
        return (yield)
    with unchecked_annotations():
        return (yield)


@pytest.fixture
def generator() -> torch.Generator:
    """A CPU generator that starts from the same seed in every test."""
    return torch.Generator().manual_seed(20251202)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Products are shared between threads, however many the tests were given."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def steady_costs() -> Iterator[None]:
    """Searches cost their operations, and 8-bit products what float32 ones do, whatever a busy machine would time."""

    def operations(rows: Rows, screen: Screen) -> SearchCosts:
        return SearchCosts.by_operations(rows.dim, screen.operations)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(choose, "timed_costs", operations)
        monkeypatch.setattr(int8_products, "product_cost", lambda device: 1.0)
        yield


@pytest.fixture
def recompiled(unchecked: None) -> Iterator[None]:
    """Every test compiles afresh, and no annotation is checked while code is traced."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Annotations are not checked, as for a user: what is wrong reaches the library's own checks."""
    with unchecked_annotations():
        yield
