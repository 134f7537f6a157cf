"""Denoisers that are told the noise, not the time: EDM and k-diffusion, DDPM steps, smalldiffusion."""

from __future__ import annotations

import math
from copy import copy

import torch

from ..base.arrays import Float, Float64, Int64, Tensor, exact
from ..base.errors import invalid
from ..data.dataset import OracleDataset
from ..engine.engine import OracleEngine
from ..paths.paths import RectifiedFlow
from ..queries.request import Guidance
from .evidence import check_no_graph, refuse_reversed


class _Noisy:
    """An engine asked at x = alpha X + sigma eps for any alpha >= 0 and sigma > 0, whatever its own path.

    The posterior depends on alpha / sigma and x / sigma alone, so x / (alpha + sigma) at t = alpha / (alpha + sigma) of
    rectified flow is the same question.
    """

    def __init__(self, engine: OracleEngine) -> None:
        self.engine = engine

    @property
    def data(self) -> OracleDataset:
        """The data set of the engine."""
        return self.engine.data

    @property
    def _twin(self) -> OracleEngine:
        # made anew each time, so that it goes where the engine goes and uses what was prepared since
        twin = copy(self.engine)
        twin.path, twin.t_max = RectifiedFlow(), None
        return twin

    def _ask(
        self,
        what: str,
        x: Float[Tensor, "B ..."],
        alpha: Float64[Tensor, "B"],
        sigma: Float64[Tensor, "B"],
        labels: Tensor | None,
        guidance: float | Tensor | Guidance | None,
    ) -> Float[Tensor, "B ..."]:
        check_no_graph(x)
        if not bool(((sigma > 0) & (sigma < math.inf)).all()):
            remedy = "stop a sampler before its last, noise-free step: the denoiser of x without noise is x"
            raise invalid("sigma", "must be positive and finite", sigma.tolist(), remedy)
        total = alpha + sigma
        scaled = x.double() / total.reshape(-1, *[1] * (x.ndim - 1))
        answer: Tensor = getattr(self._twin, what)(scaled, alpha / total, labels=labels, guidance=guidance)
        return answer.to(x.dtype)


class EDMDenoiser(_Noisy):
    """The oracle as D(x; sigma) of EDM, EDM2 and k-diffusion: x = X + sigma eps, returns E[X | x].

    engine: its data and point_std count, not its path: every sigma > 0 is answered.
    sigma_min, sigma_max: what samplers may clip their schedule to. sigma_data: the standard deviation of the data.

    A call takes x [B, *shape], sigma (a number, [], [B] or [B, 1, ...]) and class_labels: integers [B], or one-hot
    [B, K] as EDM has them, a row of zeros for no class; it returns a tensor like x. Raises InputError.
    """

    def __init__(self, engine: OracleEngine, *, sigma_min: float = 0.0, sigma_max: float = math.inf) -> None:
        super().__init__(engine)
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.sigma_data = engine.data.variance_per_dim**0.5
        self.label_dim = 1 + max(engine.data.segments, default=-1)
        shape = engine.data.sample_shape
        self.img_channels, self.img_resolution = (shape[0] if len(shape) == 3 else 1), (shape[-1] if shape else 1)

    def __call__(
        self,
        x: Float[Tensor, "B ..."],
        sigma: int | float | Tensor,
        class_labels: Tensor | None = None,
        guidance: float | Tensor | Guidance | None = None,
    ) -> Float[Tensor, "B ..."]:
        """Return E[X | X + sigma eps = x], like x."""
        noise = _per_query("sigma", sigma, x)
        return self._ask("denoiser", x, torch.ones_like(noise), noise, _class_numbers(class_labels), guidance)

    def round_sigma(self, sigma: int | float | Tensor) -> Tensor:
        """Return the nearest noise level that the model takes: `sigma` itself."""
        return sigma if isinstance(sigma, Tensor) else exact(sigma)


class SmallDiffusionModel(_Noisy):
    """The oracle as a model of smalldiffusion: model(x, sigma, cond) returns E[eps | x], x = X + sigma eps.

    engine: its data and point_std count, not its path. cond: integer labels [B].
    """

    def __init__(self, engine: OracleEngine) -> None:
        super().__init__(engine)
        self.input_dims = engine.data.sample_shape

    def __call__(
        self, x: Float[Tensor, "B ..."], sigma: int | float | Tensor, cond: Tensor | None = None
    ) -> Float[Tensor, "B ..."]:
        """Return E[eps | x], like x."""
        return self.predict_eps(x, sigma, cond)

    def predict_eps(
        self, x: Float[Tensor, "B ..."], sigma: int | float | Tensor, cond: Tensor | None = None
    ) -> Float[Tensor, "B ..."]:
        """Return E[eps | x], like x."""
        noise = _per_query("sigma", sigma, x)
        return self._ask("noise", x, torch.ones_like(noise), noise, cond, None)

    def predict_eps_cfg(
        self, x: Float[Tensor, "B ..."], sigma: int | float | Tensor, cond: Tensor | None, cfg_scale: float
    ) -> Float[Tensor, "B ..."]:
        """Return eps_y + cfg_scale (eps_y - eps), like x."""
        if cond is None or cfg_scale == 0:
            return self.predict_eps(x, sigma, cond)
        noise = _per_query("sigma", sigma, x)
        return self._ask("noise", x, torch.ones_like(noise), noise, cond, 1.0 + cfg_scale)

    def rand_input(self, batchsize: int) -> Float[Tensor, "B ..."]:
        """Return standard normal noise, [batchsize, *shape] float32."""
        return torch.randn(batchsize, *self.input_dims, device=self.data.device)

    def eval(self) -> SmallDiffusionModel:
        """Return the model, which has no other mode."""
        return self


