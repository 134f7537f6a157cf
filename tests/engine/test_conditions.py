"""Classes, guidance and exclusion answer as data sets of the samples that are left would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from closed_form import normal
from engine_cases import PREDICTIONS, assert_same_answers, weighted_data
from tolerances import assert_close, assert_rows_close
from torch import Tensor

from oracle_engine import Guidance, OracleDataset, OracleEngine


@dataclass(frozen=True)
class Setting:
    """A labelled engine with queries at different times, and the engine of each class alone."""

    engine: OracleEngine
    x: Tensor
    t: Tensor

    def only(self, *labels: int, **options: Any) -> OracleEngine:
        """Return an engine over the samples of some classes."""
        data = self.engine.data
        assert data.labels is not None
        assert data.rows.log_weights is not None
        chosen = torch.isin(data.labels, torch.tensor(labels))
        weights = data.rows.log_weights.exp()[data.row_of(torch.arange(len(data)))]
        return OracleEngine(OracleDataset(data[:][chosen], weights=weights[chosen]), **options)


@pytest.fixture(params=[torch.float32, torch.float64])
def setting(request: pytest.FixtureRequest, generator: torch.Generator) -> Setting:
    dim = 40 if request.param == torch.float32 else 5
    data = weighted_data(generator, 120, dim, points=normal(120, dim, generator).to(request.param))
    t = torch.tensor([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.3], dtype=torch.float64)
    return Setting(OracleEngine(data), t[:, None] * data[:8] + (1 - t[:, None]) * normal(8, dim, generator), t)


@pytest.mark.parametrize("labels", [(2,), (0, 3), (3, 1, 0), (0, 1, 2, 3)])
def test_classes_are_the_data_set_of_their_samples(setting: Setting, labels: tuple[int, ...]) -> None:
    per_query = torch.tensor(labels).repeat(8, 1)
    assert_same_answers(setting.engine, setting.only(*labels), setting.x, setting.t, labels=per_query)
    # empty places change nothing
    padded = torch.cat([torch.full((8, 1), -1), per_query, torch.full((8, 2), -1)], 1)
    assert_same_answers(setting.engine, setting.only(*labels), setting.x, setting.t, labels=padded)


def test_every_query_has_its_own_classes(setting: Setting) -> None:
    labels = torch.tensor([[0, -1], [1, 2], [-1, -1], [3, -1], [2, -1], [-1, 1], [0, 1], [-1, -1]])
    velocity = setting.engine.velocity(setting.x, setting.t, labels=labels)
    log_density = setting.engine.log_density(setting.x, setting.t, labels=labels)
    for place, row in enumerate(labels.tolist()):
        names = {name for name in row if name >= 0} or {0, 1, 2, 3}
        alone, x, t = setting.only(*names), setting.x[place, None], setting.t[place, None]
        assert_rows_close(velocity[place, None], alone.velocity(x, t), "bar")
        assert_close(log_density[place, None], alone.log_density(x, t), "moment")


def test_one_label_for_all_is_that_label_for_each(setting: Setting) -> None:
    for labels in (2, torch.tensor(2), torch.full((8,), 2), torch.full((8, 1), 2).int()):
        expected = setting.only(2).velocity(setting.x, setting.t)
        assert_rows_close(setting.engine.velocity(setting.x, setting.t, labels=labels), expected, "bar")
    everyone = setting.engine.velocity(setting.x, setting.t)
    assert torch.equal(setting.engine.velocity(setting.x, setting.t, labels=-1), everyone)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_guidance_is_affine_between_without_and_with_the_class(setting: Setting, name: str) -> None:
    predict: Callable[..., Tensor] = getattr(setting.engine, name)
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2, -1])
    conditional = predict(setting.x, setting.t, labels=labels)
    free = predict(setting.x, setting.t)
    assert torch.equal(predict(setting.x, setting.t, labels=labels, guidance=1.0), conditional)
    assert_rows_close(predict(setting.x, setting.t, labels=labels, guidance=0.0), free, "bar")
    size = free.norm(dim=1) + conditional.norm(dim=1)
    for scale in (-1.0, 0.3, 2.5, 7.0):
        guided = predict(setting.x, setting.t, labels=labels, guidance=scale)
        expected = free + scale * (conditional - free)
        # a query without a class is not guided
        assert_rows_close(guided, torch.where(labels[:, None] < 0, free, expected), "bar", size * (1 + abs(scale)))


def test_guidance_of_a_union_and_of_all_classes(setting: Setting) -> None:
    x, t = setting.x, setting.t
    pair, every = torch.tensor([[1, 3]] * 8), torch.tensor([[0, 1, 2, 3]] * 8)
    free = setting.engine.velocity(x, t)
    expected = free + 3.0 * (setting.only(1, 3).velocity(x, t) - free)
    assert_rows_close(
        setting.engine.velocity(x, t, labels=pair, guidance=3.0), expected, "bar", 7 * expected.norm(dim=1)
    )
    assert_rows_close(setting.engine.velocity(x, t, labels=every, guidance=3.0), free, "bar")


def test_each_query_has_its_own_guidance(setting: Setting) -> None:
    scale = torch.tensor([0.0, 1.0, 2.0, 3.0, 0.5, 1.0, 4.0, -2.0])
    together = setting.engine.velocity(setting.x, setting.t, labels=1, guidance=scale)
    for place in range(8):
        one = slice(place, place + 1)
        alone = setting.engine.velocity(setting.x[one], setting.t[one], labels=1, guidance=float(scale[place]))
        assert_rows_close(together[one], alone, "bar")


def test_guidance_holds_inside_its_interval_of_time(setting: Setting) -> None:
    x, t = setting.x, setting.t
    velocity = setting.engine.velocity(x, t, labels=1, guidance=Guidance(3.0, t_min=0.3, t_max=0.7))
    inside = (t >= 0.3) & (t <= 0.7)
    guided = setting.engine.velocity(x, t, labels=1, guidance=3.0)
    assert_rows_close(velocity, torch.where(inside[:, None], guided, setting.engine.velocity(x, t, labels=1)), "bar")
    assert 0 < int(inside.sum()) < 8


def without(data: OracleDataset, index: int) -> OracleEngine:
    """Return an engine over all samples but one."""
    assert data.rows.log_weights is not None
    kept = torch.arange(len(data)) != index
    weights = data.rows.log_weights.exp()[data.row_of(torch.arange(len(data)))]
    assert data.labels is not None
    return OracleEngine(OracleDataset(data[:][kept], data.labels[kept], weights[kept]))


def test_leaving_one_out_is_the_data_set_without_it(setting: Setting) -> None:
    data = setting.engine.data
    # each query was made from the sample of its own index, which would else take all the weight late
    exclude = torch.arange(8)
    velocity = setting.engine.velocity(setting.x, setting.t, exclude=exclude)
    posterior = setting.engine.posterior(setting.x, setting.t, exclude=exclude)
    assert data.labels is not None
    conditional = setting.engine.log_density(setting.x, setting.t, labels=data.labels[:8], exclude=exclude)
    for place in range(8):
        rest, x, t = without(data, place), setting.x[place, None], setting.t[place, None]
        assert_rows_close(velocity[place, None], rest.velocity(x, t), "bar")
        assert_close(posterior.log_density[place, None], rest.log_density(x, t), "moment")
        assert_close(posterior.ess[place, None], rest.posterior(x, t).ess, "moment")
        own = rest.log_density(x, t, labels=int(data.labels[place]))
        assert_close(conditional[place, None], own, "moment")
    assert not bool((posterior.top_indices == exclude[:, None]).any())


def test_leaving_out_a_sample_of_another_class_changes_nothing(setting: Setting) -> None:
    data = setting.engine.data
    assert data.labels is not None
    other = int((data.labels == 3).nonzero()[0])
    assert_same_answers(setting.engine, setting.only(1), setting.x, setting.t, labels=1, exclude=other)
    for exclude in (-1, torch.full((8,), -1)):
        same = setting.engine.velocity(setting.x, setting.t, exclude=exclude)
        assert torch.equal(same, setting.engine.velocity(setting.x, setting.t))


def test_leaving_one_out_goes_together_with_guidance(setting: Setting) -> None:
    data, x, t = setting.engine.data, setting.x[3, None], setting.t[3, None]
    assert data.labels is not None
    label = int(data.labels[3])
    guided = setting.engine.velocity(x, t, labels=label, guidance=2.0, exclude=3)
    assert_rows_close(guided, without(data, 3).velocity(x, t, labels=label, guidance=2.0), "bar")


def test_what_is_left_may_weigh_next_to_nothing(generator: torch.Generator) -> None:
    points = normal(3, 4, generator)
    engine = OracleEngine(OracleDataset(points, weights=torch.tensor([1.0, 1e-20, 3e-20], dtype=torch.float64)))
    rest = OracleEngine(OracleDataset(points[1:], weights=torch.tensor([1.0, 3.0])))
    x = normal(2, 4, generator)
    assert_close(engine.log_density(x, 0.4, exclude=0), rest.log_density(x, 0.4), "moment")
    assert_close(engine.denoiser(x, 0.4, exclude=0), rest.denoiser(x, 0.4), "moment")
