"""A lost actor fails the requests that were asked together, at once and in words; one that is back answers again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pretended_actors import PretendedActors, engine_on
from servers import question, served, small_engine, values
from torch import Tensor

from oracle_engine import DistributedError, OracleEngine
from oracle_engine.base.errors import lost
from oracle_engine.serving import Limits, create_app
from oracle_engine.serving.models import Model
from oracle_engine.serving.questions import Question
from oracle_engine.serving.together import answers

DATA = small_engine(torch.Generator().manual_seed(5)).data
X = torch.zeros(1, *DATA.sample_shape)


@pytest.fixture
def engine() -> OracleEngine:
    return engine_on(DATA, 2, DATA)


def lose(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let every call find an actor lost; return the list of these calls."""
    asked: list[str] = []

    def ask(actors: PretendedActors, operation: str, method: str, *arguments: Any) -> list[Any]:
        asked.append(operation)
        raise lost(operation, "actor 1 of 2 has ended", 0.0, "look for what ended it", rank=1, waiting="the engine")

    monkeypatch.setattr(PretendedActors, "ask", ask)
    return asked


def test_a_request_over_a_lost_actor_is_to_be_repeated(engine: OracleEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(create_app(engine)) as server:
        before = values(server.post(question(X)))["velocity"]
        with monkeypatch.context() as patch:
            lose(patch)
            refused = server.post(question(X))
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "1"
        assert "a scan: actor 1 of 2 has ended" in refused.json()["error"]
        after = values(server.post(question(X)))["velocity"]
        assert isinstance(before, Tensor)
        assert isinstance(after, Tensor)
        assert torch.equal(after, before)


def test_questions_over_a_lost_actor_are_not_asked_one_by_one(
    engine: OracleEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, model = lose(monkeypatch), Model("oracle", engine, Limits())
    one = Question(X, torch.full((1,), 0.5, dtype=torch.float64), frozenset({"velocity"}))
    assert [type(found) for found in answers(model, [one] * 8)] == [DistributedError] * 8
    assert asked == ["a scan"]
