"""Several answers from one scan are those of the methods that give one each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from closed_form import clusters
from engine_cases import PREDICTIONS, X, twenty
from tolerances import assert_close
from torch import Tensor

from oracle_engine import Guidance, InputError, OracleDataset, OracleEngine
from oracle_engine.engine.several import STATISTICS, several
from oracle_engine.queries.conditions import Conditions


@pytest.mark.parametrize("conditions", [Conditions(), Conditions(labels=[0, 3], exclude=[-1, 2])])
def test_all_of_them_are_those_of_an_engine(generator: torch.Generator, conditions: Conditions) -> None:
    engine, named = twenty(generator), {"labels": conditions.labels, "exclude": conditions.exclude}
    found = several(engine, (*PREDICTIONS, *STATISTICS), X, 0.4, conditions, top_k=3)
    for name in PREDICTIONS:
        assert_close(_tensor(found[name]), getattr(engine, name)(X, 0.4, **named), "bar")
    posterior = engine.posterior(X, 0.4, top_k=3, **named)
    for name in STATISTICS:
        wanted = getattr(posterior, name)
        if isinstance(wanted, Tensor):
            assert_close(_tensor(found[name]), wanted, "moment")
        else:
            assert found[name] == wanted


@pytest.mark.parametrize("names", [("velocity",), ("velocity", "route"), ("log_density", "omitted_mass"), ("ess",)])
def test_only_what_is_asked_for_is_returned(generator: torch.Generator, names: tuple[str, ...]) -> None:
    engine = twenty(generator)
    found = several(engine, names, X, 0.4, Conditions())
    assert set(found) == set(names)
    if "log_density" in names:
        assert_close(_tensor(found["log_density"]), engine.log_density(X, 0.4), "moment")


def test_guidance_acts_on_predictions_and_not_on_statistics(generator: torch.Generator) -> None:
    engine = twenty(generator)
    conditions = Conditions(labels=[0, 3], guidance=Guidance(2.0, 0.3, 0.5))
    found = several(engine, ("score", "entropy"), X, 0.4, conditions)
    wanted = engine.score(X, 0.4, labels=[0, 3], guidance=conditions.guidance)
    assert_close(_tensor(found["score"]), wanted, "bar")
    assert_close(_tensor(found["entropy"]), engine.posterior(X, 0.4, labels=[0, 3]).entropy, "moment")


def test_late_queries_go_the_late_way(generator: torch.Generator) -> None:
    engine = OracleEngine(OracleDataset(clusters(400, 64, generator).float())).prepare("pca")
    x, source = engine.data[torch.tensor([3, 4])], [3, 4]
    found = several(engine, ("velocity", "route", "omitted_mass"), x, 0.999, Conditions(source=source))
    posterior = engine.posterior(x, 0.999, source=source)
    assert found["route"] == posterior.route != ("exact", "exact")
    assert_close(_tensor(found["velocity"]), engine.velocity(x, 0.999, source=source), "prepared")


def test_unknown_names_are_refused(generator: torch.Generator) -> None:
    with pytest.raises(InputError, match="`names` must be among velocity"):
        several(twenty(generator), ("speed",), X, 0.4, Conditions())


def _tensor(value: Any) -> Tensor:
    assert isinstance(value, Tensor)
    return value
