"""What is timed on a GPU is asked in small on the CPU: all questions are understood, and answered right."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from bench import gpu_questions
from bench.gpu_cases import Case, draw
from bench.gpu_questions import Question, Spent, ask_all
from bench.record import read_json
from oracle_engine import InputError

CPU = torch.device("cpu")


def test_every_question_is_answered_as_in_float64() -> None:
    case = Case(600, 100, torch.float16, ())
    data, few = draw(case, CPU), gpu_questions.decaying(case, CPU)
    asked = [*gpu_questions.scans(data, (1, 3)), *gpu_questions.classes(data, 7, 9), *gpu_questions.late(few, (9,))]
    assert len({question.name for question in asked}) == len(asked) == 6 + 12 + 9
    assert {question.allowed for question in asked} == {1e-5, 1e-4}
    for question in asked:
        assert question.error() <= question.allowed


def test_most_of_the_variance_of_late_data_is_in_a_few_values() -> None:
    case = Case(500, 64, torch.float32, ())
    plain, decaying = (data[:].square().mean(0) for data in (draw(case, CPU), gpu_questions.decaying(case, CPU)))
    assert plain[:8].sum() < 0.2 * plain.sum()
    assert decaying[:8].sum() > 0.8 * decaying.sum()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a card")
def test_a_machine_without_a_card_is_told_so() -> None:
    with pytest.raises(InputError, match="`device` must be a CUDA device"):
        gpu_questions.main([])


def test_a_question_that_fails_is_written_and_the_next_one_asked(tmp_path: Path) -> None:
    def group() -> Iterator[Question]:
        for name in ("first", "second"):
            yield Question(name, partial(torch.zeros, 1), partial(torch.zeros, 1))
        raise MemoryError("no room")

    def spent(asked: Question) -> Spent:
        if asked.name == "first":
            raise RuntimeError("no such kernel")
        return Spent(asked.name, 1e-7, True, 1.0, 1.0, 1.0, {})

    assert not ask_all([group, group], tmp_path / "rows.json", spent, limit=60.0)
    rows = read_json(tmp_path / "rows.json")["rows"]
    assert [row["name"] for row in rows] == 2 * ["first", "second", "what follows second"]
    assert "no such kernel" in rows[0]["failed"]
    assert "no room" in rows[2]["failed"]


def test_answers_beyond_what_is_allowed_are_a_failure(tmp_path: Path) -> None:
    asked = Question("one", partial(torch.zeros, 1), partial(torch.zeros, 1))

    def spent(within: bool, _: Question) -> Spent:
        return Spent("one", 1e-3, within, 1.0, 1.0, 1.0, {})

    for within in (True, False):
        found = ask_all([lambda: iter([asked])], tmp_path / "rows.json", partial(spent, within), limit=60.0)
        assert found is within
