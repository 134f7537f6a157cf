"""What the theory says of the oracle holds of the engine: known answers, derivatives, invariances, conditioning."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from closed_form import Problem, gaussian_lattice, gaussian_log_density, generators, normal, problems, stored_as, times
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import assert_close, assert_rows_close, assert_within
from torch import Tensor

from oracle_engine import EDM, Guidance, OracleDataset, OracleEngine, Posterior, RectifiedFlow, ValueMap
from oracle_engine.kernels import Query, Span, reference_logits
from oracle_engine.paths import PATHS, coefficients

PREDICTIONS = ("velocity", "denoiser", "score", "noise")


def make_data(generator: torch.Generator, count: int = 60, dim: int = 5, **changes: Any) -> OracleDataset:
    """Return weighted float64 samples of four classes."""
    arguments = {
        "points": normal(count, dim, generator),
        "labels": torch.randint(4, (count,), generator=generator),
        "weights": torch.rand(count, generator=generator, dtype=torch.float64),
    }
    return OracleDataset(**(arguments | changes))


def predictions(engine: OracleEngine, x: Tensor, t: float | Tensor, **options: Any) -> Tensor:
    """Return velocity, denoiser, score and noise, [4, B, *shape]."""
    return torch.stack([getattr(engine, name)(x, t, **options) for name in PREDICTIONS])


def assert_same_posterior(first: Posterior, second: Posterior, tolerance: str = "float64") -> None:
    for name in ("mean", "log_density", "ess", "entropy", "variance", "top_weights"):
        assert_close(getattr(first, name), getattr(second, name), tolerance)


def column(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


@given(problems(), st.sampled_from([torch.float32, torch.float64]))
def test_problems_with_known_answers(problem: Problem, storage: torch.dtype) -> None:
    engine = OracleEngine(OracleDataset(problem.points, weights=problem.weights, storage=storage))
    velocity = engine.velocity(problem.x, problem.t)
    noise = (problem.x - problem.t[:, None] * problem.denoiser) / (1 - problem.t)[:, None]
    assert_rows_close(velocity, problem.velocity, "bar", problem.denoiser.norm(dim=1) + noise.norm(dim=1))
    posterior = engine.posterior(problem.x, problem.t, top_k=1)
    # the mean counts in units of what competes at this time
    reach = ((1 - problem.t) / problem.t).clamp_max(1) * problem.points.norm(dim=1).max() + 1e-3
    assert_rows_close(posterior.mean, problem.denoiser, "bar", reach)
    assert_close(posterior.log_density, problem.log_density, "moment")
    assert_close(posterior.ess, problem.ess, "moment")
    assert_close(posterior.entropy, problem.entropy, "moment")
    assert_close(posterior.variance, problem.variance, "moment", problem.points.square().sum(1).max())


@given(generators(), times(smallest=0.0, largest=0.9))
def test_two_opposite_samples_give_a_tanh(generator: torch.Generator, t: float) -> None:
    atom, x = normal(1, 3, generator), normal(5, 3, generator)
    engine = OracleEngine(OracleDataset(torch.cat([atom, -atom])))
    expected = torch.tanh(t / (1 - t) ** 2 * (x @ atom.T)) * atom
    assert_close(engine.denoiser(x, column(t)), expected, "float64")


@pytest.mark.parametrize("scale", [1.0, 0.02])
@pytest.mark.parametrize("path", ["rectified_flow", "vp", "edm"])
def test_the_score_is_the_gradient_of_the_log_density(generator: torch.Generator, scale: float, path: str) -> None:
    data = make_data(generator, value_map=ValueMap(scale, -0.5))
    rows, engine = data.rows, OracleEngine(data, path)
    t = torch.linspace(0.05, 0.9, 6, dtype=torch.float64)
    at = coefficients(engine.path, t)
    alpha, sigma = at.alpha_t, at.sigma_t
    x = (alpha[:, None] * data[:6] + scale * sigma[:, None] * normal(6, 5, generator)).requires_grad_()
    query = Query(
        (x - alpha[:, None] * data.base) / scale, alpha, scale**2 / sigma.square(), torch.empty(6, 0, 2).long()
    )
    constant = 0.5 * data.dim * (2 * math.pi * sigma.square()).log()
    log_density = reference_logits(rows, query, Span(0, len(rows))).logsumexp(1) - constant
    (gradient,) = torch.autograd.grad(log_density.sum(), x)
    assert_close(engine.log_density(x, t), log_density.detach(), "float64")
    assert_close(engine.score(x, t), gradient, "float64")


def test_the_divergence_of_the_denoiser_is_the_trace_of_the_covariance(generator: torch.Generator) -> None:
    engine = OracleEngine(make_data(generator))
    t = torch.linspace(0.1, 0.8, 8, dtype=torch.float64)
    x, step = t[:, None] * engine.data[:8] + (1 - t[:, None]) * normal(8, 5, generator), 1e-4
    trace = torch.zeros(8, dtype=torch.float64)
    for axis in torch.eye(5, dtype=torch.float64):
        rise = engine.denoiser(x + step * axis, t) - engine.denoiser(x - step * axis, t)
        trace += rise @ axis / (2 * step)
    assert_close(engine.posterior(x, t).variance * t / (1 - t).square(), trace, "finite difference")


def path_draws(data: OracleDataset, count: int, t: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return indices of equally likely samples, the noise, and the queries they make."""
    index = torch.randint(len(data), (count,), generator=generator)
    noise = normal(count, data.dim, generator)
    return index, noise, t * data[index] + (1 - t) * noise


