"""The sampling and training loops of other projects, restated: what they pass to a model, and what they take apart.

Each says in its own words what the published code of the project does with the object that it calls a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torchdiffeq import odeint

Model = Callable[..., Any]


def per_sample_mean(values: Tensor) -> Tensor:
    """Return the mean over everything but the batch, [B]."""
    return values.flatten(1).mean(1)


def column(t: Tensor, x: Tensor) -> Tensor:
    """Return times [B] as [B, 1, ...], to multiply x with."""
    return t.reshape(-1, *[1] * (x.ndim - 1))


def sit_sample(model: Model, z: Tensor, *, steps: int, method: str = "euler", **model_kwargs: Any) -> Tensor:
    """SiT's ODE sampler: noise at 0, one time for each state, and an output of the shape of the states."""

    def drift(t: Tensor, x: Tensor) -> Tensor:
        output = model(x, torch.ones(x[0:].size(0)).to(x) * t, **model_kwargs)
        assert output.shape == x.shape
        found: Tensor = output
        return found

    ends: Tensor = odeint(drift, z, torch.linspace(0, 1, steps + 1).to(z), method=method)
    return ends[-1]


def sit_loss(model: Model, x1: Tensor, **model_kwargs: Any) -> Tensor:
    """SiT's training loss: x_t = t x1 + (1 - t) x0, and x1 - x0 to regress on."""
    t, x0 = torch.rand(len(x1)).to(x1), torch.randn_like(x1)
    x = column(t, x1) * x1 + (1 - column(t, x1)) * x0
    output = model(x, t, **model_kwargs)
    assert output.size() == x.size()
    return per_sample_mean((output - (x1 - x0)).square())


def repa_sample(
    model: Model,
    latents: Tensor,
    y: Tensor,
    *,
    steps: int,
    cfg_scale: float = 1.0,
    null: int = 1000,
    heun: bool = False,
) -> Tensor:
    """REPA's Euler and Heun sampler: data at 0, the first of what the model returns, guidance by a doubled batch."""

    def slope(x: Tensor, t: Tensor) -> Tensor:
        guided = cfg_scale > 1.0
        states = torch.cat([x, x]) if guided else x
        classes = torch.cat([y, torch.full_like(y, null)]) if guided else y
        times = torch.ones(len(states), dtype=torch.float64) * t
        found: Tensor = model(states.to(latents.dtype), times.to(latents.dtype), y=classes)[0].to(torch.float64)
        if not guided:
            return found
        towards, free = found.chunk(2)
        guided_slope: Tensor = free + cfg_scale * (towards - free)
        return guided_slope

    x = latents.double()
    grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    for step, (t, after) in enumerate(pairwise(grid)):
        first = slope(x, t)
        ahead = x + (after - t) * first
        if heun and step < steps - 1:
            ahead = x + (after - t) * (0.5 * first + 0.5 * slope(ahead, after))
        x = ahead
    return x


