"""Samples with widths of their own: against mixtures of torch.distributions, and against the engine at equal widths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tolerances import assert_close

from oracle_engine import (
    DataFileError,
    InputError,
    Normalisation,
    OracleDataset,
    OracleEngine,
    PointGaussians,
    samplers,
)
from oracle_engine.engine import point_gaussians
from oracle_engine.paths.paths import PATHS, Coefficients, coefficients, resolve_path

# torch itself uses it where derivatives are taken forward
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

ANSWERS = ("velocity", "denoiser", "noise", "score", "log_density")

TIMES = torch.tensor([0.02, 0.3, 0.6, 0.9, 0.999], dtype=torch.float64)


def drawn(generator: torch.Generator, *, diagonal: bool = True) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return means and widths of 30 samples of 2 x 3 values, and a query for each time of TIMES."""
    means = torch.randn(30, 2, 3, generator=generator, dtype=torch.float64)
    shape = (30, 2, 3) if diagonal else (30,)
    stds = torch.rand(shape, generator=generator, dtype=torch.float64) * 0.8
    return means, stds, torch.randn(len(TIMES), 2, 3, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("path", [name for name in PATHS if name != "edm"])
@pytest.mark.parametrize("diagonal", [True, False])
def test_density_and_score_are_those_of_the_mixture(
    path: str, diagonal: bool, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    means, stds, x = drawn(generator, diagonal=diagonal)
    # several blocks of samples
    monkeypatch.setattr(point_gaussians, "PAIR_VALUES", 250)
    oracle = PointGaussians(means, stds, path=path)
    at = coefficients(resolve_path(path), TIMES)
    alpha, sigma = at.alpha_t[:, None, None], at.sigma_t[:, None, None]
    wide = stds.reshape(30, -1).expand(30, 6)
    deviation = ((alpha * wide).square() + sigma.square()).sqrt()
    parts = torch.distributions.Independent(torch.distributions.Normal(alpha * means.flatten(1), deviation), 1)
    weights = torch.distributions.Categorical(torch.ones(len(TIMES), 30, dtype=torch.float64))
    mixture = torch.distributions.MixtureSameFamily(weights, parts)
    points = x.flatten(1).requires_grad_()
    density = mixture.log_prob(points)
    (score,) = torch.autograd.grad(density.sum(), points)
    assert_close(oracle.log_density(x, TIMES), density.detach(), "float64")
    found = oracle.score(x, TIMES)
    assert_close(found.flatten(1), score, "float64")
    # x = alpha E[X | x] + sigma E[eps | x]
    assert_close(alpha * oracle.denoiser(x, TIMES) + sigma * oracle.noise(x, TIMES), x, "float64")
    assert_close(oracle.noise(x, TIMES), -sigma * found, "float64")
    d_alpha, d_sigma = at.d_alpha_t[:, None, None], at.d_sigma_t[:, None, None]
    assert_close(
        oracle.velocity(x, TIMES), d_alpha * oracle.denoiser(x, TIMES) + d_sigma * oracle.noise(x, TIMES), "float64"
    )


def test_equal_widths_are_the_width_of_the_engine(generator: torch.Generator) -> None:
    means, _, x = drawn(generator)
    engine = OracleEngine(OracleDataset(means, torch.arange(30) % 3), point_std=0.3)
    for stds in (torch.full((30,), 0.3), torch.full((30, 2, 3), 0.3)):
        oracle = PointGaussians(means, stds.double(), torch.arange(30) % 3)
        assert_close(oracle(x, TIMES), engine(x, TIMES), "bar")
        assert_close(oracle.log_density(x, TIMES), engine.log_density(x, TIMES), "moment")
        labels = torch.tensor([0, 1, 2, -1, 1])
        assert_close(oracle.velocity(x, TIMES, labels=labels), engine.velocity(x, TIMES, labels=labels), "bar")
        assert_close(oracle.denoiser(x, TIMES, labels=2), engine.denoiser(x, TIMES, labels=2), "bar")
        assert_close(oracle.log_density(x, TIMES, labels=labels), engine.log_density(x, TIMES, labels=labels), "moment")


def test_the_conditional_target_averages_to_the_velocity(generator: torch.Generator) -> None:
    means, stds, _ = drawn(generator)
    oracle = PointGaussians(means, stds)
    source = torch.randint(30, (10_000,), generator=generator)
    x1 = means[source] + stds[source] * torch.randn(10_000, 2, 3, generator=generator, dtype=torch.float64)
    eps = torch.randn(10_000, 2, 3, generator=generator, dtype=torch.float64)
    target, x_t = x1 - eps, 0.5 * x1 + 0.5 * eps
    velocity = oracle.velocity(x_t, 0.5)
    # what is left over has no component along any function of x_t, such as the velocity itself
    left = ((target - velocity) * velocity).flatten(1).sum(1)
    assert abs(float(left.mean())) < 4.5 * float(left.std()) / 100


def test_widths_keep_noise_until_the_end_and_runs_follow_it(generator: torch.Generator) -> None:
    means, stds, x = drawn(generator)
    oracle = PointGaussians(means, stds + 0.1)
    assert bool(oracle.velocity(x, 1.0).isfinite().all())
    run = samplers.sample(oracle, x.float(), samplers.sampling_times(10))
    assert bool(run.x.isfinite().all())
    moments = torch.cat([means[:, :, None], stds[:, :, None] + 0.1], 1)
    found = PointGaussians.from_moments(moments, scale=0.5).denoiser(x[:, :, None], TIMES)
    assert_close(found[:, :, 0], PointGaussians(0.5 * means, 0.5 * stds + 0.05).denoiser(x, TIMES), "float64")


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("diagonal", [True, False])
def test_derivatives_agree_with_differences(
    name: str, diagonal: bool, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    means, stds, x = drawn(generator, diagonal=diagonal)
    # several blocks of samples, in some of which a class has none
    monkeypatch.setattr(point_gaussians, "PAIR_VALUES", 150)
    monkeypatch.setattr(point_gaussians, "GRAPH_VALUES", 150)
    oracle = PointGaussians(means, stds, torch.arange(30) // 10, path="gvp")
    labels = torch.tensor([2, -1])

    def answer(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = getattr(oracle, name)(x, t, labels=labels)
        return found

    inputs = x[:2].clone().requires_grad_(), TIMES[1:3].clone().requires_grad_()
    assert torch.autograd.gradcheck(answer, inputs)
    if name in ("score", "log_density"):
        assert torch.autograd.gradgradcheck(answer, inputs)


def test_equal_widths_have_the_derivatives_of_the_engine(generator: torch.Generator) -> None:
    means, _, x = drawn(generator)
    engine = OracleEngine(OracleDataset(means), point_std=0.3)
    oracle = PointGaussians(means, torch.full((30,), 0.3))
    times = TIMES.clone().requires_grad_()
    for name in ANSWERS:
        found, wanted = (
            torch.autograd.grad(getattr(one, name)(x.requires_grad_(), times).square().sum(), (x, times))
            for one in (oracle, engine)
        )
        for part, its in zip(found, wanted, strict=True):
            assert_close(part, its, "derivative")


def test_transforms_take_the_derivatives_of_autograd(generator: torch.Generator) -> None:
    means, stds, x = drawn(generator)
    oracle, tangent = PointGaussians(means, stds), torch.randn(5, 2, 3, generator=generator, dtype=torch.float64)
    points, times = x.clone().requires_grad_(), TIMES.clone().requires_grad_()
    by_x, by_t = torch.autograd.grad((oracle.velocity(points, times) * tangent).sum(), (points, times))
    found = torch.func.grad(lambda x, t: (oracle.velocity(x, t) * tangent).sum(), (0, 1))(x, TIMES)
    assert_close(found[0], by_x, "float64")
    assert_close(found[1], by_t, "float64")
    change = torch.func.jvp(lambda t: oracle.velocity(x, t), (TIMES,), (torch.ones_like(TIMES),))[1]
    assert_close((change * tangent).flatten(1).sum(1), by_t, "float64")
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(TIMES, torch.ones_like(TIMES))
        forward = torch.autograd.forward_ad.unpack_dual(oracle.velocity(x, dual)).tangent
    assert forward is not None
    assert_close(forward, change, "float64")
    one_by_one = torch.vmap(lambda x, t: oracle.velocity(x[None], t)[0])(x, TIMES)
    assert_close(one_by_one, oracle.velocity(x, TIMES), "float64")


class Blind:
    """Rectified flow whose coefficients autograd does not see."""

    def __call__(self, t: torch.Tensor) -> Coefficients:
        t = t.detach()
        return Coefficients(t, 1.0 - t, torch.ones_like(t), -torch.ones_like(t))


def test_a_path_that_autograd_cannot_follow_has_no_derivative_in_t(generator: torch.Generator) -> None:
    means, stds, x = drawn(generator)
    oracle = PointGaussians(means, stds, path=Blind())
    points = x.clone().requires_grad_()
    (by_x,) = torch.autograd.grad(oracle.velocity(points, TIMES).sum(), points)
    (wanted,) = torch.autograd.grad(PointGaussians(means, stds).velocity(points, TIMES).sum(), points)
    assert torch.equal(by_x, wanted)
    with pytest.raises(InputError, match=r"`path` must be differentiable .* compute its coefficients with torch"):
        oracle.velocity(x, TIMES.clone().requires_grad_())


def test_what_cannot_be_used_is_refused(generator: torch.Generator, unchecked: None) -> None:
    means, stds, x = drawn(generator)
    with pytest.raises(InputError, match="stds"):
        PointGaussians(means, -stds)
    with pytest.raises(InputError, match="stds"):
        PointGaussians(means, stds[:3])
    with pytest.raises(InputError, match="moments"):
        PointGaussians.from_moments(torch.zeros(2, 3, 4, 4))
    with pytest.raises(InputError, match="labels"):
        PointGaussians(means, stds).velocity(x, TIMES, labels=1)
    plain = PointGaussians(means, stds)
    assert torch.equal(plain.velocity(x, TIMES, labels=-1), plain.velocity(x, TIMES))
    with pytest.raises(InputError, match="labels"):
        PointGaussians(means, stds, torch.arange(30) % 3).velocity(x, TIMES, labels=5)
    with pytest.raises(InputError, match="noise or width"):
        PointGaussians(means, 0.0 * stds).velocity(x, 1.0)
    with pytest.raises(InputError, match=r"`x` must have a dtype that holds the answer; .*for a larger score"):
        PointGaussians(means, 0.0 * stds).score(1e4 * torch.ones_like(x, dtype=torch.float16), 0.9)


def save_moments(folder: Path, generator: torch.Generator) -> torch.Tensor:
    """Write five latents as EDM2 does, and return their means and widths."""
    moments = torch.randn(5, 8, 2, 2, generator=generator).abs()
    (folder / "00000").mkdir()
    for number, part in enumerate(moments):
        np.save(folder / "00000" / f"img-mean-std-{number:08d}.npy", part.numpy())
    listed = [[f"00000/img-mean-std-{number:08d}.npy", number % 2] for number in range(5)]
    (folder / "dataset.json").write_text(str({"labels": listed}).replace("'", '"'))
    return moments


def test_a_folder_of_moments_is_read_with_its_labels_and_normalised(tmp_path: Path, generator: torch.Generator) -> None:
    moments = save_moments(tmp_path, generator)
    x = torch.randn(3, 4, 2, 2, generator=generator, dtype=torch.float64)
    labels, t = torch.arange(5) % 2, torch.tensor([0.1, 0.4, 0.8])
    plain = PointGaussians.from_moments(moments, labels)
    found = PointGaussians.from_files(tmp_path, None)
    assert torch.equal(found.velocity(x, t, labels=1), plain.velocity(x, t, labels=1))
    # (mu, s) of (latent - mean) / std * multiplier
    mean, std = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    scaled = PointGaussians.from_files(tmp_path, Normalisation(mean, std, 0.5))
    means, stds = moments.double().chunk(2, 1)
    scale = (0.5 / std.double())[:, None, None]
    wanted = PointGaussians((means - mean.double()[:, None, None]) * scale, stds * scale, labels)
    assert_close(scaled.denoiser(x, t), wanted.denoiser(x, t), "float64")


def test_other_folders_and_widths_below_zero_are_refused(tmp_path: Path, generator: torch.Generator) -> None:
    with pytest.raises(DataFileError, match="expected latents with means and widths, img-mean-std"):
        PointGaussians.from_files(tmp_path, None)
    save_moments(tmp_path, generator)
    file = tmp_path / "00000" / "img-mean-std-00000002.npy"
    np.save(file, -np.load(file))
    with pytest.raises(DataFileError, match=r"img-mean-std-00000002\.npy: .*a standard deviation below 0"):
        PointGaussians.from_files(tmp_path, None)