def assert_zero_mean(values: Tensor) -> None:
    """Fail where the mean of independent draws is too many standard errors away from zero."""
    assert_within(values.mean() / (values.std() / math.sqrt(len(values))), "standard errors")


@pytest.mark.parametrize("t", [0.1, 0.25, 0.4])
def test_the_sample_that_made_a_query_weighs_what_one_over_ess_says(generator: torch.Generator, t: float) -> None:
    data = OracleDataset(normal(100, 12, generator).float().double())
    index, _, x = path_draws(data, 3000, t, generator)
    posterior = OracleEngine(data).posterior(x, t, top_k=100)
    own = (posterior.top_weights * (posterior.top_indices == index[:, None])).sum(1)
    assert float((own - 1 / posterior.ess).abs().max()) > 0.01
    assert_zero_mean(own - 1 / posterior.ess)


@pytest.mark.parametrize("path", ["rectified_flow", "gvp", "edm"])
def test_the_loss_is_the_distance_to_the_oracle_and_its_own(generator: torch.Generator, path: str) -> None:
    data, t = OracleDataset(normal(100, 12, generator)), column(0.3)
    engine = OracleEngine(data, path)
    at = coefficients(engine.path, t.reshape(1))
    index = torch.randint(100, (3000,), generator=generator)
    eps = normal(3000, 12, generator)
    target = at.d_alpha_t * data[index] + at.d_sigma_t * eps
    x = at.alpha_t * data[index] + at.sigma_t * eps
    velocity = engine.velocity(x, t)
    floor = (at.d_alpha_t - at.alpha_t * at.d_sigma_t / at.sigma_t).square() * engine.posterior(x, t).variance
    assert_zero_mean((target - velocity).square().sum(1) - floor)
    # any other field loses its distance to the oracle on top
    other = torch.tanh(x) + velocity
    excess = (target - other).square().sum(1) - (target - velocity).square().sum(1)
    assert_zero_mean(excess - (other - velocity).square().sum(1))


