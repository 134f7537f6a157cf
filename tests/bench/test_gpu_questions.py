"""What is timed on a GPU is asked in small on the CPU: all questions are understood, and answered right."""

from __future__ import annotations

import pytest
import torch
from tolerances import assert_within

from bench import gpu_questions
from bench.gpu_cases import Case, draw
from oracle_engine import InputError

CPU = torch.device("cpu")


def test_every_question_is_answered_as_in_float64() -> None:
    case = Case(600, 100, torch.float16, ())
    data, few = draw(case, CPU), gpu_questions.decaying(case, CPU)
    asked = [*gpu_questions.scans(data, (1, 3)), *gpu_questions.classes(data, 7, 9), *gpu_questions.late(few, (9,))]
    assert len({question.name for question in asked}) == len(asked) == 6 + 12 + 9
    for question in asked:
        assert_within(torch.tensor(question.error()), "bar")


def test_most_of_the_variance_of_late_data_is_in_a_few_values() -> None:
    case = Case(500, 64, torch.float32, ())
    plain, decaying = (data[:].square().mean(0) for data in (draw(case, CPU), gpu_questions.decaying(case, CPU)))
    assert plain[:8].sum() < 0.2 * plain.sum()
    assert decaying[:8].sum() > 0.8 * decaying.sum()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a card")
def test_a_machine_without_a_card_is_told_so() -> None:
    with pytest.raises(InputError, match="`device` must be a CUDA device"):
        gpu_questions.main([])
