"""Samples that were changed in place after the data set was made are refused by everything that uses them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from closed_form import normal, stored_as
from dataset_cases import LABELS, make_points
from recording import begin_capture
from refusals import refused
from torch import Tensor

from oracle_engine import OracleDataset, OracleEngine, OracleTarget, load_dataset, posterior_draw, samplers
from oracle_engine.base.arrays import STORAGE_DTYPES
from oracle_engine.data.prefixes import prefix_fingerprint
from oracle_engine.search.index import SearchIndex

X = torch.zeros(2, 4)


def told() -> AbstractContextManager[Any]:
    message = "`data` must stay as they were .*; received samples that were changed in place .*"
    return refused(message + "Remedy: make the data set anew, from a copy")


@pytest.fixture
def points(generator: torch.Generator) -> Tensor:
    return normal(80, 4, generator).float()


@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
def test_the_reported_case(generator: torch.Generator, dtype: torch.dtype) -> None:
    points = stored_as(normal(80, 4, generator), dtype)
    engine = OracleEngine(OracleDataset(points))
    before = engine.velocity(X, 0.5)
    points.mul_(2)
    with told():
        engine.velocity(X, 0.5)
    # the remedy, and what it buys
    engine = OracleEngine(OracleDataset(points.clone()))
    after = engine.velocity(X, 0.5)
    assert not torch.equal(before, after)
    points.mul_(2)
    assert torch.equal(engine.velocity(X, 0.5), after)


@pytest.mark.parametrize(
    "change",
    [
        lambda points: points[7].zero_(),
        lambda points: points.view(-1)[3:5].fill_(9.0),
        lambda points: points.T.add_(1.0),
        lambda points: points.copy_(points.flip(0)),
        lambda points: torch.add(points, 1.0, out=points),
        lambda points: points.__setitem__((79, 3), 5.0),
        lambda points: points.clamp_(-0.1, 0.1),
        lambda points: points.data.mul_(2.0),
        lambda points: points.numpy().__imul__(2.0),
        lambda points: np.negative(points.numpy(), out=points.numpy()),
        lambda points: points.detach().numpy().fill(0.0),
    ],
)
def test_any_change_of_the_samples_is_told(points: Tensor, change: Callable[[Tensor], Any]) -> None:
    engine = OracleEngine(OracleDataset(points))
    engine.velocity(X, 0.5)
    change(points)
    with told():
        engine.velocity(X, 0.5)


def test_a_step_of_an_optimiser_is_told(points: Tensor) -> None:
    learnt = torch.nn.Parameter(points)
    engine = OracleEngine(OracleDataset(learnt))
    learnt.grad = torch.ones_like(learnt)
    torch.optim.SGD([learnt], lr=0.1).step()
    with told():
        engine.velocity(X, 0.5)


def test_a_view_is_told_of_changes_of_what_it_views(points: Tensor) -> None:
    engine = OracleEngine(OracleDataset(points.reshape(80, 2, 2)[::2]))
    points[3, 1] = 4.0
    with told():
        engine.velocity(X.reshape(2, 2, 2), 0.5)


@pytest.mark.parametrize(
    "use",
    [
        lambda engine, folder: engine.denoiser(X, 0.5),
        lambda engine, folder: engine.score(X, 0.5),
        lambda engine, folder: engine.noise(X, 0.5),
        lambda engine, folder: engine.log_density(X, 0.5),
        lambda engine, folder: engine.posterior(X, 0.5),
        lambda engine, folder: engine.trajectory(X),
        lambda engine, folder: engine.velocity(X.clone().requires_grad_(), 0.5),
        lambda engine, folder: OracleTarget(engine)(X, 0.5),
        lambda engine, folder: posterior_draw(engine, X, 0.5),
        lambda engine, folder: samplers.sample(engine, X, samplers.sampling_times(3)),
        lambda engine, folder: engine.data[0],
        lambda engine, folder: engine.data.fingerprint,
        lambda engine, folder: prefix_fingerprint(engine.data, 3),
        lambda engine, folder: engine.data.variance_per_dim,
        lambda engine, folder: engine.data.save(folder / "data.safetensors"),
        lambda engine, folder: engine.data.to("cpu"),
        lambda engine, folder: engine.data.centred_at(engine.data.rows.centre + 1.0),
        lambda engine, folder: copy.deepcopy(engine),
        lambda engine, folder: copy.copy(engine.data),
        lambda engine, folder: pickle.dumps(engine.data),
        lambda engine, folder: torch.save(engine, folder / "engine.pt"),
    ],
)
def test_everything_that_uses_the_samples_refuses(
    points: Tensor, tmp_path: Path, use: Callable[[OracleEngine, Path], Any]
) -> None:
    engine = OracleEngine(OracleDataset(points))
    points.mul_(2.0)
    with told():
        use(engine, tmp_path)
    assert list(tmp_path.glob("*.safetensors")) == []


def test_a_gradient_is_not_taken_over_samples_that_changed_since(points: Tensor) -> None:
    x = X.clone().requires_grad_()
    total = OracleEngine(OracleDataset(points)).velocity(x, 0.5).sum()
    points.mul_(2.0)
    with told():
        total.backward()


@pytest.mark.usefixtures("unchecked")
def test_looking_up_samples_can_be_compiled_with_the_check(points: Tensor) -> None:
    data, index = OracleDataset(points), torch.tensor([3, 1])
    compiled = torch.compile(lambda index: 2.0 * data[index], backend="eager", fullgraph=True)
    assert torch.equal(compiled(index), 2.0 * points[index])


@pytest.mark.usefixtures("unchecked")
def test_compiled_code_refuses(points: Tensor) -> None:
    engine = OracleEngine(OracleDataset(points))
    compiled = torch.compile(lambda x: engine.velocity(x, 0.5), backend="eager", fullgraph=True)
    assert torch.equal(compiled(X), engine.velocity(X, 0.5))
    points.mul_(2.0)
    with told():
        compiled(X)


def test_an_index_is_not_used_for_samples_that_changed_since(generator: torch.Generator, tmp_path: Path) -> None:
    points, x = normal(200, 64, generator).float(), torch.zeros(2, 64)
    data = OracleDataset(points)
    engine = OracleEngine(data).prepare("pca", path=tmp_path / "index.safetensors")
    handle = engine.trajectory(x)
    engine.velocity(x, 0.9)
    points.mul_(2.0)
    for use in (
        lambda: engine.velocity(x, 0.9),
        lambda: engine.velocity(x, 0.9, source=torch.tensor([0, 1])),
        lambda: handle.velocity(x, 0.9),
        lambda: OracleEngine(data).prepare("pca"),
        lambda: SearchIndex.load(tmp_path / "index.safetensors", data),
        lambda: OracleEngine(data).use(SearchIndex.read(tmp_path / "index.safetensors")),
    ):
        with told():
            use()


def test_inference_tensors_are_watched_by_their_values(points: Tensor) -> None:
    with torch.inference_mode():
        held = points.clone()
        engine = OracleEngine(OracleDataset(held))
        engine.velocity(X, 0.5)
        held.mul_(2.0)
        with told():
            engine.velocity(X, 0.5)
    with told():
        engine.velocity(X, 0.5)


def test_arrays_and_mapped_files_are_watched_by_their_values(points: Tensor, tmp_path: Path) -> None:
    array = points.numpy().copy()
    engine = OracleEngine(load_dataset(array))
    engine.velocity(X, 0.5)
    array -= array.mean(0)
    with told():
        engine.velocity(X, 0.5)
    np.save(tmp_path / "points.npy", points.numpy())
    engine = OracleEngine(load_dataset(tmp_path / "points.npy"))
    engine.velocity(X, 0.5)
    written = np.load(tmp_path / "points.npy", mmap_mode="r+")
    written *= 2.0
    with told():
        engine.velocity(X, 0.5)


def test_a_loaded_data_set_is_watched_too(tmp_path: Path) -> None:
    OracleDataset(make_points(), LABELS).save(tmp_path / "six.safetensors")
    data = OracleDataset.load(tmp_path / "six.safetensors")
    x = torch.zeros(2, 2, 2)
    OracleEngine(data).velocity(x, 0.5)
    data.rows.stored.mul_(2.0)
    with told():
        OracleEngine(data).velocity(x, 0.5)


def test_copies_do_not_care_what_becomes_of_their_origin(points: Tensor, tmp_path: Path) -> None:
    labels = torch.arange(80) % 3
    engine = OracleEngine(OracleDataset(points))
    points.requires_grad_(False)
    expected = engine.velocity(X, 0.5)
    torch.save(engine, tmp_path / "engine.pt")
    independent = [
        copy.deepcopy(engine),
        pickle.loads(pickle.dumps(engine)),
        torch.load(tmp_path / "engine.pt", weights_only=False),
        OracleEngine(OracleDataset(points, storage=torch.float64)),
        # sorting by label copies
        OracleEngine(OracleDataset(points, labels)),
    ]
    points.mul_(2.0)
    for engine in independent:
        assert torch.allclose(engine.velocity(X, 0.5), expected)
        # they are watched on their own
        engine.data.rows.stored.add_(1.0)
        with told():
            engine.velocity(X, 0.5)


def test_labels_are_copied_and_those_that_are_handed_out_are_watched(points: Tensor) -> None:
    labels, weights = (torch.arange(80) % 3).sort().values, torch.rand(80, dtype=torch.float64) + 0.5
    data = OracleDataset(points, labels, weights)
    engine = OracleEngine(data)
    expected = engine.posterior(X, 0.5, labels=1)
    labels.fill_(2)
    weights.fill_(1.0)
    assert torch.equal(engine.posterior(X, 0.5, labels=1).mean, expected.mean)
    assert data.labels is not None
    data.labels.fill_(2)
    with told():
        engine.velocity(X, 0.5, labels=1)


@pytest.mark.parametrize(
    "harmless",
    [
        lambda points: points.requires_grad_(),
        lambda points: points.share_memory_(),
        lambda points: points.mul(2.0),
        lambda points: points.clone().mul_(2.0),
        lambda points: points[0],
        lambda points: points.numpy(),
        torch.nn.Parameter,
        lambda points: OracleDataset(points, storage=torch.float64),
        lambda points: OracleEngine(OracleDataset(points, value_map=None)).velocity(X, 0.5),
    ],
)
def test_nothing_else_is_taken_for_a_change(points: Tensor, harmless: Callable[[Tensor], Any]) -> None:
    # what happened before does not count
    points.mul_(0.5)
    engine = OracleEngine(OracleDataset(points))
    expected = engine.velocity(X, 0.5)
    harmless(points)
    assert torch.equal(engine.velocity(X, 0.5), expected)
    assert torch.equal(copy.copy(engine).velocity(X, 0.5), expected)
    assert torch.equal(engine.to("cpu").velocity(X, 0.5), expected)


def test_a_captured_graph_asks_for_the_version_alone(points: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    data = OracleDataset(points)
    begin_capture(monkeypatch)
    monkeypatch.setattr(torch, "equal", lambda *arguments: pytest.fail("a value was read"))
    data.check_unchanged()
    points.mul_(2.0)
    with told():
        data.check_unchanged()