@pytest.mark.parametrize("path", ["rectified_flow", "polynomial"])
def test_following_the_oracle_ends_on_a_training_sample(generator: torch.Generator, path: str) -> None:
    data = OracleDataset(normal(50, 16, generator).float())
    engine, x = OracleEngine(data, path), normal(10, 16, generator)
    steps = torch.linspace(0, 1, 101, dtype=torch.float64)
    for t, following in pairwise(steps):
        # the path's own step: from x = alpha xhat + sigma eps to the same pair at the next time
        at = coefficients(engine.path, torch.stack([t, following]))
        x = at.alpha_t[1] * engine.denoiser(x, t) + at.sigma_t[1] * engine.noise(x, t)
    distance, nearest = torch.cdist(x, data[:].double()).min(1)
    assert_within(distance, "landing")
    assert len(nearest.unique()) > 1


def test_euler_steps_of_the_velocity_end_on_a_training_sample(generator: torch.Generator) -> None:
    data = OracleDataset(stored_as(normal(50, 16, generator), torch.uint8))
    engine, x = OracleEngine(data), normal(10, 16, generator)
    for step in range(100):
        x = x + engine.velocity(x, column(step / 100)) / 100
    values = data.rows.stored.double() * 2 / 255 - 1
    assert_within(torch.cdist(x, values).min(1).values, "landing")


@pytest.mark.parametrize("weights", [None, torch.arange(60.0)])
def test_at_the_noise_the_denoiser_is_the_mean(generator: torch.Generator, weights: Tensor | None) -> None:
    data = make_data(generator, weights=weights)
    engine, x = OracleEngine(data), normal(3, 5, generator)
    share = torch.full((60,), 1 / 60, dtype=torch.float64) if weights is None else weights.double() / weights.sum()
    mean = (share @ data[:]).expand(3, 5)
    assert_close(engine.denoiser(x, 0.0), mean, "float64")
    assert_close(engine.velocity(x, 0.0), mean - x, "float64")
    posterior = engine.posterior(x, 0.0)
    assert_close(posterior.ess, (1 / share.square().sum()).expand(3), "float64")
    assert_close(posterior.log_density, gaussian_log_density(x, torch.ones(3, dtype=torch.float64)), "float64")


@settings(max_examples=12)
@given(generators(), times(largest=0.99), st.sampled_from(sorted(PATHS)))
def test_moving_the_data_moves_the_answers(generator: torch.Generator, t: float, path: str) -> None:
    points, weights, move = normal(60, 5, generator), torch.rand(60, generator=generator), 3 * normal(1, 5, generator)
    data, moved = (OracleDataset(samples, weights=weights) for samples in (points, points + move))
    first, second = OracleEngine(data, path), OracleEngine(moved, path)
    at = coefficients(first.path, torch.full((4,), t, dtype=torch.float64))
    alpha, d_alpha = at.alpha_t[0], at.d_alpha_t[0]
    x = alpha * data[:4] + at.sigma_t[0] * normal(4, 5, generator)
    shift = torch.stack([d_alpha * move, move, 0 * move, 0 * move])
    size = 1 + predictions(first, x, column(t)).abs().amax((1, 2), keepdim=True)
    difference = predictions(second, x + alpha * move, column(t)) - predictions(first, x, column(t)) - shift
    assert_within(difference / size, "bar")
    ours, theirs = first.posterior(x, column(t)), second.posterior(x + alpha * move, column(t))
    assert_close(theirs.log_density, ours.log_density, "bar")
    assert_close(theirs.variance, ours.variance, "bar")


@settings(max_examples=8)
@given(generators(), times(largest=0.99))
def test_rotating_the_data_rotates_the_answers(generator: torch.Generator, t: float) -> None:
    data = OracleDataset(normal(60, 40, generator))
    rotation = torch.linalg.qr(normal(40, 40, generator)).Q
    first, second = OracleEngine(data), OracleEngine(OracleDataset(data[:] @ rotation))
    x = t * data[:4] + (1 - t) * normal(4, 40, generator)
    assert_rows_close(second.velocity(x @ rotation, column(t)), first.velocity(x, column(t)) @ rotation, "bar")
    assert_same_posterior(
        second.posterior(x @ rotation, column(t)),
        replace(first.posterior(x, column(t)), mean=first.denoiser(x, column(t)) @ rotation),
        "bar",
    )