class DDPMDenoiser(_Noisy):
    """The oracle for tools that count DDPM steps: x_t = sqrt(a_t) X + sqrt(1 - a_t) eps, t = 0 least noise.

    engine: its data and point_std count, not its path. alphas_cumprod: a_t for t = 0 .. T - 1, falling, in [0, 1).
    check_time: refuse x that is unmistakably as noisy as at T - 1 - t. Raises InputError.
    """

    def __init__(self, engine: OracleEngine, alphas_cumprod: Tensor, *, check_time: bool = True) -> None:
        super().__init__(engine)
        self.alphas_cumprod = _checked_schedule(alphas_cumprod)
        self.check_time = check_time

    def denoise(
        self,
        x_t: Float[Tensor, "B ..."],
        t: int | Tensor,
        labels: Tensor | None = None,
        guidance: float | Tensor | Guidance | None = None,
    ) -> Float[Tensor, "B ..."]:
        """Return E[X | x_t], like x_t; t: a step or [B], integers in [0, T)."""
        steps, alpha, sigma = self._noise_at(x_t, t)
        answer = self._ask("denoiser", x_t, alpha, sigma, labels, guidance)
        if self.check_time and guidance is None:
            mirrored = (1 - self.alphas_cumprod.to(x_t.device)[len(self.alphas_cumprod) - 1 - steps]).sqrt()
            rest = x_t.double().flatten(1) - alpha[:, None] * answer.double().flatten(1)
            refuse_reversed(rest, sigma, mirrored)
        return answer

    def noise(
        self,
        x_t: Float[Tensor, "B ..."],
        t: int | Tensor,
        labels: Tensor | None = None,
        guidance: float | Tensor | Guidance | None = None,
    ) -> Float[Tensor, "B ..."]:
        """Return E[eps | x_t], what an eps network is trained to, like x_t; arguments as in :meth:`denoise`."""
        _, alpha, sigma = self._noise_at(x_t, t)
        return self._ask("noise", x_t, alpha, sigma, labels, guidance)

    def _noise_at(
        self, x_t: Tensor, t: int | Tensor
    ) -> tuple[Int64[Tensor, "B"], Float64[Tensor, "B"], Float64[Tensor, "B"]]:
        count = len(self.alphas_cumprod)
        given = _per_query("t", t, x_t)
        if not bool(((given >= 0) & (given < count) & (given == given.round())).all()):
            remedy = f"pass steps, 0 least noise and {count - 1} most; VelocityModel takes times in [0, 1]"
            raise invalid("t", f"must be whole steps in [0, {count})", given.unique().tolist()[:4], remedy)
        kept = self.alphas_cumprod.to(x_t.device)[given.long()]
        return given.long(), kept.sqrt(), (1 - kept).sqrt()


def _checked_schedule(alphas_cumprod: Tensor) -> Float64[Tensor, "T"]:
    schedule = torch.as_tensor(alphas_cumprod).detach().double()
    if schedule.ndim != 1 or not bool(((schedule >= 0) & (schedule < 1)).all()):
        wanted = "must be one-dimensional, in [0, 1)"
        raise invalid("alphas_cumprod", wanted, list(schedule.shape), "pass scheduler.alphas_cumprod")
    if not bool((schedule[1:] <= schedule[:-1]).all()):
        remedy = "pass alphas_cumprod.flip(0) if it runs from noise to data"
        raise invalid("alphas_cumprod", "must fall: t = 0 has the least noise", "a rise", remedy)
    return schedule


def _per_query(name: str, value: int | float | Tensor, x: Tensor) -> Float64[Tensor, "B"]:
    """Return a number, [], [1], [B] or [B, 1, ...] as float64 [B]."""
    given = exact(value).to(x.device)
    if given.numel() == 1:
        return given.reshape(1).expand(len(x))
    if given.numel() != len(x):
        raise invalid(
            name, f"must be a number, [{len(x)}] or [{len(x)}, 1, ...]", list(given.shape), "pass one a query"
        )
    return given.reshape(len(x))


def _class_numbers(class_labels: Tensor | None) -> Tensor | None:
    if class_labels is None or not (class_labels.is_floating_point() and class_labels.ndim == 2):
        return class_labels
    return torch.where(class_labels.any(1), class_labels.argmax(1), -1)
