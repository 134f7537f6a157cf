"""-1 means no class wherever it stands: in the labels of samples, and in unions of classes, for every quantity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from closed_form import clusters, normal
from engine_cases import PREDICTIONS, assert_same_answers
from refusals import refused
from tolerances import assert_close, assert_rows_close
from torch import Tensor

from oracle_engine import (
    Budget,
    Flip,
    Guidance,
    OracleDataset,
    OracleEngine,
    OracleTarget,
    PosteriorDraw,
    References,
    TopK,
    drop_labels,
    oracle_loss,
    path_sample,
    posterior_draw,
    samplers,
)
from oracle_engine.queries.conditions import Conditions

COUNT, DIM = 240, 64


@pytest.fixture
def data(generator: torch.Generator) -> OracleDataset:
    """Weighted samples of the classes 0, 2 and 3, a fifth of them without a class."""
    labels = torch.tensor([-1, 0, 2, 3, 3])[torch.randint(5, (COUNT,), generator=generator)]
    labels[:12] = torch.tensor([3, -1, 0, 2, 0, 3, 2, 2, 3, 0, 2, 3])
    weights = 0.5 + torch.rand(COUNT, generator=generator, dtype=torch.float64)
    return OracleDataset(clusters(COUNT, DIM, generator).float(), labels, weights)


@pytest.fixture
def queries(data: OracleDataset, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Queries made from the first twelve samples, at early and late times."""
    t = torch.tensor([0.0, 0.3, 0.5, 0.7, 0.9, 0.97] * 2, dtype=torch.float64)
    return path_sample("rectified_flow", data[:12].double(), normal(12, DIM, generator), t), t


def only(data: OracleDataset, *names: int) -> OracleEngine:
    """Return an engine over the samples of these classes, whose labels they keep."""
    assert data.labels is not None
    assert data.rows.log_weights is not None
    chosen = torch.isin(data.labels, torch.tensor(names))
    weights = data.rows.log_weights.exp()[data.row_of(torch.arange(len(data)))]
    return OracleEngine(OracleDataset(data[:][chosen], data.labels[chosen], weights[chosen]))


def test_they_are_in_no_class_and_in_the_whole(data: OracleDataset, queries: tuple[Tensor, Tensor]) -> None:
    x, t = queries
    engine = OracleEngine(data)
    assert set(data.segments) == {0, 2, 3}
    assert ", 3 classes, " in repr(data)
    assert_same_answers(engine, only(data, 2), x, t, labels=2)
    assert_same_answers(engine, only(data, 0, 3), x, t, labels=torch.tensor([[3, 0, -1]] * 12))
    whole = only(data, -1, 0, 2, 3)
    assert_same_answers(engine, whole, x, t)
    assert_same_answers(engine, whole, x, t, labels=torch.full((12, 2), -1))
    assert torch.equal(engine.velocity(x, t, labels=-1), engine.velocity(x, t))
    # the union of all classes is not the whole
    every = torch.tensor([[0, 2, 3]] * 12)
    assert_same_answers(engine, only(data, 0, 2, 3), x, t, labels=every)
    assert not torch.equal(engine.log_density(x, t, labels=every), engine.log_density(x, t))


@pytest.mark.parametrize("name", PREDICTIONS)
def test_guidance_starts_from_the_whole(data: OracleDataset, queries: tuple[Tensor, Tensor], name: str) -> None:
    x, t = queries
    engine, whole, part = OracleEngine(data), only(data, -1, 0, 2, 3), only(data, 3)
    free, conditional = getattr(whole, name)(x, t), getattr(part, name)(x, t)
    guided = getattr(engine, name)(x, t, labels=torch.tensor([[3, -1]] * 12), guidance=2.5)
    size = free.norm(dim=1) + conditional.norm(dim=1)
    assert_rows_close(guided, free + 2.5 * (conditional - free), "bar", 3.5 * size)


def test_leaving_one_out_leaves_no_other_mass(data: OracleDataset, queries: tuple[Tensor, Tensor]) -> None:
    x, t = queries
    assert data.labels is not None
    engine, out = OracleEngine(data), torch.arange(12)
    # sample 1 has no class: it is left out of the whole, and of no class
    for labels, chosen in ((-1, [-1, 0, 2, 3]), (2, [2])):
        density = engine.log_density(x, t, labels=labels, exclude=out)
        for place in range(12):
            keep = torch.isin(data.labels, torch.tensor(chosen)) & (torch.arange(COUNT) != place)
            assert data.rows.log_weights is not None
            weights = data.rows.log_weights.exp()[data.row_of(torch.arange(COUNT))]
            rest = OracleEngine(OracleDataset(data[:][keep], weights=weights[keep]))
            assert_close(density[place, None], rest.log_density(x[place, None], t[place, None]), "moment")


def searched(data: OracleDataset, **options: Any) -> OracleEngine:
    return OracleEngine(data, **options).prepare("pca")


@pytest.mark.parametrize("options", [{}, {"mode": TopK(40)}, {"mode": Budget(64)}], ids=["auto", "top_k", "budget"])
def test_padding_changes_no_answer_of_any_route(
    data: OracleDataset, queries: tuple[Tensor, Tensor], options: dict[str, Any]
) -> None:
    x, t = queries
    assert data.labels is not None
    plain = data.labels[:12]
    padded = torch.stack([torch.full_like(plain, -1), plain, torch.full_like(plain, -1)], 1)
    pair = torch.tensor([[0, 3]] * 12)
    wider = torch.tensor([[3, -1, 0, -1]] * 12)
    engine = searched(data, **options)
    for first, second in ((plain, padded), (pair, wider), (None, torch.full((12, 3), -1))):
        for source in (None, torch.arange(12)):
            for name in PREDICTIONS:
                ask: Callable[..., Tensor] = getattr(engine, name)
                assert torch.equal(ask(x, t, labels=first, source=source), ask(x, t, labels=second, source=source))
            ours, theirs = (engine.posterior(x, t, labels=one, source=source) for one in (first, second))
            for part in ("mean", "log_density", "ess", "entropy", "variance", "top_indices", "survivors"):
                assert torch.equal(getattr(ours, part), getattr(theirs, part)), part
            assert ours.route == theirs.route