@pytest.mark.parametrize("path", sorted(PATHS))
@pytest.mark.parametrize("point_std", [0.0, 0.2])
def test_the_four_predictions_say_the_same_on_every_path(
    generator: torch.Generator, path: str, point_std: float
) -> None:
    engine = OracleEngine(make_data(generator), path, point_std=point_std)
    t = torch.linspace(0, 0.98, 7, dtype=torch.float64)
    x = normal(7, 5, generator)
    velocity, denoiser, score, noise = predictions(engine, x, t)
    at = coefficients(engine.path, t)
    alpha, sigma, d_alpha, d_sigma = (v[:, None] for v in (at.alpha_t, at.sigma_t, at.d_alpha_t, at.d_sigma_t))
    assert_close(alpha * denoiser + sigma * noise, x, "float64")
    assert_close(score, -noise / sigma, "float64")
    assert_close(velocity, d_alpha * denoiser + d_sigma * noise, "float64")
    posterior = engine.posterior(x, t)
    assert_close(posterior.mean, denoiser, "float64")
    assert_close(posterior.log_density, engine.log_density(x, t), "float64")
    assert torch.equal(engine(x, t), velocity)


def test_paths_that_differ_by_scalars_agree(generator: torch.Generator) -> None:
    # x / alpha and sigma / alpha are all that matters: any path is the EDM path in other units
    data, t = make_data(generator), torch.linspace(0.2, 0.9, 5, dtype=torch.float64)
    levels = EDM(sigma_min=1e-3, sigma_max=100.0)
    edm, x = OracleEngine(data, levels), normal(5, 5, generator)
    for name in ("rectified_flow", "gvp", "vp", "linear_vp", "polynomial"):
        engine = OracleEngine(data, name)
        at = coefficients(engine.path, t)
        when = levels.time_of(at.sigma_t / at.alpha_t)
        assert_close(engine.denoiser(x, t), edm.denoiser(x / at.alpha_t[:, None], when), "float64")


class OtherScheduler:
    """A scheduler of another library: a callable that returns an object with four attributes."""

    def __call__(self, t: Tensor) -> Any:
        return SimpleNamespace(alpha_t=t, sigma_t=1 - t, d_alpha_t=torch.ones_like(t), d_sigma_t=-torch.ones_like(t))


def test_a_scheduler_of_another_library_is_a_path(generator: torch.Generator) -> None:
    data, x, t = make_data(generator), normal(6, 5, generator), torch.linspace(0, 0.9, 6, dtype=torch.float64)
    ours, theirs = OracleEngine(data, RectifiedFlow()), OracleEngine(data, OtherScheduler())
    assert torch.equal(predictions(ours, x, t), predictions(theirs, x, t))


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
    data = make_data(generator, 120, dim, points=normal(120, dim, generator).to(request.param))
    t = torch.tensor([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.3], dtype=torch.float64)
    return Setting(OracleEngine(data), t[:, None] * data[:8] + (1 - t[:, None]) * normal(8, dim, generator), t)


def assert_same_answers(first: OracleEngine, second: OracleEngine, x: Tensor, t: Tensor, **options: Any) -> None:
    """Compare velocities and posteriors; `options` are for the first engine."""
    assert_rows_close(first.velocity(x, t, **options), second.velocity(x, t), "bar")
    assert_same_posterior(first.posterior(x, t, **options), second.posterior(x, t), "moment")
    assert_close(first.log_density(x, t, **options), second.log_density(x, t), "moment")


@pytest.mark.parametrize("labels", [(2,), (0, 3), (3, 1, 0), (0, 1, 2, 3)])
def test_classes_are_the_data_set_of_their_samples(setting: Setting, labels: tuple[int, ...]) -> None:
    per_query = torch.tensor(labels).repeat(8, 1)
    assert_same_answers(setting.engine, setting.only(*labels), setting.x, setting.t, labels=per_query)
    # an empty place and a class named twice change nothing
    padded = torch.cat([torch.full((8, 1), -1), per_query, per_query[:, :1]], 1)
    assert_same_answers(setting.engine, setting.only(*labels), setting.x, setting.t, labels=padded)


