"""The examples in the docstrings of public names run and give what they show."""

from __future__ import annotations

import doctest
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

import oracle_engine
from oracle_engine import adapters, samplers


def examples_of(module: ModuleType) -> Iterator[doctest.DocTest]:
    """Yield the docstrings with examples of the names in `module.__all__` and of their methods.

    An example may use the names of the module in which it stands, as doctest has it.
    """
    finder = doctest.DocTestFinder()
    for name in module.__all__:
        held = getattr(module, name)
        home = sys.modules.get(getattr(held, "__module__", None) or module.__name__, module)
        # without a module every method counts as defined there, also where a wrapper checks its annotations
        found = finder.find(held, f"{module.__name__}.{name}", module=False, globs=dict(vars(home)))
        yield from (test for test in found if test.examples)


EXAMPLES = [test for module in (oracle_engine, samplers, adapters) for test in examples_of(module)]


@pytest.mark.parametrize("example", EXAMPLES, ids=[test.name for test in EXAMPLES])
def test_examples_give_what_they_show(example: doctest.DocTest) -> None:
    torch.manual_seed(0)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    # the globals are kept for another run of the same example
    result = runner.run(example, out=report.append, clear_globs=False)
    assert result.failed == 0, "".join(report)


def test_the_analysis_has_an_example() -> None:
    assert {"oracle_engine.analyse", "oracle_engine.stage_boundary"} <= {test.name for test in EXAMPLES}
