from __future__ import annotations

import pytest
import torch
from recording import Waiting, begin_capture

from oracle_engine.base.calls.checked import check, checked_together, holds_beside
from oracle_engine.base.errors import InputError, invalid


def passes(*values: bool) -> torch.Tensor:
    return torch.tensor(values)


def error(name: str) -> InputError:
    return invalid(name, "must hold", "nothing", "make it hold")


def test_checks_are_read_at_once_or_together() -> None:
    with Waiting() as waiting:
        for _ in range(3):
            check(lambda: passes(True, True).clone(), lambda: error("a"))
    assert waiting.found.count("_local_scalar_dense") == 3
    with Waiting() as waiting, checked_together():
        for size in range(3):
            check((torch.ones(size, 2) > 0).clone, lambda: error("a"))
    assert waiting.found == ["_local_scalar_dense"]
    with Waiting() as waiting, checked_together():
        pass
    assert waiting.found == []


def test_the_first_check_that_fails_is_raised() -> None:
    reached = []

    def checks() -> None:
        with checked_together():
            check(lambda: passes(True), lambda: error("a"))
            check(lambda: passes(True, False), lambda: error("b"))
            check(lambda: passes(False), lambda: error("c"))
            reached.append(True)

    with pytest.raises(InputError, match="`b` must hold"):
        checks()
    assert reached
    with pytest.raises(InputError, match="`a` must hold"):
        check(lambda: passes(False), lambda: error("a"))


def test_an_error_on_the_way_gives_way_to_that_of_a_check() -> None:
    def failing(holds: bool) -> None:
        with checked_together():
            check(lambda: passes(holds), lambda: error("a"))
            raise RuntimeError("on the way")

    with pytest.raises(InputError, match="`a` must hold"):
        failing(False)
    with pytest.raises(RuntimeError, match="on the way"):
        failing(True)
    # and nothing is left for later
    with pytest.raises(InputError, match="`b` must hold"):
        check(lambda: passes(False), lambda: error("b"))


def test_a_second_look_may_find_nothing() -> None:
    check(lambda: passes(False), lambda: None)
    with checked_together():
        check(lambda: passes(False), lambda: None)


def test_no_condition_is_computed_while_a_graph_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    begin_capture(monkeypatch)
    with checked_together():
        check(lambda: 1 / 0, lambda: error("a"))  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("wanted", [True, False])
def test_a_condition_is_read_with_the_checks_before_it(wanted: bool) -> None:
    with Waiting() as waiting, checked_together():
        check(lambda: passes(True, True).clone(), lambda: error("a"))
        assert holds_beside(passes(wanted).clone()) == wanted
    # what holds is done; else the condition and the checks are read by themselves
    assert waiting.found.count("_local_scalar_dense") == (1 if wanted else 3)


def test_a_condition_hides_no_check_that_fails() -> None:
    def checks() -> None:
        with checked_together():
            check(lambda: passes(False), lambda: error("a"))
            assert holds_beside(passes(True))

    with pytest.raises(InputError, match="`a` must hold"):
        checks()
    assert holds_beside(passes(True))
    assert not holds_beside(passes(False))
