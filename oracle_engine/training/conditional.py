"""The parts of a loop of conditional flow matching: x_t, what it regresses on there, and labels that are dropped."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from ..base.arrays import Float, Float64, Int64, Numbers, Tensor, check_floating
from ..base.calls.checked import required
from ..base.calls.cuda_graphs import holds
from ..base.calls.transforms import traced
from ..base.errors import invalid
from ..paths.paths import SMALLEST, Coefficients, Path, coefficients, resolve_path, resolve_times
from ..queries.labels import whole_labels
from .random_rows import uniforms

PredictionName = Literal["velocity", "denoiser", "score", "noise"]

# coefficients beyond this one stand for infinity: paths whose d_sigma diverges end at sigma = 1e-150 in place of 0
INFINITE = SMALLEST**-0.5


def conditional_target(
    path: str | Path,
    x1: Float[Tensor, "B ..."],
    eps: Float[Tensor, "B ..."],
    t: Numbers,
    *,
    prediction: PredictionName = "velocity",
) -> Float[Tensor, "B ..."]:
    """Return the target of conditional flow matching, which depends on one sample x1 and its noise eps alone.

    path: a name such as "rectified_flow" or "gvp", or a callable of t, as OracleEngine takes them.
    x1: samples, [B, *sample_shape], any floating dtype.
    eps: standard normal noise, of the shape of x1, any floating dtype.
    t: a number, [], [B] or [B, 1, ...] in [0, 1], 0 noise and 1 data.
    prediction: "velocity" d_alpha x1 + d_sigma eps (Lipman et al. 2023), "denoiser" x1, "noise" eps, or "score"
        -eps / sigma. The mean of each given x_t is the oracle.
    Returns [B, *sample_shape] without an autograd graph; velocity and score in the dtype of x1, computed in float32 at
    least.
    Raises InputError for shapes that differ, dtypes that are not floating, times outside [0, 1], other names, and where
    the target is infinite, as velocity and score are at the end of "vp" and "linear_vp", or too large for the dtype of
    x1. Costs O(B D).

    >>> import torch, oracle_engine as oe
    >>> oe.conditional_target("rectified_flow", torch.ones(1, 2), torch.tensor([[0.5, 2.0]]), 0.3)
    tensor([[ 0.5000, -1.0000]])
    """
    check_prediction(prediction)
    at = _at(path, x1, eps, t)
    if prediction == "denoiser":
        return x1.detach()
    if prediction == "noise":
        return eps.detach()
    if prediction == "score":
        return _combined(x1, eps, torch.zeros_like(at.sigma_t), -at.sigma_t.reciprocal())
    return _combined(x1, eps, at.d_alpha_t, at.d_sigma_t)


def path_sample(
    path: str | Path, x1: Float[Tensor, "B ..."], eps: Float[Tensor, "B ..."], t: Numbers
) -> Float[Tensor, "B ..."]:
    """Return x_t = alpha(t) x1 + sigma(t) eps, the noised samples that a network is trained on.

    path: a name such as "rectified_flow" or "gvp", or a callable of t, as OracleEngine takes them.
    x1: samples, [B, *sample_shape], any floating dtype.
    eps: standard normal noise, of the shape of x1, any floating dtype.
    t: a number, [], [B] or [B, 1, ...] in [0, 1], 0 noise and 1 data.
    Returns [B, *sample_shape] in the dtype of x1, computed in float32 at least, without an autograd graph.
    Raises InputError for shapes that differ, dtypes that are not floating, times outside [0, 1], names of no path, and
    where x_t is too large for the dtype of x1. Costs O(B D).

    >>> import torch, oracle_engine as oe
    >>> oe.path_sample("rectified_flow", torch.ones(2, 3), torch.zeros(2, 3), torch.tensor([0.25, 0.5]))
    tensor([[0.2500, 0.2500, 0.2500],
            [0.5000, 0.5000, 0.5000]])
    """
    at = _at(path, x1, eps, t)
    return _combined(x1, eps, at.alpha_t, at.sigma_t)


def drop_labels(
    labels: Numbers, probability: float, generator: torch.Generator | None = None
) -> Int64[Tensor, "B ..."]:
    """Return `labels` with each query's replaced by -1, no class, at random (classifier-free guidance).

    labels: classes, [B] or [B, U] integers, or one-hot rows of any dtype: a tensor, an array or a sequence.
    probability: of replacing the labels of a query, in [0, 1].
    generator: of the choices, on any device; the global one of the device of `labels` unless given.
    Returns int64 of the shape of `labels`, to give to the network and to the target alike: what the network cannot see
    must not be in its target. Ho and Salimans (2021).
    Raises InputError for a `probability` outside [0, 1] and for labels that are neither integers nor one-hot rows.

    >>> import torch, oracle_engine as oe
    >>> oe.drop_labels(torch.tensor([3, 1, 4]), 1.0)
    tensor([-1, -1, -1])
    """
    if not 0.0 <= probability <= 1.0:
        raise invalid("probability", "must lie in [0, 1]", probability, "pass 0.1")
    held = whole_labels(labels, labels.device if isinstance(labels, Tensor) else torch.device("cpu"))
    dropped = uniforms(len(held), generator, held.device) < probability
    return held.masked_fill(dropped.reshape(-1, *[1] * (held.ndim - 1)), -1)


def check_prediction(prediction: str) -> None:
    """Raise InputError for what is no prediction of a network."""
    if prediction not in get_args(PredictionName):
        names = ", ".join(get_args(PredictionName))
        raise invalid("prediction", f"must be one of {names}", repr(prediction), "name what the network predicts")


def _at(path: str | Path, x1: Tensor, eps: Tensor, t: Numbers) -> Coefficients:
    """Return the path at the times of a batch. Raises InputError where samples and noise do not fit."""
    check_floating("x1", x1)
    check_floating("eps", eps)
    if x1.ndim == 0 or x1.shape != eps.shape:
        raise invalid("eps", f"must have the shape of x1, {list(x1.shape)}", list(eps.shape), "draw it like x1")
    return coefficients(resolve_path(path), resolve_times(t, len(x1), None, x1.device))


def _combined(x1: Tensor, eps: Tensor, first: Float64[Tensor, "B"], second: Float64[Tensor, "B"]) -> Tensor:
    """Return first X + second eps in the dtype of x1. Raises InputError where that is not finite."""
    # in float32 at least: both terms of a bfloat16 batch are rounded once, together
    dtype = torch.promote_types(x1.dtype, torch.float32)
    ends = torch.stack([first, second])
    if traced():
        ends = required(
            ends, ends.abs() < INFINITE, "t", "must leave a finite target", "stop before the end of the path"
        )
    elif not holds(ends.abs() < INFINITE):
        raise invalid("t", "must leave a finite target", "the end of the path", "stop before it, at 0.999")
    columns = ends.to(dtype).reshape(2, -1, *[1] * (x1.ndim - 1))
    result = (columns[0] * x1.detach().to(dtype) + columns[1] * eps.detach().to(dtype)).to(x1.dtype)
    if traced():
        return required(result, result.isfinite(), "t", "must leave a finite target", "stop before the end of the path")
    if not holds(result.isfinite()):
        _refuse_infinite(x1, eps)
    return result


def _refuse_infinite(x1: Tensor, eps: Tensor) -> None:
    """Raise InputError for what is not finite: the samples, the noise, or the target in its dtype."""
    for name, values in (("x1", x1), ("eps", eps)):
        if not bool(values.isfinite().all()):
            raise invalid(name, "must be finite", "a NaN or an infinity", "look at where it comes from")
    remedy = "stop before the end of the path, or pass x1.float()"
    raise invalid("t", f"must leave a target that {x1.dtype} can hold", "a larger one", remedy)
