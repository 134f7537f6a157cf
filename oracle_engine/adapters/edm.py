"""The oracle as the denoiser of EDM, EDM2 and k-diffusion."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..base.arrays import Float, Int64, Numbers, Tensor, check_floating, exact, integers, on_device
from ..base.calls.checked import required
from ..base.errors import invalid
from ..engine.engine import OracleEngine
from ..queries.conditions import Guidance
from ..queries.labels import check_null_label
from .extras import check_extras
from .noise_levels import NoiseLevelModel


class EDMDenoiser(NoiseLevelModel):
    """The oracle as D(x; sigma) of EDM, EDM2 and k-diffusion: E[X | x] at x = X + sigma eps (Karras et al. 2022).

    engine: its data and point_std count, not its path: every sigma in [1e-140, 1e140] is answered.
    sigma_min, sigma_max: noise levels that samplers may clip their schedule to, in the units of the samples.
    null_label: what `class_cond` of k-diffusion says where there is no class, often the number of classes; None where
        it has -1 for it.
    ignore_conditions: whether other conditions of networks, such as mapping_cond, are ignored even where no class is
        named.
    Raises InputError for what is no engine.

    Besides, it has what samplers read: sigma_data, the standard deviation of the data; label_dim, the number of
    classes; img_channels and img_resolution, from the shape of a sample.

    >>> import torch, oracle_engine as oe
    >>> from oracle_engine import adapters
    >>> engine = oe.OracleEngine(oe.load_dataset("digits"))
    >>> denoiser = adapters.EDMDenoiser(engine, sigma_min=0.002, sigma_max=80.0)
    >>> denoiser(10.0 * torch.randn(4, 1, 8, 8), 10.0, torch.eye(10)[:4], force_fp32=True).shape
    torch.Size([4, 1, 8, 8])
    """

    # what the answer is, so that it is not taken for a velocity
    prediction = "denoiser"

    def __init__(
        self,
        engine: OracleEngine,
        *,
        sigma_min: float = 0.0,
        sigma_max: float = math.inf,
        null_label: int | None = None,
        ignore_conditions: bool = False,
    ) -> None:
        super().__init__(engine)
        check_null_label(null_label, engine.data.segments)
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.null_label, self.ignore_conditions = null_label, ignore_conditions
        self.sigma_data = engine.data.variance_per_dim**0.5
        self.label_dim = 1 + max(engine.data.segments, default=-1)
        shape = engine.data.sample_shape
        self.img_channels, self.img_resolution = (shape[0] if len(shape) == 3 else 1), (shape[-1] if shape else 1)

    def forward(
        self,
        x: Float[Tensor, "B ..."],
        sigma: Numbers,
        class_labels: Any = None,
        *,
        guidance: Numbers | Guidance | None = None,
        return_logvar: bool = False,
        **extras: Any,
    ) -> Float[Tensor, "B ..."] | tuple[Float[Tensor, "B ..."], Float[Tensor, "B ..."]]:
        """Return E[X | X + sigma eps = x].

        x: noised samples, [B, *sample_shape], any floating dtype, on the device of the data.
        sigma: noise levels in the units of the samples: a number, [], [B] or [B, 1, ...], in [1e-140, 1e140].
        class_labels: one-hot rows [B, label_dim] or [1, label_dim] of any dtype, as EDM has them, a row of zeros for no
            class; integers [B], -1 for no class; None for no classes.
        guidance: scale w of D_0 + w (D_y - D_0), a number, [B], or a Guidance; needs labels.
        return_logvar: whether to return EDM2's log variance of the loss as well: zeros [B, 1, ...], with which its loss
            is the weighted square.
        extras: what samplers pass to networks: class_cond, the classes of k-diffusion, integers [B]; force_fp32 is
            ignored, and so is everything that is None, empty or zero, such as augment_labels of images that are not
            augmented; other conditions as the class says.
        Returns [B, *sample_shape] in the dtype of x, differentiable as answers of the engine are; a pair with
        `return_logvar`.
        Raises InputError as OracleEngine.denoiser does, for other sigmas, for class labels of another width or that
        are not one-hot, and for extras that could change the answer of a network. Costs one denoiser.
        """
        check_floating("x", x)
        labels = self._labels(class_labels, extras.pop("class_cond", None), len(x))
        check_extras(extras, ignore_conditions=self.ignore_conditions or labels is not None)
        denoised = self._at_noise("denoiser", x, sigma, labels=labels, guidance=guidance)
        return (denoised, x.new_zeros(len(x), *[1] * (x.ndim - 1))) if return_logvar else denoised

    def round_sigma(self, sigma: Numbers) -> Tensor:
        """Return the nearest noise level that the model takes: `sigma` itself, as a tensor."""
        return sigma if isinstance(sigma, Tensor) else exact(sigma)

    def _labels(self, class_labels: Any, class_cond: Any, batch: int) -> Tensor | None:
        """Return the classes of a call, which may be one-hot rows or, as `class_cond`, numbers."""
        if class_cond is None:
            return (
                None
                if class_labels is None
                else self._classes(on_device(class_labels, self.data.device, "class_labels"), batch)
            )
        if class_labels is not None:
            raise invalid("class_cond", "must be left out beside class_labels", "both", "pass one of them")
        classes = integers("class_cond", class_cond, self.data.device, "pass class_cond.long()")
        return classes if self.null_label is None else classes.masked_fill(classes == self.null_label, -1)

    def _classes(self, labels: Tensor, batch: int) -> Int64[Tensor, "..."] | None:
        """Return one-hot rows as integers [B], -1 for a row of zeros, and integers as they are."""
        if labels.ndim != 2:
            return labels
        if labels.shape[1] != self.label_dim or len(labels) not in (1, batch):
            wanted = f"must be one-hot rows [{batch}, {self.label_dim}], or integers [{batch}]"
            remedy = "make them with torch.eye(denoiser.label_dim)[classes]"
            raise invalid("class_labels", wanted, list(labels.shape), remedy)
        if self.label_dim == 0:
            return None
        remedy = "name one class a query; unions and mixtures go through OracleEngine.denoiser(labels=)"
        proper = ((labels == 0) | (labels == 1)) & (labels.sum(1, keepdim=True) <= 1)
        labels = required(labels, proper, "class_labels", "must be one-hot rows, or rows of zeros", remedy)
        classes = torch.where((labels != 0).any(1), labels.to(torch.uint8).argmax(1), -1)
        return classes.expand(batch)
