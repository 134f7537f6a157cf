"""The loss of a network against the oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ..base.arrays import Float, Numbers, Tensor, check_shape, on_device
from ..base.errors import invalid
from ..engine.oracle import Oracle
from ..paths.paths import resolve_times
from ..queries.labels import check_null_label
from .conditional import conditional_target, drop_labels, path_sample
from .loss_terms import LossTerms
from .targets import OracleTarget

# a network, called as model(x_t, t), or as model(x_t, t, labels) where there are labels
Network = Callable[..., Tensor]


@dataclass(frozen=True)
class OracleLoss:
    """The loss of a batch against the oracle, and the queries it was evaluated at.

    loss: |model - v|^2 / D, the mean over the batch; a scalar with the model's graph, to call backward() on.
    each: the same for every query, [B], with the graph: to weigh by t before the mean. Both in the dtype of the model's
        output, float32 at least.
    terms: of every query, detached, for the decomposition of the CFM loss.
    x_t: the noised samples, [B, *sample_shape]. t: their times, [B].
    target: what the model was compared with, like x_t.
    """

    loss: Float[Tensor, ""]
    each: Float[Tensor, "B"]
    terms: LossTerms
    x_t: Float[Tensor, "B ..."]
    t: Float[Tensor, "B"]
    target: Float[Tensor, "B ..."]

    def __repr__(self) -> str:
        return f"OracleLoss(loss={self.loss.item():.4g}, terms={self.terms})"


def oracle_loss(
    model: Network,
    target: OracleTarget,
    x1: Float[Tensor, "B ..."],
    labels: Numbers | None = None,
    *,
    source: Numbers | None = None,
    t: Numbers | None = None,
    eps: Tensor | None = None,
    label_dropout: float = 0.0,
    null_label: int = -1,
    generator: torch.Generator | None = None,
) -> OracleLoss:
    """Return the loss of `model` against `target` at x_t = alpha x1 + sigma eps, with the terms of its CFM loss.

    model: called as model(x_t, t), with labels as model(x_t, t, labels); returns a tensor like x_t, of any dtype.
    target: what the model is compared with; its engine has the path.
    x1: [B, *sample_shape] samples, as the loop draws them: augmented, or drawn from their VAE posterior, of any
        floating dtype. They may be held out from the engine's data.
    labels: classes of x1, [B] integers, -1 for none.
    source: index of x1 in the data, [B] integers, -1 for held-out samples.
    t: a number, [B] or [B, 1, ...] in [0, 1], uniform in [0, 1) unless given; the model gets [B], numbers that are in
        no tensor in the dtype of x1, float32 at least.
    eps: like x1, standard normal unless given.
    label_dropout: probability of hiding the label from model and target, in [0, 1].
    null_label: what the model gets in place of a hidden label.
    generator: of t, eps and dropout, in this order, on any device; the global one unless given.
    Returns the loss mean |model - v|^2 / D, v the target, and the terms of every query, [B].
    Raises InputError for x1, t or eps of other shapes, a model that returns another shape, and as the target does.
    Costs one target and one evaluation of the model.

    >>> import torch, oracle_engine as oe
    >>> data = oe.load_dataset("digits")
    >>> target = oe.OracleTarget(oe.OracleEngine(data))
    >>> found = oe.oracle_loss(lambda x, t: -x, target, data[torch.arange(64)], source=torch.arange(64))
    >>> [part.name for part in found.terms.stages(0.4)]
    ['navigation', 'refinement']
    """
    if not isinstance(target, OracleTarget):
        raise invalid("target", "must be an OracleTarget", type(target).__name__, "pass OracleTarget(engine)")
    engine = target.engine
    check_shape("x1", x1, engine.data.sample_shape)
    given, t, eps = t, _time(t, x1, engine, generator), _noise(eps, x1, generator)
    labels = None if labels is None else on_device(labels, x1.device, "labels")
    if labels is not None and label_dropout != 0.0:
        check_null_label(null_label, engine.data.segments)
        labels = drop_labels(labels, label_dropout, generator)
    x_t = path_sample(engine.path, x1, eps, t)
    oracle = target(x_t, t, labels, source)
    shown = () if labels is None else (torch.where(labels < 0, null_label, labels),)
    # numbers keep all their digits in x_t and in the target; networks take times in the dtype of their other inputs
    times = t if isinstance(given, Tensor) else t.to(torch.promote_types(x1.dtype, torch.float32))
    output = model(x_t, times, *shown)
    _check_output(output, x_t)
    # under autocast the output may have half precision: differences are taken in float32 at least
    precise = torch.promote_types(output.dtype, torch.float32)
    each = _mean_square(output.to(precise) - oracle.to(precise))
    conditional = conditional_target(engine.path, x1, eps, t, prediction=target.prediction)
    return OracleLoss(each.mean(), each, _terms(t, output, oracle, conditional), x_t, t, oracle)


@torch.no_grad()
def _terms(t: Tensor, output: Tensor, oracle: Tensor, conditional: Tensor) -> LossTerms:
    """Return the losses of every query."""
    output, oracle, conditional = output.double(), oracle.double(), conditional.double()
    return LossTerms(
        times=t.double(),
        oracle=_mean_square(output - oracle),
        variance=_mean_square(conditional - oracle),
        conditional=_mean_square(output - conditional),
    )


def _time(t: Numbers | None, x1: Tensor, engine: Oracle, generator: torch.Generator | None) -> Tensor:
    """Return the time of each sample: as given, or drawn."""
    if t is None:
        drawn = _drawn(torch.rand, (len(x1),), generator, x1.device)
        return drawn if engine.t_max is None else drawn.clamp_max(engine.t_max)
    resolve_times(t, len(x1), None, x1.device)
    times = on_device(t, x1.device, "t").reshape(-1).expand(len(x1))
    return times if times.is_floating_point() else times.double()


def _noise(eps: Tensor | None, x1: Tensor, generator: torch.Generator | None) -> Tensor:
    return _drawn(torch.randn, x1.shape, generator, x1.device).to(x1.dtype) if eps is None else eps


def _drawn(
    draw: Callable[..., Tensor], shape: Sequence[int], generator: torch.Generator | None, device: torch.device
) -> Tensor:
    place = device if generator is None else generator.device
    return partial(draw, generator=generator, device=place)(tuple(shape)).to(device)


def _check_output(output: Any, x_t: Tensor) -> None:
    """Raise InputError where a model did not return a tensor like x_t."""
    if not isinstance(output, Tensor):
        remedy = "return the prediction alone; of diffusers models that is .sample"
        raise invalid("model", "must return a tensor", type(output).__name__, remedy)
    if output.shape != x_t.shape:
        found, remedy = f"{list(output.shape)} for x_t {list(x_t.shape)}", "drop what it predicts besides"
        raise invalid("model", "must return a tensor of the shape of x_t", found, remedy)
    if output.is_complex():
        raise invalid("model", "must return real numbers", output.dtype, "return output.real")


def _mean_square(difference: Tensor) -> Tensor:
    return difference.reshape(len(difference), -1).square().mean(1)
