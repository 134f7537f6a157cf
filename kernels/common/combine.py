"""Answers that are linear in a posterior mean and in the point it belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...base.arrays import Float, Float64, Tensor


@dataclass(frozen=True)
class Combination:
    """The answer direct m + gap (x - alpha m) for every query, m = scale mean + base the mean in the units of x.

    x: [B, D] float64. alpha, direct, gap: [B] float64. scale: a number. base: [D] float64.
    """

    x: Float64[Tensor, "B D"]
    alpha: Float64[Tensor, "B"]
    direct: Float64[Tensor, "B"]
    gap: Float64[Tensor, "B"]
    scale: float
    base: Float64[Tensor, "D"]

    @property
    def change(self) -> Float64[Tensor, "B"]:
        """Factor from a change of m to that of the answer, without its sign, [B]."""
        return torch.addcmul(self.direct, self.alpha, self.gap, value=-1.0).abs()


def combined(combination: Combination, mean: Float64[Tensor, "B D"], dtype: torch.dtype) -> Float[Tensor, "B D"]:
    """Return the answer of `combination` for posterior means, [B, D] in `dtype`, rounded once from float64.

    mean: [B, D] float64, in the units that `scale` takes to those of x. Costs a few passes over [B, D].
    """
    alpha, values = combination.alpha[:, None], combination.scale * mean
    # far from zero this difference has digits that a value has no room for
    rest = torch.addcmul(combination.x, alpha, combination.base, value=-1.0).addcmul_(alpha, values, value=-1.0)
    values = values + combination.base
    return torch.addcmul(combination.direct[:, None] * values, combination.gap[:, None], rest).to(dtype)


def combined_norms(
    combination: Combination, mean: Float64[Tensor, "B D"]
) -> tuple[Float64[Tensor, "B"], Float64[Tensor, "B"]]:
    """Return the norms of the answers of `combination` for posterior means, [B, D] float64, and of the means, [B] each.

    Costs a few passes over [B, D].
    """
    answer = combined(combination, mean, torch.float64)
    return torch.linalg.vector_norm(answer, dim=1), torch.linalg.vector_norm(mean, dim=1)