def test_every_query_has_its_own_classes(setting: Setting) -> None:
    labels = torch.tensor([[0, -1], [1, 2], [-1, -1], [3, 3], [2, -1], [-1, 1], [0, 1], [-1, -1]])
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


@pytest.mark.parametrize("dim", [3, 50])
def test_a_weight_of_two_is_a_duplicate_and_a_weight_of_zero_is_no_sample(generator: torch.Generator, dim: int) -> None:
    points = normal(30, dim, generator).float()
    copies = torch.arange(30) % 3
    weighted = OracleEngine(OracleDataset(points, weights=copies))
    repeated = OracleEngine(OracleDataset(points.repeat_interleave(copies, 0)))
    t = torch.tensor([0.0, 0.2, 0.5, 0.9, 0.999], dtype=torch.float64)
    x = t[:, None] * points[1:6] + (1 - t[:, None]) * normal(5, dim, generator)
    assert_rows_close(weighted.velocity(x, t), repeated.velocity(x, t), "bar")
    ours, theirs = weighted.posterior(x, t), repeated.posterior(x, t)
    assert_close(ours.log_density, theirs.log_density, "moment")
    assert_close(ours.variance, theirs.variance, "moment")
    # the copies of a sample share its weight
    assert_close(ours.entropy, theirs.entropy - expected_log_copies(weighted, x, t, copies), "moment")


def expected_log_copies(engine: OracleEngine, x: Tensor, t: Tensor, copies: Tensor) -> Tensor:
    posterior = engine.posterior(x, t, top_k=len(copies))
    logs = copies.double().clamp_min(1).log()[posterior.top_indices.clamp_min(0)]
    return (posterior.top_weights * logs).sum(1)


@pytest.mark.parametrize("path", ["rectified_flow", "gvp", "vp", "linear_vp", "edm"])
def test_one_sample_with_a_width_is_a_gaussian(generator: torch.Generator, path: str) -> None:
    sample, width = normal(1, 6, generator), 0.4
    engine = OracleEngine(OracleDataset(sample), path, point_std=width)
    t = torch.linspace(0, 0.99, 5, dtype=torch.float64)
    at = coefficients(engine.path, t)
    x = at.alpha_t[:, None] * sample + normal(5, 6, generator)
    total = at.sigma_t.square() + (at.alpha_t * width).square()
    offset = x - at.alpha_t[:, None] * sample
    posterior = engine.posterior(x, t, top_k=1)
    assert_close(posterior.mean, sample + offset * (at.alpha_t * width**2 / total)[:, None], "float64")
    assert_close(engine.score(x, t), -offset / total[:, None], "float64")
    assert_close(posterior.log_density, gaussian_log_density(offset, total.sqrt()), "float64")
    assert_close(posterior.variance, 6 * width**2 * at.sigma_t.square() / total, "float64")


@pytest.mark.parametrize("value_map", [ValueMap(), ValueMap(0.25, -1.0)])
def test_samples_with_a_width_are_many_samples_around_each(generator: torch.Generator, value_map: ValueMap) -> None:
    points, width = normal(7, 1, generator), 0.3
    spread, shares = gaussian_lattice(width)
    weights = torch.rand(7, 1, generator=generator, dtype=torch.float64)
    values = points * value_map.scale + value_map.offset
    many = OracleDataset((values + spread.T).reshape(-1, 1), weights=(weights * shares).reshape(-1))
    t = torch.tensor([0.0, 0.2, 0.5, 0.8], dtype=torch.float64)
    x = normal(4, 1, generator)
    wide = OracleEngine(OracleDataset(points, weights=weights[:, 0], value_map=value_map), point_std=width)
    thin = OracleEngine(many)
    ours, theirs = wide.posterior(x, t, top_k=2), thin.posterior(x, t, top_k=2)
    assert_close(predictions(wide, x, t), predictions(thin, x, t), "quadrature")
    assert_close(ours.log_density, theirs.log_density, "quadrature")
    assert_close(ours.variance, theirs.variance, "quadrature")