def repa_sde_sample(model: Model, latents: Tensor, y: Tensor, *, steps: int) -> Tensor:
    """REPA's Euler-Maruyama sampler: the score from the velocity, diffusion 2 t, a last step without noise."""
    x = latents.double()
    grid = torch.cat([torch.linspace(1.0, 0.04, steps, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    for t, after in pairwise(grid):
        velocity = model(x.to(latents.dtype), (torch.ones(len(x)) * t).to(latents.dtype), y=y)[0].double()
        # the score of x_t = (1 - t) X + t eps from its velocity
        score = -((1 - t) * velocity + x) / t
        x = x + (after - t) * (velocity - t * score)
        if after > 0:
            x = x + (2 * t).sqrt() * (after - t).abs().sqrt() * torch.randn_like(x)
    return x


def repa_loss(model: Model, images: Tensor, zs: list[Tensor], y: Tensor) -> tuple[Tensor, Any]:
    """REPA's loss: the output and the projected features, unpacked."""
    t, noise = torch.rand(len(images), 1, 1, 1).to(images), torch.randn_like(images)
    output, features = model((1 - t) * images + t * noise, t.flatten(), y=y)
    projection: Any = 0.0
    for teacher, student in zip(zs, features, strict=False):
        projection = projection - torch.nn.functional.cosine_similarity(teacher, student, dim=-1).mean()
    return per_sample_mean((output - (noise - images)).square()), projection / (len(zs) * zs[0].shape[0])


def torchcfm_sample(model: Model, x0: Tensor, steps: int) -> Tensor:
    """torchcfm's image example: odeint over model.forward(t, x)."""
    ends: Tensor = odeint(model.forward, x0, torch.linspace(0, 1, steps + 1).to(x0), method="euler")  # type: ignore[attr-defined]
    return ends[-1]


def torchcfm_plane_sample(model: Model, x0: Tensor, steps: int) -> Tensor:
    """torchcfm's examples in the plane: one argument, the time as last column."""

    def drift(t: Tensor, x: Tensor) -> Tensor:
        found: Tensor = model(torch.cat([x, t.repeat(len(x))[:, None]], 1))
        return found

    ends: Tensor = odeint(drift, x0, torch.linspace(0, 1, steps + 1).to(x0), method="euler")
    return ends[-1]


def transformer_pipeline(
    transformer: Model, scheduler: Any, latents: Tensor, *, steps: int, scale: float = 1.0, **conditions: Any
) -> Tensor:
    """A pipeline of diffusers: every timestep of the scheduler, keywords, the first of a tuple."""
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        states = torch.cat([latents] * 2) if scale != 1.0 else latents
        output = transformer(
            hidden_states=states,
            timestep=(t * conditions.get("unit", 1.0)).expand(len(states)),
            return_dict=False,
            **{name: value for name, value in conditions.items() if name != "unit"},
        )[0]
        if scale != 1.0:
            free, towards = output.chunk(2)
            output = free + scale * (towards - free)
        latents = scheduler.step(output, t, latents).prev_sample
    return latents


def transformer_loss(transformer: Model, x1: Tensor, steps: float, **conditions: Any) -> Tensor:
    """The training step of diffusers' flow matching scripts: noise - data at timestep = steps sigma."""
    sigma, noise = torch.rand(len(x1)).to(x1), torch.randn_like(x1)
    noisy = (1 - column(sigma, x1)) * x1 + column(sigma, x1) * noise
    output = transformer(hidden_states=noisy, timestep=steps * sigma, return_dict=False, **conditions)[0]
    return per_sample_mean((output - (noise - x1)).square())


def edm_sample(
    net: Any, latents: Tensor, class_labels: Tensor | None, *, steps: int = 18, churn: float = 0.0, **options: Any
) -> Tensor:
    """EDM's sampler (Karras et al. 2022, algorithm 2), with what it reads of the network."""
    sigma_min, sigma_max = max(0.002, net.sigma_min), min(80.0, net.sigma_max)
    root = torch.linspace(sigma_max ** (1 / 7), sigma_min ** (1 / 7), steps, dtype=torch.float64)
    levels = torch.cat([net.round_sigma(root**7), torch.zeros(1, dtype=torch.float64)])
    x = latents.double() * levels[0]
    for level, after in pairwise(levels):
        higher = net.round_sigma(level + churn * level)
        x = x + (higher**2 - level**2).sqrt() * torch.randn_like(x)
        slope = (x - net(x, higher, class_labels, **options).to(torch.float64)) / higher
        ahead = x + (after - higher) * slope
        if after > 0:
            end = (ahead - net(ahead, after, class_labels, **options).to(torch.float64)) / after
            ahead = x + (after - higher) * (0.5 * slope + 0.5 * end)
        x = ahead
    return x


def edm_loss(net: Any, images: Tensor, labels: Tensor | None) -> Tensor:
    """EDM's loss: augment_labels of no augmentation, noise levels [B, 1, 1, 1]."""
    sigma = (torch.randn(len(images), 1, 1, 1).to(images) * 1.2 - 1.2).exp()
    weight = (sigma**2 + net.sigma_data**2) / (sigma * net.sigma_data) ** 2
    denoised = net(images + sigma * torch.randn_like(images), sigma, labels, augment_labels=None)
    found: Tensor = weight * (denoised - images) ** 2
    return found


def edm2_loss(net: Any, images: Tensor, labels: Tensor | None) -> Tensor:
    """EDM2's loss: the log variance beside the denoised images."""
    sigma = (torch.randn(len(images), 1, 1, 1).to(images) - 0.4).exp()
    weight = (sigma**2 + net.sigma_data**2) / (sigma * net.sigma_data) ** 2
    denoised, logvar = net(images + sigma * torch.randn_like(images), sigma, labels, return_logvar=True)
    found: Tensor = weight / logvar.exp() * (denoised - images) ** 2 + logvar
    return found


def k_guided(model: Model, scale: float, null: int) -> Model:
    """k-diffusion's guided model: classes in a doubled batch, the null class first."""

    def guided(x: Tensor, sigma: Tensor, class_cond: Tensor) -> Tensor:
        classes = torch.cat([torch.full_like(class_cond, null), class_cond])
        free, towards = model(torch.cat([x, x]), torch.cat([sigma, sigma]), class_cond=classes).chunk(2)
        found: Tensor = free + (towards - free) * scale
        return found

    return guided


def k_euler(model: Model, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any]) -> Tensor:
    """k-diffusion's Euler sampler: sigma for each state, keywords in a dictionary."""
    ones = x.new_ones([len(x)])
    for sigma, after in pairwise(sigmas):
        x = x + (x - model(x, sigma * ones, **extra_args)) / sigma * (after - sigma)
    return x


def k_log_likelihood(model: Model, x: Tensor, sigma_min: float, sigma_max: float, *, tolerance: float) -> Tensor:
    """k-diffusion's log-likelihood: Hutchinson's estimate of the divergence by a gradient through the denoiser."""
    ones, probe = x.new_ones([len(x)]), torch.randint_like(x, 2) * 2 - 1

    def change(sigma: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            at = state[0].detach().requires_grad_()
            slope = (at - model(at, sigma * ones)) / sigma
            gradient = torch.autograd.grad((slope * probe).sum(), at)[0]
        return slope.detach(), (probe * gradient).flatten(1).sum(1)

    with torch.no_grad():
        span, start = x.new_tensor([sigma_min, sigma_max]), (x, x.new_zeros([len(x)]))
        states, gained = odeint(change, start, span, atol=tolerance, rtol=tolerance, method="dopri5")
    prior = -0.5 * (states[-1] / sigma_max).square() - math.log(sigma_max * math.sqrt(2 * math.pi))
    found: Tensor = prior.flatten(1).sum(1) + gained[-1]
    return found
