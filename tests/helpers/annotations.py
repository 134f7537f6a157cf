"""Annotations are checked in the first case of every test, and in its first examples: in others they say the same.

Checking them takes as long as most of what is tested. EVERY_CASE=1 checks all.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jaxtyping
import pytest

EVERY_CASE = bool(os.environ.get("EVERY_CASE"))

# examples of a test in which annotations are checked; Hypothesis begins with simple ones
FIRST_EXAMPLES = 5


@contextmanager
def unchecked_annotations() -> Iterator[None]:
    """Leave annotations unchecked, as for a user."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def later_cases(items: Sequence[pytest.Item]) -> set[str]:
    """Return the names of the cases of tests of which another case comes before them in `items`."""
    seen: set[str] = set()
    later = set()
    for item in items:
        test = item.nodeid.partition("[")[0]
        if test in seen:
            later.add(item.nodeid)
        seen.add(test)
    return later


def check_first_examples(items: Sequence[pytest.Item]) -> None:
    """Leave annotations unchecked in all but the first examples of tests with Hypothesis."""
    for handle in {id(handle): handle for item in items if (handle := _handle(item)) is not None}.values():
        handle.inner_test = _first_examples(handle.inner_test)


def _handle(item: pytest.Item) -> Any:
    """Return what Hypothesis attaches to a test, or None."""
    return getattr(getattr(item, "obj", None), "hypothesis", None)


def _first_examples(test: Callable[..., None]) -> Callable[..., None]:
    count = 0

    @functools.wraps(test)
    def example(*arguments: Any, **named: Any) -> None:
        """Run one example."""
        nonlocal count
        count += 1
        if count <= FIRST_EXAMPLES:
            return test(*arguments, **named)
        with unchecked_annotations():
            return test(*arguments, **named)

    return example