@pytest.mark.parametrize("path", sorted(PATHS))
def test_samples_with_a_width_have_answers_at_the_data(generator: torch.Generator, path: str) -> None:
    engine = OracleEngine(make_data(generator), path, point_std=0.3)
    x = normal(4, 5, generator)
    just_before = column(1 - 2.0**-50)  # where sigma of linear_vp, a square root, is 4e-8
    assert_close(predictions(engine, x, column(1.0)), predictions(engine, x, just_before), "bar")


@pytest.mark.parametrize(
    "options", [{}, {"labels": 1}, {"labels": torch.tensor([[0, 2]])}, {"exclude": 5}, {"labels": 2, "exclude": 9}]
)
@pytest.mark.parametrize(("path", "point_std"), [("rectified_flow", 0.0), ("edm", 0.0), ("vp", 0.3)])
def test_densities_integrate_to_one(
    generator: torch.Generator, options: dict[str, Any], path: str, point_std: float
) -> None:
    data = make_data(generator, 60, 1, value_map=ValueMap(0.5, 1.0))
    engine = OracleEngine(data, path, point_std=point_std)
    for t in (0.1, 0.4, 0.6):
        at = coefficients(engine.path, torch.tensor([t], dtype=torch.float64))
        width = float((at.sigma_t.square() + (at.alpha_t * point_std).square()).sqrt())
        reach = 12 * width + 4
        grid = torch.arange(-reach, reach, width / 4, dtype=torch.float64)[:, None]
        given = {k: v.expand(len(grid), -1) if isinstance(v, Tensor) else v for k, v in options.items()}
        total = engine.log_density(grid, t, **given).exp().sum() * width / 4
        assert_within(total - 1, "quadrature")


@pytest.mark.parametrize("dim", [5, 60])
def test_a_query_does_not_care_who_is_asked_with_it(generator: torch.Generator, dim: int) -> None:
    # orders of magnitude apart in time and in size, which no maximum may be shared over
    engine = OracleEngine(OracleDataset(normal(300, dim, generator).float()))
    t = torch.tensor([1e-4, 0.05, 0.3, 0.6, 0.9, 0.99, 0.999, 1 - 1e-4] * 2, dtype=torch.float64)
    x = normal(16, dim, generator) * torch.logspace(-2, 2, 16, dtype=torch.float64)[:, None]
    together, posterior = engine.velocity(x, t), engine.posterior(x, t)
    for place in range(16):
        one = slice(place, place + 1)
        assert_rows_close(together[one], engine.velocity(x[one], t[one]), "bar")
        assert_close(posterior.log_density[one], engine.log_density(x[one], t[one]), "moment")
    order = torch.randperm(16, generator=generator)
    assert_rows_close(engine.velocity(x[order], t[order]), together[order], "bar")


