"""Questions of one kind, answered by one scan, so that only the guilty fail."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import torch

from ..base.arrays import Tensor
from ..base.errors import DistributedError, OracleError
from ..engine.several import Value
from .limits import RefusedError
from .models import Model
from .questions import Question

log = logging.getLogger("oracle_engine.serving")

Result = dict[str, Value] | Exception


def answers(model: Model, questions: Sequence[Question]) -> Iterator[Result]:
    """Yield the answer, or the error, of each question.

    model: what answers. questions: of one kind. Where they fail together, each half is tried: one scan where all are
    right, about 2 log2 of their number for one that is wrong. Where an actor that holds samples is lost, all fail.
    """
    if not questions:
        return
    model.statistics.scans += 1
    try:
        values = model.answer(Question.together(questions))
    except DistributedError as error:
        # no question is to blame, and each further one would wait as long
        log.error("the model %s failed: %s", model.name, error)
        yield from [error] * len(questions)
        return
    except Exception as error:
        if len(questions) == 1:
            yield _reason(error, model)
            return
        middle = len(questions) // 2
        yield from answers(model, questions[:middle])
        yield from answers(model, questions[middle:])
        return
    sizes = [len(question) for question in questions]
    parts = {name: _split(value, sizes) for name, value in values.items()}
    for place in range(len(questions)):
        yield {name: part[place] for name, part in parts.items()}


def _split(value: Value, sizes: Sequence[int]) -> Sequence[Value]:
    if isinstance(value, Tensor):
        return list(value.split(list(sizes)))
    ends = [sum(sizes[: place + 1]) for place in range(len(sizes))]
    return [value[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def _reason(error: Exception, model: Model) -> Exception:
    """Return the error that a client is told; others than the library's are logged."""
    if isinstance(error, OracleError):
        return error
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return RefusedError(413, "the device has too little memory for this request. Remedy: send fewer rows.")
    log.error("the model %s failed", model.name, exc_info=error)
    return RefusedError(500, f"the model {model.name} failed. Remedy: see the log of the server.")
