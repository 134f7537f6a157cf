"""Targets are the oracle of what the loop draws: exact, over references, or drawn; and they fit any training loop."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, get_args

import jaxtyping
import pytest
import torch
from closed_form import normal
from hypothesis import given
from hypothesis import strategies as st
from tolerances import assert_close, assert_rows_close
from torch import Tensor

from oracle_engine import (
    Exact,
    Flip,
    Guidance,
    InputError,
    OracleDataset,
    OracleEngine,
    OracleTarget,
    PosteriorDraw,
    References,
    conditional_target,
    drop_labels,
    path_sample,
    posterior_draw,
)
from oracle_engine.paths import PATHS
from oracle_engine.targets import Prediction

PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)
TIMES = torch.tensor([0.05, 0.3, 0.6, 0.95], dtype=torch.float64)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Annotations are not checked, as for a user: what is wrong reaches the checks of the target."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def refused(message: str) -> AbstractContextManager[Any]:
    return pytest.raises(InputError, match=rf"^(?=.*\. Remedy: .+\.$){message}")


def pictures(count: int, generator: torch.Generator, scale: float = 1.0, **options: Any) -> OracleDataset:
    """Return samples [2, 3] in three classes, out of order, with different weights."""
    weights = 0.5 + torch.rand(count, generator=generator, dtype=torch.float64)
    points = scale * normal(count, 6, generator).reshape(count, 2, 3)
    return OracleDataset(points, torch.arange(count) % 3, weights, **options)


def doubled(data: OracleDataset, flip: Flip, without: int | None = None) -> OracleDataset:
    """Return the samples and their mirror images, stored."""
    assert data.rows.log_weights is not None
    keep = torch.tensor([index for index in range(len(data)) if index != without])
    weights = data.rows.log_weights.exp()[data.row_of(keep)]
    points, labels = data[keep], data.labels
    return OracleDataset(
        torch.cat([points, flip.apply(points)]),
        None if labels is None else labels[keep].repeat(2),
        torch.cat([weights * (1 - flip.probability), weights * flip.probability]),
    )


def queries(data: OracleDataset, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the sources of four queries and x_t, float64."""
    source = torch.tensor([0, 3, 4, 5])
    eps = torch.randn(4, *data.sample_shape, generator=generator, dtype=torch.float64)
    return source, path_sample("rectified_flow", data[source].double(), eps, TIMES)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_target_is_the_oracle(prediction: Prediction, dtype: torch.dtype, generator: torch.Generator) -> None:
    engine = OracleEngine(pictures(20, generator))
    x, labels = queries(engine.data, generator)[1].to(dtype).requires_grad_(), torch.tensor([0, -1, 2, 1])
    target = OracleTarget(engine, prediction, guidance=Guidance(2.0, t_max=0.5))(x, TIMES, labels)
    assert torch.equal(target, getattr(engine, prediction)(x, TIMES, labels, Guidance(2.0, t_max=0.5)))
    assert (target.dtype, target.shape, target.requires_grad) == (dtype, x.shape, False)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("width", [0.0, 0.3])
def test_estimates_go_through_the_same_conversions(
    prediction: Prediction, width: float, generator: torch.Generator
) -> None:
    engine = OracleEngine(pictures(20, generator), "gvp", point_std=width, backend="reference")
    x, labels = queries(engine.data, generator)[1], torch.tensor([0, -1, 2, 1])
    direct = OracleTarget(engine, prediction, guidance=3.0)
    # a flip that changes nothing goes by way of means and densities
    same = OracleTarget(engine, prediction, guidance=3.0, augmentation=_Nothing())
    assert_rows_close(same(x, TIMES, labels), direct(x, TIMES, labels), "float64")


