"""Denoisers of EDM, smalldiffusion and DDPM are the posterior mean at their noise; their samplers land on samples."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from adapter_cases import small_images
from closed_form import direct_weights, nearest, normal, values_of
from other_libraries import SMALL_SAMPLERS
from tolerances import assert_close, assert_rows_close

from oracle_engine import InputError, OracleDataset, OracleEngine
from oracle_engine.adapters import DDPMDenoiser, EDMDenoiser, SmallDiffusionModel

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
ALPHAS_CUMPROD = (1 - BETAS).cumprod(0)


@pytest.fixture
def data(generator: torch.Generator) -> OracleDataset:
    return small_images(generator)


def test_edm_denoiser_is_the_posterior_mean_at_every_noise(data: OracleDataset, generator: torch.Generator) -> None:
    sigma = torch.logspace(-3, 3, 13, dtype=torch.float64)
    x = values_of(data)[:13] + sigma[:, None] * normal(13, 24, generator)
    expected = direct_weights(values_of(data), x, torch.ones_like(sigma), sigma) @ values_of(data)
    # the path of the engine does not matter
    for path in ("rectified_flow", "edm", "vp"):
        model = EDMDenoiser(OracleEngine(data, path))
        for shape in ((13,), (13, 1, 1, 1)):
            assert_rows_close(model(x.reshape(13, 2, 3, 4), sigma.reshape(shape)).flatten(1), expected, "bar")
    one = model(x[:1].reshape(1, 2, 3, 4), float(sigma[0]))
    assert_rows_close(one.flatten(1), expected[:1], "bar")


def test_a_denoiser_goes_where_its_engine_goes(data: OracleDataset, generator: torch.Generator) -> None:
    engine = OracleEngine(data, "vp", t_max=0.5)
    model = EDMDenoiser(engine)
    x = torch.randn(2, 2, 3, 4, generator=generator)
    before = model(x, 0.3)
    # what is prepared afterwards counts, and the engine keeps its own path
    engine.prepare()
    assert_rows_close(model(x, 0.3), before, "prepared")
    assert (repr(engine.path), engine.t_max) == (repr(OracleEngine(data, "vp").path), 0.5)
    assert torch.equal(EDMDenoiser(OracleEngine(data))(x, 0.3), before)


def test_edm_samplers_find_what_they_ask_for(data: OracleDataset, generator: torch.Generator) -> None:
    model = EDMDenoiser(OracleEngine(data), sigma_min=0.002, sigma_max=80.0)
    assert (model.img_channels, model.img_resolution, model.label_dim) == (2, 4, 4)
    assert model.sigma_data == pytest.approx(float(values_of(data).var(0, correction=0).mean().sqrt()))
    # the deterministic sampler of Karras et al. (2022), algorithm 1
    root = torch.linspace(model.sigma_max ** (1 / 7), model.sigma_min ** (1 / 7), 18, dtype=torch.float64)
    sigmas = torch.cat([model.round_sigma(root**7), torch.zeros(1, dtype=torch.float64)])
    onehot = torch.eye(4)[torch.tensor([0, 1, 2, 3, 3])]
    x = sigmas[0] * torch.randn(5, 2, 3, 4, generator=generator, dtype=torch.float64)
    for sigma, after in pairwise(sigmas):
        slope = (x - model(x, sigma, onehot)) / sigma
        end = x + (after - sigma) * slope
        if after > 0:
            slope = 0.5 * (slope + (end - model(end, after, onehot)) / after)
            end = x + (after - sigma) * slope
        x = end
    assert_rows_close(x, nearest(x, data)[0], "landing")
    labels = data.labels
    assert labels is not None
    index = torch.cdist(x.flatten(1), values_of(data)).argmin(1)
    assert torch.equal(labels[data.index_of(index)], torch.tensor([0, 1, 2, 3, 3]))
    none = torch.zeros(5, 4)
    assert torch.equal(model(x, 1.0, none), model(x, 1.0))
    assert torch.equal(model(x, 1.0, onehot, guidance=2.0), model(x, 1.0, torch.tensor([0, 1, 2, 3, 3]), guidance=2.0))


@pytest.mark.parametrize("samples", SMALL_SAMPLERS, ids=lambda samples: samples.__module__)
def test_smalldiffusion_samples_the_oracle(samples: Any, data: OracleDataset) -> None:
    engine = OracleEngine(data)
    model = SmallDiffusionModel(engine)
    assert model.input_dims == (2, 3, 4)
    sigmas = torch.logspace(1.5, -2, 25)
    cond = torch.tensor([0, 1, 2])
    with torch.random.fork_rng():
        torch.manual_seed(3)
        *_, x = samples(model, sigmas, batchsize=3, cond=cond, cfg_scale=0.5)
    index = torch.cdist(x.flatten(1).double(), values_of(data)).argmin(1)
    labels = data.labels
    assert labels is not None
    assert torch.equal(labels[data.index_of(index)], cond)


def test_smalldiffusion_model_predicts_the_noise(data: OracleDataset, generator: torch.Generator) -> None:
    model, edm = SmallDiffusionModel(OracleEngine(data)), EDMDenoiser(OracleEngine(data))
    x, cond = 2 * torch.randn(3, 2, 3, 4, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2])
    for sigma in (torch.tensor(0.7), torch.tensor([0.5, 1.0, 2.0])[:, None, None, None]):
        assert_close(model(x, sigma), (x - edm(x, sigma)) / sigma, "float64", 10.0)
    conditional, free = model(x, 1.5, cond), model(x, 1.5)
    guided = model.predict_eps_cfg(x, torch.tensor(1.5), cond, 4.0)
    assert_close(guided, conditional + 4.0 * (conditional - free), "float64", 10.0)
    assert torch.equal(model.predict_eps_cfg(x, 1.5, cond, 0.0), conditional)


def test_ddpm_steps_denoise(data: OracleDataset, generator: torch.Generator) -> None:
    model = DDPMDenoiser(OracleEngine(data), ALPHAS_CUMPROD)
    t = torch.tensor([0, 3, 50, 200, 500, 999])
    alpha, sigma = ALPHAS_CUMPROD[t].sqrt(), (1 - ALPHAS_CUMPROD[t]).sqrt()
    x = alpha[:, None] * values_of(data)[:6] + sigma[:, None] * normal(6, 24, generator)
    expected = direct_weights(values_of(data), x, alpha, sigma) @ values_of(data)
    images = x.reshape(6, 2, 3, 4)
    assert_rows_close(model.denoise(images, t).flatten(1), expected, "bar")
    assert_close(model.noise(images, t).flatten(1), (x - alpha[:, None] * expected) / sigma[:, None], "bar", 10.0)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    assert model.denoise(images.float(), 500, labels, guidance=2.0).dtype == torch.float32


def test_ddim_over_ddpm_steps_lands_on_samples(data: OracleDataset, generator: torch.Generator) -> None:
    model = DDPMDenoiser(OracleEngine(data), ALPHAS_CUMPROD)
    x = torch.randn(4, 2, 3, 4, generator=generator, dtype=torch.float64)
    for t in range(999, -1, -37):
        mean, noise = model.denoise(x, t), model.noise(x, t)
        kept = ALPHAS_CUMPROD[t - 37] if t >= 37 else torch.ones(())
        x = kept.sqrt() * mean + (1 - kept).sqrt() * noise
    assert_rows_close(x, nearest(x, data)[0], "landing")


def test_ddpm_times_that_run_the_other_way(data: OracleDataset, generator: torch.Generator) -> None:
    model = DDPMDenoiser(OracleEngine(data), ALPHAS_CUMPROD)
    x = torch.randn(4, 2, 3, 4, generator=generator)
    model.denoise(x, 999)
    with pytest.raises(InputError, match=r"`t` seems to run the other way"):
        model.denoise(x, 0)
    DDPMDenoiser(OracleEngine(data), ALPHAS_CUMPROD, check_time=False).denoise(x, 0)
    with pytest.raises(InputError, match=r"`alphas_cumprod` must fall.*alphas_cumprod.flip\(0\)"):
        DDPMDenoiser(OracleEngine(data), ALPHAS_CUMPROD.flip(0))
    for t in (1000, -1, torch.tensor(0.5)):
        with pytest.raises(InputError, match=r"`t` must be whole steps in \[0, 1000\).*VelocityModel takes times"):
            model.denoise(x, t)


def test_noise_that_cannot_be_is_refused(data: OracleDataset) -> None:
    x = torch.zeros(2, 2, 3, 4)
    for sigma in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(InputError, match=r"`sigma` must be positive and finite.*stop a sampler before its last"):
            EDMDenoiser(OracleEngine(data))(x, sigma)
    with pytest.raises(InputError, match=r"`sigma` must be a number, \[2\] or"):
        EDMDenoiser(OracleEngine(data))(x, torch.ones(3))
    with pytest.raises(InputError, match="`alphas_cumprod` must be one-dimensional"):
        DDPMDenoiser(OracleEngine(data), torch.ones(3, 3))
