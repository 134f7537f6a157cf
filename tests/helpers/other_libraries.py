"""Other libraries as the adapters meet them: the packages where they are installed, and small models of their protocol.

torchcfm and smalldiffusion require gigabytes beside torch and diffusers some twenty packages, so they are no part of
the test extra. The models below keep to what their documentation and papers say.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor


def installed(name: str) -> list[Any]:
    """Return the module called `name` in a list, or an empty list where it cannot be imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return [importlib.import_module(name)]
        except ImportError:
            return []


def installed_file(package: str, file: str) -> list[ModuleType]:
    """Return a module of a package whose __init__ needs more than the module does."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return []
    own = importlib.util.spec_from_file_location(f"{package}_{file}", Path(spec.origin).with_name(f"{file}.py"))
    assert own is not None
    assert own.loader is not None
    module = importlib.util.module_from_spec(own)
    try:
        own.loader.exec_module(module)
    except ImportError:
        return []
    return [module]


class ConditionalFlowMatcher:
    """x_t = t x1 + (1 - t) x0 + sigma eps, u = x1 - x0 (Tong et al. 2023, equations 14 and 15)."""

    def __init__(self, sigma: float = 0.0) -> None:
        self.sigma = sigma

    def sample_location_and_conditional_flow(
        self, x0: Tensor, x1: Tensor, t: Tensor | None = None, return_noise: bool = False
    ) -> tuple[Tensor, ...]:
        t = torch.rand(len(x0)).type_as(x0) if t is None else t
        eps = torch.randn_like(x0)
        x, u = self.draw(x0, x1, t.reshape(-1, *[1] * (x0.ndim - 1)), eps)
        return (t, x, u, eps) if return_noise else (t, x, u)

    def draw(self, x0: Tensor, x1: Tensor, t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        return t * x1 + (1 - t) * x0 + self.sigma * eps, x1 - x0


class TargetConditionalFlowMatcher(ConditionalFlowMatcher):
    """x_t = t x1 + (1 - (1 - sigma) t) eps, without x0 (Lipman et al. 2023, equations 20 and 21)."""

    def draw(self, x0: Tensor, x1: Tensor, t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        width = 1 - (1 - self.sigma) * t
        x = t * x1 + width * eps
        return x, (x1 - (1 - self.sigma) * x) / width


class VariancePreservingConditionalFlowMatcher(ConditionalFlowMatcher):
    """x_t = sin(pi t / 2) x1 + cos(pi t / 2) x0 + sigma eps (Albergo and Vanden-Eijnden 2023)."""

    def draw(self, x0: Tensor, x1: Tensor, t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        angle = math.pi / 2 * t
        x = angle.sin() * x1 + angle.cos() * x0 + self.sigma * eps
        return x, math.pi / 2 * (angle.cos() * x1 - angle.sin() * x0)


class ExactOptimalTransportConditionalFlowMatcher(ConditionalFlowMatcher):
    """Pairs the minibatch by a plan before it draws."""

    ot_sampler = None


class SchrodingerBridgeConditionalFlowMatcher(ExactOptimalTransportConditionalFlowMatcher):
    """Pairs by an entropic plan, with a Brownian bridge between."""


class FlowMatchScheduler:
    """Euler steps of dx/ds = noise - data over shifted s, as diffusers' flow matching schedulers take them."""

    def __init__(self, shift: float = 1.0, num_train_timesteps: int = 1000) -> None:
        self.shift, self.config = shift, SimpleNamespace(num_train_timesteps=num_train_timesteps, invert_sigmas=False)

    def set_timesteps(self, count: int) -> None:
        plain = torch.linspace(1, 1 / self.config.num_train_timesteps, count)
        sigmas = self.shift * plain / (1 + (self.shift - 1) * plain)
        self.timesteps = sigmas * self.config.num_train_timesteps
        self.sigmas, self._step = torch.cat([sigmas, torch.zeros(1)]), 0

    def step(self, output: Tensor, timestep: Tensor, sample: Tensor) -> SimpleNamespace:
        width = self.sigmas[self._step + 1] - self.sigmas[self._step]
        self._step += 1
        return SimpleNamespace(prev_sample=sample + width * output)


def ddim(
    model: Any, sigmas: Tensor, batchsize: int = 1, cond: Tensor | None = None, cfg_scale: float = 0.0
) -> Iterator[Tensor]:
    """Yield x after each DDIM step x - (sigma - sigma') eps, as smalldiffusion's samples does."""
    model.eval()
    x = model.rand_input(batchsize) * sigmas[0]
    for sigma, after in pairwise(sigmas):
        x = x - (sigma - after) * model.predict_eps_cfg(x, sigma.to(x), cond, cfg_scale)
        yield x


MATCHERS = [sys.modules[__name__], *installed("torchcfm.conditional_flow_matching")]
SCHEDULERS = [
    FlowMatchScheduler,
    *(module.FlowMatchEulerDiscreteScheduler for module in installed("diffusers.schedulers")),
]
SMALL_SAMPLERS = [ddim, *(module.samples for module in installed_file("smalldiffusion", "diffusion"))]
