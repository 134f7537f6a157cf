"""The straight way to an answer: queries that ask for nothing but x and t, in one call of a kernel.

It refuses nothing in words: whatever it cannot answer takes the general way, which finds out why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..base.arrays import Float64, Numbers, Tensor
from ..data.dataset import OracleDataset
from ..data.sharded import ShardedDataset
from ..kernels import NativeAnswers, ValueSpace
from ..paths.paths import Path, coefficients, numbers_at
from ..queries.builder import NO_NOISE, ROUNDING
from ..queries.classes import scanned_together
from ..scans.backends import Backend

# operations of one call at most: the general way listens for Ctrl-C after so many
MOST_OPERATIONS = 3e10


@dataclass(frozen=True)
class StraightWay:
    """Answers over all samples of `data` along `path`.

    t_max: where times are clamped, or None. answers: the calls of a kernel. most: queries of one call.
    point_std: width of every sample. searched_from: least alpha^2 / sigma^2, in row units, of queries that a search
    may answer, which take the general way.
    """

    data: OracleDataset
    path: Path
    t_max: float | None
    answers: NativeAnswers
    most: int
    point_std: float
    searched_from: float

    @classmethod
    def of(
        cls,
        data: OracleDataset,
        path: Path,
        backend: Backend,
        point_std: float,
        *,
        t_max: float | None,
        searched_from: float,
    ) -> StraightWay | None:
        """Return the straight way over `data` with samples of width `point_std`, or None where `backend` has none."""
        if backend.answers is None or isinstance(data, ShardedDataset):
            return None
        space = ValueSpace(data.value_map.scale, data.value_map.offset, data.base, point_std, NO_NOISE)
        answers = backend.answers(data.rows, space, data.probes)
        if answers is None:
            return None
        most = min(scanned_together(data.dim), int(MOST_OPERATIONS / answers.operations(1)))
        return cls(data, path, t_max, answers, most, point_std, searched_from)

    def answer(self, name: str, x: Tensor, t: Numbers) -> Tensor | None:
        """Return the answer called `name` to x at t, like x and without a graph, or None where another look is needed.

        name: velocity, denoiser, score or noise; others take the general way. x, t: as a caller passes them.
        """
        if not self._takes(x) or self.data.is_counted_changed:
            return None
        factors = self._factors(name, t, x.shape[0])
        if factors is None or self._searched(factors):
            return None
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        return out if self.answers.write(x.contiguous(), factors, out) else None

    def _takes(self, x: Tensor) -> bool:
        """Return whether queries are plain tensors of the right shape, of which the one call knows all."""
        # a subclass may be no dense tensor of this process
        if type(x) is not Tensor or x.dtype not in ROUNDING or not x.is_cpu:
            return False
        shape = x.shape
        if shape[1:] != self.data.sample_shape or x.ndim == 0 or not 0 < shape[0] <= self.most:
            return False
        return x.layout is torch.strided and not x.is_nested and not x.is_neg()

    def _searched(self, factors: Tensor | Sequence[float]) -> bool:
        """Return whether a search may answer a query with these alpha and sigma."""
        if math.isinf(self.searched_from):
            return False
        alpha, sigma = factors[0], factors[1]
        noise = (sigma / self.data.value_map.scale) ** 2
        width = (alpha * self.point_std / self.data.value_map.scale) ** 2
        above = alpha**2 >= self.searched_from * (noise + width)
        return bool(above.any()) if isinstance(above, Tensor) else bool(above)

    def _factors(self, name: str, t: Numbers, batch: int) -> Tensor | Sequence[float] | None:
        """Return alpha, sigma, and what sample and noise are multiplied with; None where t needs another look."""
        if isinstance(t, Tensor) and t.numel() == 1 and t.ndim <= 1 and t.dtype in ROUNDING:
            t = t.item()
        if isinstance(t, (int, float)) and 0 <= t <= 1:
            return self._at_one(name, float(t if self.t_max is None else min(t, self.t_max)))
        return self._at_each(name, t, batch) if isinstance(t, Tensor) else None

    def _at_one(self, name: str, t: float) -> Sequence[float] | None:
        """Return alpha, sigma and the factors of a prediction at one time; None where the one call lacks them."""
        alpha, sigma, d_alpha, d_sigma = numbers_at(self.path, t)
        if name == "velocity":
            return alpha, sigma, d_alpha, d_sigma
        if name == "denoiser":
            return alpha, sigma, 1.0, 0.0
        if name == "noise":
            return alpha, sigma, 0.0, 1.0
        return (alpha, sigma, 0.0, -1.0 / sigma) if name == "score" and sigma > 0.0 else None

    def _at_each(self, name: str, t: Tensor, batch: int) -> Float64[Tensor, "4 B"] | None:
        """Return the same for a time of every query, [4, B]."""
        plain = type(t) is Tensor and t.dtype in ROUNDING and t.is_cpu and t.layout is torch.strided and not t.is_nested
        if not plain or t.numel() != batch or t.shape[:1] != (batch,):
            return None
        with torch.no_grad():
            times = t.double().reshape(batch)
            first, last = times.aminmax()
            if not (first.item() >= 0.0 and last.item() <= 1.0):
                return None
            at = coefficients(self.path, times if self.t_max is None else times.clamp_max(self.t_max))
            if name == "velocity":
                return torch.stack([at.alpha_t, at.sigma_t, at.d_alpha_t, at.d_sigma_t])
            zero, one = torch.zeros_like(times), torch.ones_like(times)
            if name == "denoiser":
                return torch.stack([at.alpha_t, at.sigma_t, one, zero])
            if name == "noise":
                return torch.stack([at.alpha_t, at.sigma_t, zero, one])
            return torch.stack([at.alpha_t, at.sigma_t, zero, -1.0 / at.sigma_t]) if name == "score" else None
