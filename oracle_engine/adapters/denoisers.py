"""Denoisers whose argument is the noise level, not the time: EDM and k-diffusion, DDPM steps, smalldiffusion."""

from __future__ import annotations

import math
from copy import copy

import torch

from ..base.arrays import Float, Float64, Int64, Tensor, exact
from ..base.errors import invalid
from ..data.dataset import OracleDataset
from ..engine.engine import OracleEngine
from ..paths.paths import RectifiedFlow
from ..queries.conditions import Guidance
from .evidence import check_no_graph, refuse_reversed


class _NoiseLevelModel:
    """An engine queried at x = alpha X + sigma eps for any alpha >= 0 and sigma > 0, whatever its own path.

    The posterior depends on alpha / sigma and x / sigma alone, so x / (alpha + sigma) at t = alpha / (alpha + sigma) of
    rectified flow is the same query.
    """

    def __init__(self, engine: OracleEngine) -> None:
        self.engine = engine

    @property
    def data(self) -> OracleDataset:
        """The data set of the engine."""
        return self.engine.data

    @property
    def _rectified(self) -> OracleEngine:
        # copied at each use: it follows the engine to another device and uses an index that was prepared since
        engine = copy(self.engine)
        engine.path, engine.t_max = RectifiedFlow(), None
        return engine

    def _predict(
        self,
        prediction: str,
        x: Float[Tensor, "B ..."],
        alpha: Float64[Tensor, "B"],
        sigma: Float64[Tensor, "B"],
        *,
        labels: Tensor | None,
        guidance: float | Tensor | Guidance | None = None,
    ) -> Float[Tensor, "B ..."]:
        check_no_graph(x)
        if not bool(((sigma > 0) & (sigma < math.inf)).all()):
            remedy = "stop a sampler before its last, noise-free step: the denoiser of x without noise is x"
            raise invalid("sigma", "must be positive and finite", sigma.tolist(), remedy)
        total = alpha + sigma
        scaled = x.double() / total.reshape(-1, *[1] * (x.ndim - 1))
        predict = getattr(self._rectified, prediction)
        answer: Tensor = predict(scaled, alpha / total, labels=labels, guidance=guidance)
        return answer.to(x.dtype)