def test_a_search_with_sources_agrees_with_a_scan(data: OracleDataset, queries: tuple[Tensor, Tensor]) -> None:
    x, t = queries
    assert data.labels is not None
    engine, exact = searched(data), OracleEngine(data)
    for labels in (None, data.labels[:12], torch.tensor([[2, -1, 3]] * 12), torch.full((12, 2), -1)):
        found = engine.velocity(x, t, labels=labels, source=torch.arange(12))
        assert_rows_close(found, exact.velocity(x, t, labels=labels), "prepared")


def test_a_sample_without_a_class_is_no_source_of_a_padded_union(data: OracleDataset) -> None:
    x, t = data[:3].double(), torch.full((3,), 0.5, dtype=torch.float64)
    labels = torch.tensor([[3, -1], [3, -1], [-1, -1]])
    builder = OracleEngine(data).request_builder
    request = builder.request(0.5 * x, t, Conditions(labels, source=torch.tensor([0, 1, 1])))
    # sample 0 has class 3, sample 1 has none
    assert request.source_counts(data).tolist() == [True, False, True]
    assert request.usable(data).tolist() == [len(data.segments[3]), len(data.segments[3]), COUNT]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"estimate": References(16, torch.Generator())},
        {"estimate": PosteriorDraw(torch.Generator())},
        {"augmentation": Flip()},
        {"leave_one_out": True},
        {"guidance": Guidance(2.0, t_max=0.6)},
    ],
    ids=["exact", "references", "draw", "flip", "leave one out", "guidance"],
)
def test_padding_changes_no_target(
    data: OracleDataset, queries: tuple[Tensor, Tensor], options: dict[str, Any]
) -> None:
    x, t = queries
    assert data.labels is not None
    target, source = OracleTarget(OracleEngine(data), **options), torch.arange(12)
    plain = data.labels[:12]
    answers = []
    for labels in (plain, plain[:, None], torch.stack([torch.full_like(plain, -1), plain], 1)):
        for part in options.values():
            if getattr(part, "generator", None) is not None:
                part.generator.manual_seed(5)
        answers.append(target(x, t, labels, source))
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


@pytest.mark.parametrize("options", [{"augmentation": Flip()}, {"estimate": PosteriorDraw()}])
def test_both_of_two_classes_are_a_union_for_every_estimate(
    generator: torch.Generator, options: dict[str, Any]
) -> None:
    data = OracleDataset(normal(30, 4, generator), torch.arange(30) % 2)
    x, labels = normal(3, 4, generator), torch.tensor([[0, 1, -1]] * 3)
    targets = []
    for one in (labels, None):
        torch.manual_seed(3)
        targets.append(OracleTarget(OracleEngine(data), **options)(x, 0.5, one))
    # draws over classes and over the whole take their random numbers in another order
    assert bool(targets[0].isfinite().all())
    if "estimate" not in options:
        assert_rows_close(targets[0], targets[1], "bar")


def test_hidden_labels_are_hidden_from_targets_whatever_holds_them(data: OracleDataset) -> None:
    engine, x = OracleEngine(data), data[:6]
    classes = torch.tensor([3, 0, 2, 3, 0, 2])
    expected = engine.velocity(0.5 * x, 0.5)
    rows = torch.nn.functional.one_hot(classes, 4)
    for labels in (classes, rows, rows.float(), rows.bool(), classes[:, None], rows.to(torch.uint8)):
        hidden = drop_labels(labels, 1.0)
        assert torch.equal(engine.velocity(0.5 * x, 0.5, labels=hidden), expected)
        kept = drop_labels(labels, 0.0)
        assert torch.equal(engine.velocity(0.5 * x, 0.5, labels=kept), engine.velocity(0.5 * x, 0.5, labels=classes))
    with refused("`labels` must be integers; received torch.float32. Remedy: pass labels.argmax"):
        drop_labels(rows.float() * 0.9 + 0.025, 0.5)


def test_padding_changes_no_draw_run_or_loss(data: OracleDataset, queries: tuple[Tensor, Tensor]) -> None:
    x, t = queries
    engine = OracleEngine(data)
    plain, padded = torch.tensor([3] * 12), torch.tensor([[-1, 3]] * 12)
    drawn = [
        posterior_draw(engine, x, t, labels=one, generator=torch.Generator().manual_seed(1)) for one in (plain, padded)
    ]
    assert torch.equal(*drawn)
    assert data.labels is not None
    assert bool((data.labels[drawn[0]] == 3).all())
    start = samplers.initial_noise(engine, 12, generator=torch.Generator().manual_seed(2))
    runs = [samplers.sample(engine, start, samplers.sampling_times(4), labels=one) for one in (plain, padded)]
    assert torch.equal(runs[0].x, runs[1].x)
    handles = [engine.trajectory(x, 0.2, labels=one).velocity(x, 0.5) for one in (plain, padded)]
    assert torch.equal(*handles)
    assert torch.equal(handles[0], engine.velocity(x, 0.5, labels=plain))
    losses = [
        oracle_loss(lambda x, t, y: -x, OracleTarget(engine), data[:12], one, t=t, eps=torch.zeros(12, DIM)).loss
        for one in (plain, padded)
    ]
    assert torch.equal(*losses)
