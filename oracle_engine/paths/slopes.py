"""How a path changes in t as autograd sees it: slopes of its coefficients and of the factors of a prediction."""

from __future__ import annotations

from dataclasses import fields

import torch

from ..base.arrays import Float64, Tensor
from ..base.calls.transforms import recorded
from ..base.errors import InputError, invalid
from .paths import Coefficients, Path, coefficients
from .predictions import Prediction


def factor_slopes(
    name: str, path: Path, at: Coefficients, times: Float64[Tensor, "B"], point_std: float
) -> tuple[Float64[Tensor, "B"], Float64[Tensor, "B"]]:
    """Return the derivatives in t of the factors that a prediction has before x and before the mean, [B] each.

    name: of the prediction, a property of Prediction. path: with the coefficients `at` at `times`, [B] float64.
    point_std: p >= 0, as in Prediction. Raises InputError where a derivative is not finite, and, for the velocity,
    where the path computes its coefficients outside of torch.
    """
    slopes = [at.d_alpha_t, at.d_sigma_t]
    slopes += _second_slopes(path, times) if name == "velocity" else [torch.zeros_like(times)] * 2
    with recorded():
        leaves = [getattr(at, field.name).detach().clone().requires_grad_() for field in fields(at)]
        one, none = (torch.full_like(times[:, None], value) for value in (1.0, 0.0))
        found = []
        for x, mean in ((one, none), (none, one)):
            factor: Tensor = getattr(Prediction(x, mean, Coefficients(*leaves), point_std), name)
            found.append(_elementwise(factor.sum(), leaves))
    of_x, of_mean = (sum(part * slope for part, slope in zip(parts, slopes, strict=True)) for parts in found)
    return finite_change(torch.as_tensor(of_x)), finite_change(torch.as_tensor(of_mean))


def seen_in_time(path: Path) -> bool:
    """Return whether autograd sees how the coefficients of a path and their slopes change in t, at three times."""
    times = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    try:
        _second_slopes(path, times)
    except InputError:
        return False
    with recorded():
        moving = times.requires_grad_()
        at = coefficients(path, moving)
        pairs = ((at.alpha_t, at.d_alpha_t), (at.sigma_t, at.d_sigma_t))
        # schedules of other libraries may be made in single precision
        return all(torch.allclose(_elementwise(one.sum(), [moving])[0], slope, 1e-3, 1e-5) for one, slope in pairs)


def not_differentiable(path: Path, found: str) -> InputError:
    """Return the error about a path whose coefficients autograd cannot follow in t, of which `found` says why."""
    wanted = "must be differentiable for a derivative of the velocity in t"
    return invalid(
        "path", wanted, f"{found} of {path!r}", "compute its coefficients with torch operations on t, or detach t"
    )


def finite_change(change: Float64[Tensor, "B"]) -> Float64[Tensor, "B"]:
    """Return the derivative of an answer in t, [B]. Raises InputError where it is not finite."""
    if not bool(change.isfinite().all()):
        remedy = "detach t, or keep away from the end of the path"
        raise invalid("t", "must have a finite derivative of the coefficients", "an infinite one", remedy)
    return change


def _second_slopes(path: Path, times: Float64[Tensor, "B"]) -> list[Float64[Tensor, "B"]]:
    """Return the derivatives of d_alpha_t and d_sigma_t at `times`, [B] each.

    Raises InputError where the path computes them outside of torch, so that autograd cannot see how they change.
    """
    with recorded():
        moving = times.detach().clone().requires_grad_()
        try:
            at = coefficients(path, moving)
        except (RuntimeError, TypeError) as error:
            raise not_differentiable(path, type(error).__name__) from error
        found = [_elementwise(part.sum(), [moving])[0] for part in (at.d_alpha_t, at.d_sigma_t)]
    # a slope without a graph must be constant: compare with another time, whichever this one is
    other = coefficients(path, torch.where(times < 0.5, times + 0.37, times - 0.37))
    for part, elsewhere in ((at.d_alpha_t, other.d_alpha_t), (at.d_sigma_t, other.d_sigma_t)):
        if not part.requires_grad and not torch.allclose(part, elsewhere, rtol=1e-6, atol=0.0):
            raise not_differentiable(path, "coefficients without a graph")
    return found


def _elementwise(total: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """Return the derivative of a sum by each of its leaves, zeros where it has none."""
    if not total.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    # the coefficients of a path may share parts of their graph
    parts = torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
    return list(parts)