class EDMDenoiser(_NoiseLevelModel):
    """The oracle as D(x; sigma) of EDM, EDM2 and k-diffusion: E[X | x] at x = X + sigma eps (Karras et al. 2022).

    engine: its data and point_std count, not its path: every sigma > 0 is answered.
    sigma_min, sigma_max: noise levels that samplers may clip their schedule to, in the units of the samples.

    Besides, it has what samplers read: sigma_data, the standard deviation of the data; label_dim, the number of
    classes; img_channels and img_resolution, from the shape of a sample.

    >>> import torch, oracle_engine as oe
    >>> from oracle_engine import adapters
    >>> engine = oe.OracleEngine(oe.load_dataset("digits"))
    >>> denoiser = adapters.EDMDenoiser(engine, sigma_min=0.002, sigma_max=80.0)
    >>> denoiser(10.0 * torch.randn(4, 1, 8, 8), 10.0).shape
    torch.Size([4, 1, 8, 8])
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
        *,
        guidance: float | Tensor | Guidance | None = None,
    ) -> Float[Tensor, "B ..."]:
        """Return E[X | X + sigma eps = x].

        x: noised samples, [B, *sample_shape], any floating dtype, on the device of the data.
        sigma: noise levels in the units of the samples: a number, [], [B] or [B, 1, ...], positive and finite.
        class_labels: integers [B], -1 for no class, or one-hot [B, K] floating, as EDM has them, a row of zeros for no
            class; None for no classes.
        guidance: scale w of D_0 + w (D_y - D_0), a number, [B], or a Guidance; needs labels.
        Returns [B, *sample_shape] in the dtype of x.
        Raises InputError as OracleEngine.denoiser does, for other sigmas and for x that requires a gradient. Costs one
        denoiser.
        """
        noise, labels = _per_query("sigma", sigma, x), _class_numbers(class_labels)
        return self._predict("denoiser", x, torch.ones_like(noise), noise, labels=labels, guidance=guidance)

    def round_sigma(self, sigma: int | float | Tensor) -> Tensor:
        """Return the nearest noise level that the model takes: `sigma` itself, as a tensor."""
        return sigma if isinstance(sigma, Tensor) else exact(sigma)


class SmallDiffusionModel(_NoiseLevelModel):
    """The oracle as a model of smalldiffusion: model(x, sigma, cond) is E[eps | x] at x = X + sigma eps.

    engine: its data and point_std count, not its path. `input_dims` is the shape of a sample.
    """

    def __init__(self, engine: OracleEngine) -> None:
        super().__init__(engine)
        self.input_dims = engine.data.sample_shape

    def __call__(
        self, x: Float[Tensor, "B ..."], sigma: int | float | Tensor, cond: Tensor | None = None
    ) -> Float[Tensor, "B ..."]:
        """Return :meth:`predict_eps`."""
        return self.predict_eps(x, sigma, cond)

    def predict_eps(
        self, x: Float[Tensor, "B ..."], sigma: int | float | Tensor, cond: Tensor | None = None
    ) -> Float[Tensor, "B ..."]:
        """Return E[eps | X + sigma eps = x].

        x: noised samples, [B, *sample_shape], any floating dtype, on the device of the data.
        sigma: noise levels in the units of the samples: a number, [], [B] or [B, 1, ...], positive and finite.
        cond: classes, integers [B], -1 for none, or None.
        Returns [B, *sample_shape] in the dtype of x.
        Raises InputError as OracleEngine.noise does, for other sigmas and for x that requires a gradient. Costs one
        noise prediction.
        """
        noise = _per_query("sigma", sigma, x)
        return self._predict("noise", x, torch.ones_like(noise), noise, labels=cond)

    def predict_eps_cfg(
        self, x: Float[Tensor, "B ..."], sigma: int | float | Tensor, cond: Tensor | None, cfg_scale: float
    ) -> Float[Tensor, "B ..."]:
        """Return the guided noise eps_y + cfg_scale (eps_y - eps) (Ho and Salimans 2021).

        x, sigma, cond: as in :meth:`predict_eps`.
        cfg_scale: how far to go beyond the conditional noise; 0, or no `cond`, for no guidance.
        Returns [B, *sample_shape] in the dtype of x.
        Raises InputError as :meth:`predict_eps` does. Costs two noise predictions.
        """
        if cond is None or cfg_scale == 0:
            return self.predict_eps(x, sigma, cond)
        noise = _per_query("sigma", sigma, x)
        return self._predict("noise", x, torch.ones_like(noise), noise, labels=cond, guidance=1.0 + cfg_scale)

    def rand_input(self, batchsize: int) -> Float[Tensor, "B ..."]:
        """Return standard normal noise, [batchsize, *sample_shape] float32, on the device of the data."""
        return torch.randn(batchsize, *self.input_dims, device=self.data.device)

    def eval(self) -> SmallDiffusionModel:
        """Return the model, which has no other mode."""
        return self


class DDPMDenoiser(_NoiseLevelModel):
    """The oracle for tools that count DDPM steps: x_t = sqrt(a_t) X + sqrt(1 - a_t) eps, t = 0 least noise.

    engine: its data and point_std count, not its path.
    alphas_cumprod: a_t for t = 0 .. T - 1, [T], falling, in [0, 1) (Ho et al. 2020).
    check_time: whether to refuse x that is unmistakably as noisy as at T - 1 - t.
    Raises InputError for other `alphas_cumprod`.
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
        *,
        guidance: float | Tensor | Guidance | None = None,
    ) -> Float[Tensor, "B ..."]:
        """Return E[X | x_t].

        x_t: noised samples, [B, *sample_shape], any floating dtype, on the device of the data.
        t: steps, whole numbers in [0, T): one or [B].
        labels: classes, integers [B] or [B, U] for unions, -1 for none, or None.
        guidance: as in OracleEngine.denoiser, a number, [B], or a Guidance; needs labels.
        Returns [B, *sample_shape] in the dtype of x_t.
        Raises InputError as OracleEngine.denoiser does, for other steps, for x_t that requires a gradient, and where
        time seems to run the other way. Costs one denoiser.
        """
        steps, alpha, sigma = self._noise_at(x_t, t)
        answer = self._predict("denoiser", x_t, alpha, sigma, labels=labels, guidance=guidance)
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
        *,
        guidance: float | Tensor | Guidance | None = None,
    ) -> Float[Tensor, "B ..."]:
        """Return E[eps | x_t], what an eps network is trained to.

        x_t, t, labels, guidance: as in :meth:`denoise`. Returns [B, *sample_shape] in the dtype of x_t.
        Raises InputError as OracleEngine.noise does, for steps outside [0, T) and for x_t that requires a gradient; the
        direction of time is not checked. Costs one noise prediction.
        """
        _, alpha, sigma = self._noise_at(x_t, t)
        return self._predict("noise", x_t, alpha, sigma, labels=labels, guidance=guidance)

    def _noise_at(
        self, x_t: Tensor, t: int | Tensor
    ) -> tuple[Int64[Tensor, "B"], Float64[Tensor, "B"], Float64[Tensor, "B"]]:
        """Return the steps, alpha and sigma of each query."""
        count = len(self.alphas_cumprod)
        steps = _per_query("t", t, x_t)
        if not bool(((steps >= 0) & (steps < count) & (steps == steps.round())).all()):
            remedy = f"pass steps, 0 least noise and {count - 1} most; VelocityModel takes times in [0, 1]"
            raise invalid("t", f"must be whole steps in [0, {count})", steps.unique().tolist()[:4], remedy)
        kept = self.alphas_cumprod.to(x_t.device)[steps.long()]
        return steps.long(), kept.sqrt(), (1 - kept).sqrt()


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
    values = exact(value).to(x.device)
    if values.numel() == 1:
        return values.reshape(1).expand(len(x))
    if values.numel() != len(x):
        wanted = f"must be a number, [{len(x)}] or [{len(x)}, 1, ...]"
        raise invalid(name, wanted, list(values.shape), "pass one a query")
    return values.reshape(len(x))


def _class_numbers(class_labels: Tensor | None) -> Tensor | None:
    """Return one-hot labels [B, K] as integers [B], -1 for a row of zeros, and integers as they are."""
    if class_labels is None or not (class_labels.is_floating_point() and class_labels.ndim == 2):
        return class_labels
    return torch.where(class_labels.any(1), class_labels.argmax(1), -1)