def test_every_shape_of_time_means_the_same(generator: torch.Generator) -> None:
    engine = OracleEngine(make_data(generator, points=normal(60, 8, generator).reshape(60, 2, 2, 2)))
    x = normal(3, 8, generator).reshape(3, 2, 2, 2)
    expected = engine.velocity(x, 0.25)
    full = torch.full((3,), 0.25)
    for t in (
        torch.tensor(0.25),
        torch.tensor([0.25]),
        full,
        full.double(),
        full.half(),
        full[:, None],
        full[:, None, None, None],
    ):
        assert torch.equal(engine.velocity(x, t), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_answers_are_like_the_query(generator: torch.Generator, dtype: torch.dtype) -> None:
    engine = OracleEngine(make_data(generator, points=normal(60, 6, generator).float().reshape(60, 2, 3)))
    x = normal(4, 6, generator).reshape(4, 2, 3).to(dtype)
    tolerance = "float64" if dtype == torch.float64 else f"{str(dtype).removeprefix('torch.')} output"
    for name in PREDICTIONS:
        answer = getattr(engine, name)(x, 0.25)
        assert (answer.dtype, answer.shape) == (dtype, x.shape)
        # the query is taken at its word, whatever its dtype; only the answer is rounded
        assert_close(answer, getattr(engine, name)(x.double(), 0.25), tolerance)
    posterior = engine.posterior(x, 0.25)
    assert posterior.mean.dtype == dtype
    assert posterior.log_density.dtype == posterior.top_weights.dtype == torch.float64


def test_the_layout_of_the_query_does_not_matter(generator: torch.Generator) -> None:
    engine = OracleEngine(make_data(generator, points=normal(60, 8, generator).reshape(60, 2, 2, 2)))
    x = normal(4, 8, generator).reshape(4, 2, 2, 2)
    expected = engine.velocity(x, 0.3)
    strided = torch.stack([x, x], -1)[..., 0]
    permuted = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    for same in (strided, permuted, x.to(memory_format=torch.channels_last), x[:1].expand(4, 2, 2, 2)):
        answer = engine.velocity(same, 0.3)
        assert torch.equal(
            answer, expected if same.shape == x.shape and torch.equal(same, x) else expected[:1].expand_as(x)
        )


@pytest.mark.parametrize(
    "options",
    [{}, {"labels": 1}, {"labels": torch.empty(0, dtype=torch.int64)}, {"exclude": 3}, {"labels": 1, "guidance": 2.0}],
)
def test_no_queries_have_no_answers(generator: torch.Generator, options: dict[str, Any]) -> None:
    engine = OracleEngine(make_data(generator))
    x = torch.empty(0, 5)
    for t in (0.5, torch.empty(0)):
        assert predictions(engine, x, t, **options).shape == (4, 0, 5)
        rest = {name: value for name, value in options.items() if name != "guidance"}
        assert engine.log_density(x, t, **rest).shape == (0,)
        posterior = engine.posterior(x, t, top_k=3, **rest)
        assert (posterior.mean.shape, posterior.top_indices.shape, posterior.route) == ((0, 5), (0, 3), ())


def test_more_queries_than_are_scanned_together(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = OracleEngine(make_data(generator))
    x, t = normal(50, 5, generator), torch.rand(50, generator=generator, dtype=torch.float64)
    labels, exclude = (
        torch.randint(-1, 4, (50, 2), generator=generator),
        torch.randint(-1, 60, (50,), generator=generator),
    )
    whole = engine.velocity(x, t, labels=labels, exclude=exclude, guidance=2.0)
    posterior = engine.posterior(x, t, labels=labels, exclude=exclude)
    monkeypatch.setattr("oracle_engine.plan.MAX_BATCH", 7)
    assert_close(engine.velocity(x, t, labels=labels, exclude=exclude, guidance=2.0), whole, "bar")
    assert_same_posterior(engine.posterior(x, t, labels=labels, exclude=exclude), posterior, "moment")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_both_backends_give_the_same_posterior(generator: torch.Generator, dtype: torch.dtype) -> None:
    data = OracleDataset(stored_as(normal(200, 64, generator), dtype), torch.arange(200) % 3)
    t = torch.tensor([0.01, 0.2, 0.4, 0.6, 0.8, 0.99], dtype=torch.float64)
    values = data.rows.stored.double() * data.value_map.scale + data.value_map.offset
    x = t[:, None] * values[:6] + data.value_map.scale * (1 - t[:, None]) * normal(6, 64, generator)
    ours, truth = OracleEngine(data, backend="torch"), OracleEngine(data, backend="reference")
    assert_same_answers(ours, truth, x, t)
    assert torch.equal(ours.posterior(x, t).top_indices[:, 0], truth.posterior(x, t).top_indices[:, 0])