class _Nothing(Flip):
    def apply(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("width", [0.0, 0.3])
@pytest.mark.parametrize("flip", [Flip(), Flip((-2, -1), 0.2)])
def test_a_flip_is_the_data_set_with_its_mirror_images(
    prediction: Prediction, width: float, flip: Flip, generator: torch.Generator
) -> None:
    data = pictures(20, generator)
    x, labels = queries(data, generator)[1], torch.tensor([0, -1, 2, 1])
    stored = OracleEngine(doubled(data, flip), point_std=width)
    target = OracleTarget(OracleEngine(data, point_std=width), prediction, augmentation=flip)
    assert_rows_close(target(x, TIMES), getattr(stored, prediction)(x, TIMES), "bar")
    assert_rows_close(target(x, TIMES, labels), getattr(stored, prediction)(x, TIMES, labels), "bar")
    guided = OracleTarget(target.engine, prediction, augmentation=flip, guidance=2.5)
    assert_rows_close(guided(x, TIMES, labels), getattr(stored, prediction)(x, TIMES, labels, 2.5), "bar")


def test_a_flip_of_bytes_needs_no_stored_copies(generator: torch.Generator) -> None:
    points = torch.randint(256, (40, 3, 4, 4), generator=generator, dtype=torch.uint8)
    x = torch.randn(4, 3, 4, 4, generator=generator)
    twice = OracleEngine(OracleDataset(torch.cat([points, points.flip(-1)])))
    target = OracleTarget(OracleEngine(OracleDataset(points)), augmentation=Flip())
    assert_rows_close(target(x, TIMES), twice(x, TIMES), "bar")


def test_leaving_one_out_leaves_out_its_mirror_image(generator: torch.Generator) -> None:
    data, flip = pictures(20, generator), Flip()
    source, x = queries(data, generator)
    target = OracleTarget(OracleEngine(data), leave_one_out=True, augmentation=flip)
    rest = OracleEngine(doubled(data, flip, without=7))
    assert_rows_close(target(x, TIMES, source=7), rest(x, TIMES), "bar")
    single = OracleTarget(OracleEngine(data), leave_one_out=True)
    source[1] = -1
    assert torch.equal(single(x, TIMES, source=source), OracleEngine(data)(x, TIMES, exclude=source))


def enumerated(
    target: OracleTarget, x: Tensor, t: float, monkeypatch: pytest.MonkeyPatch, labels: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the mean and mean square of a References target at one x [1, *shape] and t.

    Over every source, by its posterior weight, and every choice of references, by their prior weights.
    """
    data, estimate = target.engine.data, target.estimate
    assert isinstance(estimate, References)
    assert data.rows.log_weights is not None
    found = target.engine.posterior(x, t, labels=labels, top_k=len(data))
    pool = torch.arange(len(data)) if labels is None else torch.arange(len(data))[data.segments[labels].start :]
    pool = pool[: len(data) if labels is None else len(data.segments[labels])]
    prior = data.rows.log_weights.exp()[pool] / data.rows.log_weights.exp()[pool].sum()
    mean, square = torch.zeros_like(x), torch.zeros_like(x)
    for chosen in itertools.product(range(len(pool)), repeat=estimate.count - 1):
        rows = pool[list(chosen)]
        monkeypatch.setattr("oracle_engine.estimates.draw_prior", lambda *_, rows=rows: rows)
        for source, gamma in zip(found.top_indices[0], found.top_weights[0], strict=True):
            if source < 0:
                continue
            value = target(x, t, labels, source[None])
            weight = float(gamma * prior[list(chosen)].prod())
            mean, square = mean + weight * value, square + weight * value.square()
    return mean, square


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("width", [0.0, 0.2])
@pytest.mark.parametrize("labels", [None, 1])
def test_references_with_the_own_sample_average_to_the_oracle(
    t: float, width: float, labels: int | None, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    # as wide as the noise, so that several samples may have made x
    data = pictures(9 if labels else 3, generator, scale=1 - t)
    engine = OracleEngine(data, point_std=width, backend="reference")
    x = (1 - t) * torch.randn(1, 2, 3, generator=generator, dtype=torch.float64)
    oracle, spread = engine.velocity(x, t, labels), []
    for count in (1, 2, 3):
        mean, square = enumerated(OracleTarget(engine, estimate=References(count)), x, t, monkeypatch, labels)
        assert_rows_close(mean, oracle, "float64")
        spread.append(float((square - mean.square()).sum()))
    # the more references, the less variance; one is CFM
    assert spread[0] > spread[1] > spread[2] > 0


def test_references_without_the_own_sample_would_be_biased(generator: torch.Generator) -> None:
    data = OracleDataset(normal(3, 6, generator))
    x = torch.randn(1, 6, generator=generator, dtype=torch.float64)
    pairs = itertools.product(range(3), repeat=2)
    biased = torch.stack([OracleEngine(OracleDataset(data[torch.tensor(pair)]))(x, 0.5) for pair in pairs]).mean(0)
    oracle = OracleEngine(data)(x, 0.5)
    assert float((biased - oracle).norm()) > 0.05 * float(oracle.norm())


@pytest.mark.parametrize("width", [0.0, 0.2])
def test_flipped_references_average_to_the_oracle_of_both_copies(
    width: float, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    data, flip = pictures(3, generator), Flip(probability=0.3)
    x = torch.randn(1, 2, 3, generator=generator, dtype=torch.float64)
    engine = OracleEngine(data, point_std=width, backend="reference")
    target = OracleTarget(engine, estimate=References(3), augmentation=flip)
    stored = OracleEngine(doubled(data, flip), point_std=width, backend="reference")
    both = stored.posterior(x, 0.4, top_k=6)
    # either orientation may have made x: the weight of a source is that of its two copies
    weights = torch.zeros(6, dtype=torch.float64).index_copy(0, both.top_indices[0], both.top_weights[0])
    mean = torch.zeros_like(x)
    assert data.rows.log_weights is not None
    prior = data.rows.log_weights.exp()
    for rows in itertools.product(range(3), repeat=2):
        index = torch.tensor(rows)
        monkeypatch.setattr("oracle_engine.estimates.draw_prior", lambda *_, index=index: index)
        for source in range(3):
            share = weights[source] + weights[source + 3]
            mean = mean + share * prior[index].prod() * target(x, 0.4, source=source)
    assert_rows_close(mean, stored(x, 0.4), "float64")


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_one_reference_is_conditional_flow_matching(prediction: Prediction, generator: torch.Generator) -> None:
    engine = OracleEngine(pictures(20, generator), "gvp")
    source = torch.tensor([0, 3, 4, 5])
    x1, eps = engine.data[source], torch.randn(4, 2, 3, generator=generator, dtype=torch.float64)
    x = path_sample("gvp", x1, eps, TIMES)
    target = OracleTarget(engine, prediction, estimate=References(1))(x, TIMES, source=source)
    assert_rows_close(target, conditional_target("gvp", x1, eps, TIMES, prediction), "float64")


def test_references_of_a_class_are_drawn_from_it(generator: torch.Generator) -> None:
    points = torch.randn(30, 2, generator=generator) + 100 * (torch.arange(30) % 3)[:, None]
    engine = OracleEngine(OracleDataset(points, torch.arange(30) % 3))
    source = torch.tensor([3, 4, 5, 9])
    labels = torch.tensor([0, 1, 2, -1])
    target = OracleTarget(engine, "denoiser", estimate=References(8, generator))
    # the first times are early: every reference counts alike
    found = target(torch.ones(4, 2), 1e-6, labels, source)
    own_class = points[source]
    assert bool(((found - own_class)[:3].abs() < 10).all())
    with refused("`labels` must be the class of the sample that made x_t, or -1; received class 1 for a sample of "):
        target(0.5 * points[source], 0.5, torch.tensor([1, 1, 2, -1]), source)


@pytest.mark.parametrize("block", [1 << 22, 40])
@pytest.mark.parametrize("labels", [None, 1])
def test_draws_are_as_frequent_as_posterior_weights(
    block: int, labels: int | None, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    monkeypatch.setattr("oracle_engine.draws.BLOCK_VALUES", block * (1 if block > 40 else 2000))
    data = pictures(20, generator)
    engine = OracleEngine(data)
    x, count = torch.randn(1, 2, 3, generator=generator), 4000
    drawn = posterior_draw(engine, x.expand(count, 2, 3), 0.3, labels, exclude=4, generator=generator)
    found = engine.posterior(x, 0.3, labels, exclude=4, top_k=20)
    expected = torch.zeros(20, dtype=torch.float64)
    present = found.top_indices[0] >= 0
    expected[found.top_indices[0][present]] = found.top_weights[0][present]
    seen = drawn.bincount(minlength=20).double() / count
    assert bool((seen[expected == 0] == 0).all())
    assert float(seen[4]) == 0.0
    error = (expected * (1 - expected) / count).sqrt().clamp_min(1e-12)
    assert_close((seen - expected) / error * (expected > 0), torch.zeros(20), "standard errors", scale=1.0)


def test_a_draw_needs_no_more_memory_for_more_samples_and_repeats(generator: torch.Generator) -> None:
    engine = OracleEngine(OracleDataset(normal(300, 4, generator)))
    x = torch.randn(6, 4, generator=generator)
    first, again, other = (
        posterior_draw(engine, x, 0.1, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert posterior_draw(engine, x[:0], 0.1).shape == (0,)


def test_a_late_draw_is_the_sample_itself(generator: torch.Generator) -> None:
    points = normal(50, 8, generator)
    drawn = posterior_draw(OracleEngine(OracleDataset(points)), 0.999 * points, 0.999)
    assert torch.equal(drawn, torch.arange(50))


@pytest.mark.parametrize("augmentation", [None, Flip(probability=0.3)])
@pytest.mark.parametrize("guidance", [None, 2.0])
def test_drawn_targets_average_to_the_oracle(
    augmentation: Flip | None, guidance: float | None, generator: torch.Generator
) -> None:
    engine = OracleEngine(pictures(20, generator), point_std=0.1)
    x = torch.randn(1, 2, 3, generator=generator, dtype=torch.float64).expand(3000, 2, 3)
    estimate = PosteriorDraw(generator)
    options: dict[str, Any] = {"guidance": guidance, "augmentation": augmentation}
    drawn = OracleTarget(engine, estimate=estimate, **options)(x, 0.4, 1)
    oracle = OracleTarget(engine, **options)(x[:1], 0.4, 1)
    error = (drawn.mean(0) - oracle[0]) / (drawn.std(0) / math.sqrt(3000))
    assert_close(error, torch.zeros(2, 3), "standard errors", scale=1.0)


def test_a_drawn_target_points_to_a_sample_or_its_mirror_image(generator: torch.Generator) -> None:
    data = pictures(20, generator)
    x = torch.randn(40, 2, 3, generator=generator, dtype=torch.float64)
    drawn = OracleTarget(OracleEngine(data), "denoiser", estimate=PosteriorDraw(generator), augmentation=Flip())(x, 0.2)
    both = torch.cat([data[:], data[:].flip(-1)]).flatten(1)
    nearest = torch.cdist(drawn.flatten(1), both)
    assert float(nearest.amin(1).max()) < 1e-6
    assert {True, False} == set((nearest.argmin(1) < 20).tolist())


@given(st.sampled_from(sorted(PATHS)), st.floats(0.01, 0.95), st.integers(1, 3))
def test_predictions_of_one_sample_agree_with_each_other(path: str, t: float, batch: int) -> None:
    generator = torch.Generator().manual_seed(batch)
    x1, eps = (torch.randn(batch, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    x = path_sample(path, x1, eps, t)
    single = OracleEngine(OracleDataset(x1[:1]), path, backend="reference")
    for prediction in PREDICTIONS:
        conditional = conditional_target(path, x1[:1], eps[:1], t, prediction)
        assert_rows_close(conditional, getattr(single, prediction)(x[:1], t), "float64")


def test_dropped_labels_ask_for_no_class(generator: torch.Generator) -> None:
    labels = torch.arange(4000) % 3
    dropped = drop_labels(labels, 0.25, generator)
    assert bool(((dropped == labels) | (dropped == -1)).all())
    assert float((dropped == -1).double().mean()) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(drop_labels(labels, 0.0), labels)
    assert bool((drop_labels(labels[:, None].expand(-1, 2), 1.0) == -1).all())
    with refused("`probability` must lie in"):
        drop_labels(labels, 1.5)
    engine = OracleEngine(pictures(20, generator))
    x = torch.randn(4, 2, 3, generator=generator)
    mixed = OracleTarget(engine)(x, 0.3, torch.tensor([0, -1, 2, -1]))
    assert torch.equal(mixed[[1, 3]], engine(x, 0.3)[[1, 3]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prediction": "flow"}, "`prediction` must be one of velocity, denoiser, score, noise; received 'flow'"),
        ({"estimate": References}, "`estimate` must say what the target is made of; .* Remedy: pass Exact"),
        ({"leave_one_out": True, "estimate": References(4)}, "`leave_one_out` contradicts References"),
        ({"guidance": 2.0, "estimate": References(4)}, "`guidance` needs an estimate that is unbiased"),
        ({"augmentation": "crop"}, "`augmentation` must be Flip.*'crop', after which the loop draws from another set"),
        ({"augmentation": Flip((-3,))}, r"`augmentation` must flip dimensions of a sample; received \(-3,\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_options_that_contradict_each_other(options: Any, message: str, generator: torch.Generator) -> None:
    with refused(message):
        OracleTarget(OracleEngine(pictures(6, generator)), **options)


@pytest.mark.parametrize(
    ("estimate", "source", "message"),
    [
        (References(4), None, "`source` is needed for References; received None. Remedy: pass the indices"),
        (Exact(), None, "`source` is needed for leave_one_out"),
        (Exact(), torch.tensor([0, 6]), r"`source` must be indices of samples, -1 .. 5; received 6"),
        (References(4), torch.tensor([0, -1]), r"`source` must be indices of samples, 0 .. 5; received -1"),
        (Exact(), torch.tensor([0.0, 1.0]), r"`source` must be integers, one or \[2\]; received torch.float32"),
        (Exact(), torch.tensor([0, 1, 2]), r"`source` must be integers, one or \[2\]; received torch.int64 \[3\]"),
    ],
)
def test_sources_that_cannot_be_used(estimate: Any, source: Any, message: str, generator: torch.Generator) -> None:
    leave_one_out = isinstance(estimate, Exact)
    target = OracleTarget(OracleEngine(pictures(6, generator)), estimate=estimate, leave_one_out=leave_one_out)
    with refused(message):
        target(torch.zeros(2, 2, 3), 0.5, source=source)


@pytest.mark.parametrize("estimate", [Exact(), References(4), PosteriorDraw()])
def test_a_sample_that_cannot_have_made_x_is_refused(estimate: Any, generator: torch.Generator) -> None:
    data = pictures(6, generator)
    target, x = OracleTarget(OracleEngine(data), estimate=estimate), 0.99 * data[torch.tensor([1, 2])]
    assert bool(target(x, 0.99, source=torch.tensor([1, 2])).isfinite().all())
    with refused("`source` must be the index of the sample that x was made from"):
        target(x, 0.99, source=torch.tensor([1, 5]))


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_a_target_is_refused_in_words(generator: torch.Generator) -> None:
    with refused("`engine` must be an OracleEngine; received OracleDataset"):
        OracleTarget(pictures(6, generator))  # type: ignore[arg-type]
    with refused(r"`point_std` must be one width for all samples; received a tensor of shape \[6\]"):
        OracleEngine(pictures(6, generator), point_std=torch.ones(6))  # type: ignore[arg-type]
    with refused(r"`eps` must have the shape of x1, \[2, 3\]; received \[2, 4\]"):
        conditional_target("gvp", torch.zeros(2, 3), torch.zeros(2, 4), 0.5)
    with refused("`t` must leave a finite target"):
        conditional_target("vp", torch.zeros(2, 3), torch.zeros(2, 3), 1.0)
    with refused("`count` must be at least 1"):
        References(0)
    with refused("`dims` must be different and count from the end"):
        Flip((0,))
    with refused("`probability` must lie between 0 and 1"):
        Flip(probability=1.0)
    nobody = OracleDataset(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]), torch.tensor([0.0, 0.0, 1.0, 1.0]))
    with refused("`weights` must be positive for some sample; received none for query 0"):
        posterior_draw(OracleEngine(nobody), torch.zeros(1, 2), 0.5, labels=0)


class Batches(torch.utils.data.Dataset[Tensor]):
    """Noisy samples and their targets, computed where the item is asked for."""

    def __init__(self, target: OracleTarget) -> None:
        self.target = target

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        x = torch.full((2, 2, 3), float(index))
        return torch.stack([x, self.target(x, 0.5), torch.full_like(x, torch.get_num_threads())])


def test_a_cpu_target_answers_in_workers_on_one_thread(generator: torch.Generator) -> None:
    target = OracleTarget(OracleEngine(pictures(20, generator)))
    for x, found, threads in torch.utils.data.DataLoader(Batches(target), batch_size=None, num_workers=2):
        assert_rows_close(found, target(x, 0.5), "bar")
        assert bool((threads == 1).all())


def test_another_device_is_refused_in_workers(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    target = OracleTarget(OracleEngine(pictures(6, generator)))
    monkeypatch.setattr(OracleDataset, "device", torch.device("cuda", 0))

    class Worker:
        id = 3

    monkeypatch.setattr("torch.utils.data.get_worker_info", Worker)
    with refused("`engine` must be on the CPU inside a DataLoader worker; received an engine on cuda:0 in .* worker 3"):
        target(torch.zeros(2, 2, 3), 0.5)


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


class Student(torch.nn.Module):
    """A network, with its target inside or outside."""

    def __init__(self, target: OracleTarget | None = None) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Linear(7, 16), torch.nn.Linear(16, 6)
        self.target = target

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        hidden = self.first(torch.cat([x.flatten(1), t[:, None].to(x.dtype)], 1)).tanh()
        # a copy, because FSDP warns of views
        answer: Tensor = self.last(hidden).reshape(x.shape).clone()
        return answer if self.target is None else (answer - self.target(x, t)).square().mean()


def gradients(step: Any, student: torch.nn.Module) -> list[Tensor]:
    student.zero_grad()
    step().backward()
    found = [parameter.grad for parameter in student.parameters()]
    return [
        (grad.full_tensor() if hasattr(grad, "full_tensor") else grad).clone() for grad in found if grad is not None
    ]


@pytest.mark.parametrize("wrap", ["ddp", "fsdp"])
@pytest.mark.usefixtures("process_group")
def test_wrapped_students_train_with_the_target_inside_and_outside(wrap: str, generator: torch.Generator) -> None:
    target = OracleTarget(OracleEngine(pictures(20, generator)))
    x, t = torch.randn(4, 2, 3, generator=generator), TIMES.float()
    plain, inside = Student(), Student(target)
    inside.load_state_dict(plain.state_dict())
    expected = gradients(lambda: (plain(x, t) - target(x, t)).square().mean(), plain)
    outside = Student()
    outside.load_state_dict(plain.state_dict())
    for student in (inside, outside):
        wrapped = wrapped_by(wrap, student)
        steps = {
            inside: lambda wrapped=wrapped: wrapped(x, t),
            outside: lambda wrapped=wrapped: (wrapped(x, t) - target(x, t)).square().mean(),
        }
        for found, wanted in zip(gradients(steps[student], wrapped), expected, strict=True):
            assert_close(found, wanted, "float32 output")
    assert not list(target.parameters())
    assert not list(target.buffers())
    assert list(inside.state_dict()) == list(plain.state_dict())


def wrapped_by(wrap: str, student: torch.nn.Module) -> torch.nn.Module:
    if wrap == "ddp":
        return torch.nn.parallel.DistributedDataParallel(student)
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    torch.distributed.fsdp.fully_shard(student, mesh=mesh)
    return student


def test_a_compiled_student_trains_on_the_target(generator: torch.Generator) -> None:
    data = pictures(20, generator)
    target = OracleTarget(OracleEngine(data), estimate=References(4, generator))
    student, source = Student(), torch.tensor([0, 3, 4, 5])
    x, t = path_sample("rectified_flow", data[source], torch.ones(4, 2, 3).double(), TIMES).float(), TIMES.float()
    wanted = target(x, t, source=source)
    expected = gradients(lambda: (student(x, t) - wanted).square().mean(), student)
    compiled = torch.compile(student, fullgraph=True, backend="aot_eager")
    for found, grad in zip(
        gradients(lambda: (compiled(x, t) - wanted).square().mean(), student), expected, strict=True
    ):
        assert_close(found, grad, "float32 output")


@pytest.mark.parametrize("estimate", [Exact(), References(4), PosteriorDraw()])
def test_autocast_and_grad_modes_change_no_target(estimate: Any, generator: torch.Generator) -> None:
    data = pictures(40, generator, storage=torch.float32)
    x, source = torch.randn(4, 2, 3, generator=generator), torch.tensor([0, 3, 4, 5])

    def ask() -> Tensor:
        torch.manual_seed(3)
        target = OracleTarget(OracleEngine(data), estimate=estimate, augmentation=Flip())
        return target.forward(x, TIMES, source=source)

    expected = ask()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ask(), expected)
    with torch.inference_mode():
        assert torch.equal(ask(), expected)
