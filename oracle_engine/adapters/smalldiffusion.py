"""The oracle as a noise prediction of smalldiffusion."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..base.arrays import Float, Numbers, Tensor, check_floating
from ..engine.oracle import Oracle
from .noise_levels import NoiseLevelModel


class SmallDiffusionModel(NoiseLevelModel):
    """The oracle as a model of smalldiffusion: model(x, sigma, cond) is E[eps | x] at x = X + sigma eps.

    engine: its data and point_std count, not its path. `input_dims` is the shape of a sample.
    Raises InputError for what is no engine.
    """

    # what the answer is, so that it is not taken for a velocity
    prediction = "noise"

    def __init__(self, engine: Oracle) -> None:
        super().__init__(engine)
        self.input_dims = engine.data.sample_shape

    def forward(self, x: Float[Tensor, "B ..."], sigma: Numbers, cond: Numbers | None = None) -> Float[Tensor, "B ..."]:
        """Return :meth:`predict_eps` of `x` at `sigma` given `cond`."""
        return self.predict_eps(x, sigma, cond)

    def predict_eps(
        self, x: Float[Tensor, "B ..."], sigma: Numbers, cond: Numbers | None = None
    ) -> Float[Tensor, "B ..."]:
        """Return E[eps | X + sigma eps = x].

        x: noised samples, [B, *sample_shape], any floating dtype, on the device of the data.
        sigma: noise levels in the units of the samples: a number, [], [B] or [B, 1, ...], in [1e-140, 1e140].
        cond: classes, integers [B], -1 for none, or None.
        Returns [B, *sample_shape] in the dtype of x.
        Raises InputError as OracleEngine.noise does, and for other sigmas. Costs one noise prediction.
        """
        check_floating("x", x)
        return self._at_noise("noise", x, sigma, labels=cond)

    def predict_eps_cfg(
        self, x: Float[Tensor, "B ..."], sigma: Numbers, cond: Numbers | None, cfg_scale: float
    ) -> Float[Tensor, "B ..."]:
        """Return the guided noise eps_y + cfg_scale (eps_y - eps) (Ho and Salimans 2021).

        x, sigma, cond: as in :meth:`predict_eps`.
        cfg_scale: how far to go beyond the conditional noise; 0, or no `cond`, for no guidance.
        Returns [B, *sample_shape] in the dtype of x.
        Raises InputError as :meth:`predict_eps` does. Costs two noise predictions.
        """
        if cond is None or cfg_scale == 0:
            return self.predict_eps(x, sigma, cond)
        check_floating("x", x)
        return self._at_noise("noise", x, sigma, labels=cond, guidance=1.0 + cfg_scale)

    def get_loss(
        self,
        x0: Float[Tensor, "B ..."],
        sigma: Tensor,
        eps: Float[Tensor, "B ..."],
        cond: Numbers | None = None,
        *,
        loss: Callable[[Tensor, Tensor], Tensor] = torch.nn.functional.mse_loss,
    ) -> Float[Tensor, "..."]:
        """Return the loss of smalldiffusion's training loop: what no network can go below on average.

        x0: samples, [B, *sample_shape], any floating dtype.
        sigma: noise levels, [B, 1, ...]. eps: standard normal noise, like x0.
        cond: classes, integers [B], -1 for none, or None.
        loss: called with eps and its prediction. Raises InputError as :meth:`predict_eps` does. Costs one prediction.
        """
        return loss(eps, self.predict_eps(x0 + sigma * eps, sigma, cond))

    def rand_input(self, batchsize: int) -> Float[Tensor, "B ..."]:
        """Return standard normal noise, [batchsize, *sample_shape] float32, on the device of the data."""
        return torch.randn(batchsize, *self.input_dims, device=self.data.device)
