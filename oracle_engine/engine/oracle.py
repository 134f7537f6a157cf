"""What answers queries: an engine of this process, or one behind a server."""

from __future__ import annotations

from typing import Any, cast

from ..base.arrays import Numbers, Tensor
from ..base.foreign import Queries, answered_alike, is_foreign
from ..paths.paths import Path
from ..queries.conditions import Conditions, Guidance
from ..queries.posterior import Posterior


class Oracle:
    """Answers about one data set along one path: an OracleEngine, or a RemoteOracle that asks a server.

    data: with len, sample_shape, segments by class, value_dtype and device. path: of x_t. point_std: width of every
    sample. t_max: where times are clamped, or None.
    """

    data: Any
    path: Path
    point_std: float
    t_max: float | None

    def _respond(self, name: str, x: Tensor, t: Numbers, conditions: Conditions) -> Tensor:
        """Return the answer called `name`, like x or, of a log density, [B] float64."""
        raise NotImplementedError

    def _asked(self, name: str, x: Queries, t: Numbers, conditions: Conditions) -> Queries:
        """Return :meth:`_respond` of x, which may be an array of another library, as an array like x."""
        asked: Any = x
        if is_foreign(x):
            answer = answered_alike(x, self.data.device, lambda points: self._respond(name, points, t, conditions))
        else:
            answer = self._respond(name, asked, t, conditions)
        return cast(Queries, answer)

    def posterior(
        self,
        x: Any,
        t: Numbers,
        *,
        labels: Numbers | None = None,
        exclude: Numbers | None = None,
        source: Numbers | None = None,
        top_k: int = 8,
    ) -> Posterior:
        """Return the posterior over the samples with its statistics; see :meth:`OracleEngine.posterior`."""
        raise NotImplementedError

    def forward(self, x: Queries, t: Numbers, **conditions: Any) -> Queries:
        """Return :meth:`velocity` of x at t under `conditions`, its keywords."""
        return self.velocity(x, t, **conditions)

    def velocity(
        self,
        x: Queries,
        t: Numbers,
        *,
        labels: Numbers | None = None,
        guidance: Numbers | Guidance | None = None,
        exclude: Numbers | None = None,
        source: Numbers | None = None,
    ) -> Queries:
        """Return the oracle velocity E[d_alpha X + d_sigma eps | x_t = x], like x.

        x: [B, *sample_shape], any floating dtype, on the device of the data. A NumPy array, or one that speaks DLPack
            (JAX, CuPy), is taken from where it is, and the answer is one too.
        t: a number, [], [B] or [B, 1, ...] in [0, 1], 0 noise and 1 data.
        labels: condition on a class: an integer, [B], or [B, U] for the union of U different classes; -1 stands for
            none. One-hot rows [B, K] of any dtype are understood where K - 1 is the largest class of the data; two
            columns of integers 0 and 1, which may be either, and soft labels are refused.
        guidance: scale w of v_0 + w (v_y - v_0), a number, [B], or a Guidance with an interval of t; needs labels.
        exclude: index of a sample that does not count, one for all or [B], -1 for none (leave-one-out).
        source: index of the sample that x was made from, x = alpha X + sigma eps, -1 for unknown; after prepare() it
            lets late queries do with far fewer samples. The answer is the same.
        Raises InputError for anything else, where sigma(t) = 0, and where no sample is left.
        The velocity is d_alpha m + d_sigma (x - alpha m) / sigma, m = sum_j softmax_j(log w_j - |x - alpha X_j|^2 /
        2 sigma^2) X_j the denoiser (arXiv 2512.02826). Costs one pass over the rows in question, 2 to 4 B N D
        operations.

        >>> import torch, oracle_engine as oe
        >>> engine = oe.OracleEngine(oe.load_dataset("digits"))
        >>> engine.velocity(torch.zeros(3, 1, 8, 8), 0.3, labels=torch.tensor([0, 1, -1])).shape
        torch.Size([3, 1, 8, 8])
        """
        return self._asked("velocity", x, t, Conditions(labels, guidance, exclude, source))

    def denoiser(
        self,
        x: Queries,
        t: Numbers,
        *,
        labels: Numbers | None = None,
        guidance: Numbers | Guidance | None = None,
        exclude: Numbers | None = None,
        source: Numbers | None = None,
    ) -> Queries:
        """Return the posterior mean E[X | x_t = x], like x.

        x, t, labels, guidance, exclude, source, errors and cost: as in :meth:`velocity`.
        """
        return self._asked("denoiser", x, t, Conditions(labels, guidance, exclude, source))

    def score(
        self,
        x: Queries,
        t: Numbers,
        *,
        labels: Numbers | None = None,
        guidance: Numbers | Guidance | None = None,
        exclude: Numbers | None = None,
        source: Numbers | None = None,
    ) -> Queries:
        """Return the gradient of log p_t at x, (alpha m - x) / sigma^2 with m the denoiser, like x.

        x, t, labels, guidance, exclude, source, errors and cost: as in :meth:`velocity`.
        """
        return self._asked("score", x, t, Conditions(labels, guidance, exclude, source))

    def noise(
        self,
        x: Queries,
        t: Numbers,
        *,
        labels: Numbers | None = None,
        guidance: Numbers | Guidance | None = None,
        exclude: Numbers | None = None,
        source: Numbers | None = None,
    ) -> Queries:
        """Return the posterior mean E[eps | x_t = x], (x - alpha m) / sigma with m the denoiser, like x.

        x, t, labels, guidance, exclude, source, errors and cost: as in :meth:`velocity`.
        """
        return self._asked("noise", x, t, Conditions(labels, guidance, exclude, source))

    def log_density(
        self,
        x: Queries,
        t: Numbers,
        *,
        labels: Numbers | None = None,
        exclude: Numbers | None = None,
        source: Numbers | None = None,
    ) -> Queries:
        """Return log p_t(x) in nats, float64 [B], of the class where labels are given.

        x, t, labels, exclude, source and errors: as in :meth:`velocity`.
        log p_t(x) = lse_j(log w_j - |x - alpha X_j|^2 / 2 s^2) - lse_j(log w_j) - (D/2) log(2 pi s^2).
        Costs half of a velocity: no weighted mean is taken.
        """
        return self._asked("log_density", x, t, Conditions(labels, None, exclude, source))
