"""The loss against the oracle, and its part in the loss of conditional flow matching."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import pairwise
from typing import Any

import torch

from ..base.arrays import Float, Float64, Numbers, Tensor, check_shape, on_device
from ..base.errors import invalid
from ..engine.oracle import Oracle
from ..paths.paths import resolve_times
from ..queries.labels import check_null_label
from .conditional import conditional_target, drop_labels, path_sample
from .targets import OracleTarget

# a network, called as model(x_t, t), or as model(x_t, t, labels) where there are labels
Network = Callable[..., Tensor]


@dataclass(frozen=True)
class LossPart:
    """The decomposition of the loss of conditional flow matching, per coordinate, over times in [first, last).

    name: what the part is called in tables. first, last: its times, in [0, 1]; a part that ends at 1 includes 1.
    count: how many queries it has. All numbers below are means over them, NaN where there are none.
    conditional: E|model - u|^2 / D, the CFM loss; conditional = oracle + variance + cross, exactly.
    oracle: E|model - v|^2 / D, which training can bring to zero.
    variance: E|u - v|^2 / D = V(t), which no network can remove.
    cross: 2 E<model - v, v - u> / D.
    cross_error: standard error of `cross`, whose expectation is zero where x_t is made from the samples of the engine,
        by their weights; for held-out samples and leave-one-out v is no conditional mean of u, and a cross term stays.
    u is the conditional target, and v what the OracleTarget returned, whatever its estimate and guidance.
    """

    name: str
    first: float
    last: float
    count: int
    conditional: float
    oracle: float
    variance: float
    cross: float
    cross_error: float


@dataclass(frozen=True)
class LossTerms:
    """The terms of the decomposition for every query, detached: [B] float64 each.

    times: in [0, 1]. oracle: |model - v|^2 / D. variance: |u - v|^2 / D. conditional: |model - u|^2 / D.
    u is the conditional target of CFM, v the oracle target.
    """

    times: Float64[Tensor, "B"]
    oracle: Float64[Tensor, "B"]
    variance: Float64[Tensor, "B"]
    conditional: Float64[Tensor, "B"]

    def __len__(self) -> int:
        return len(self.times)

    @classmethod
    def concatenate(cls, parts: Sequence[LossTerms]) -> LossTerms:
        """Return the terms of several batches, `parts`, at least one, as those of one batch."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def whole(self) -> LossPart:
        """Return the decomposition over all times."""
        return self._part("all", 0.0, 1.0, torch.ones_like(self.times, dtype=torch.bool))

    def bins(self, edges: int | Sequence[float] = 10) -> tuple[LossPart, ...]:
        """Return the decomposition over bins of t.

        edges: the number of bins of equal width, at least 1, or their edges, two or more ascending numbers in [0, 1].
        Returns one part a bin. Raises InputError for other `edges`.
        """
        if isinstance(edges, int):
            ends = [edge / max(1, edges) for edge in range(edges + 1)]
        else:
            ends = [float(edge) for edge in edges]
        if len(ends) < 2 or not all(0.0 <= a < b <= 1.0 for a, b in pairwise(ends)):
            raise invalid("edges", "must be at least 1 bin, or ascending edges in [0, 1]", edges, "pass 10")
        return tuple(self._between(f"{a:.3g}-{b:.3g}", a, b) for a, b in pairwise(ends))

    def stages(self, boundary: float) -> tuple[LossPart, LossPart]:
        """Return the decomposition over the two stages, navigation before `boundary` and refinement after it.

        boundary: a time in (0, 1), such as stage_boundary(engine). Raises InputError outside of that.
        """
        if not 0.0 < boundary < 1.0:
            raise invalid("boundary", "must lie between 0 and 1", boundary, "pass stage_boundary(engine)")
        return self._between("navigation", 0.0, boundary), self._between("refinement", boundary, 1.0)

    def _between(self, name: str, first: float, last: float) -> LossPart:
        # a bin that ends at 1 includes its end
        inside = (self.times >= first) & ((self.times < last) | (last >= 1.0))
        return self._part(name, first, last, inside)

    def _part(self, name: str, first: float, last: float, inside: Tensor) -> LossPart:
        """Return the means over the queries that are `inside` a range of times."""
        conditional, oracle, variance = (part[inside] for part in (self.conditional, self.oracle, self.variance))
        cross, count = conditional - oracle - variance, int(inside.sum())
        error = float(cross.std()) / math.sqrt(count) if count > 1 else math.nan
        return LossPart(
            name=name,
            first=first,
            last=last,
            count=count,
            conditional=float(conditional.mean()),
            oracle=float(oracle.mean()),
            variance=float(variance.mean()),
            cross=float(cross.mean()),
            cross_error=error,
        )


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


def format_loss_table(parts: Sequence[LossPart]) -> str:
    """Return `parts` as aligned text, a line for each below a headline: CFM loss = oracle + V(t) + cross +- error."""
    head = f"{'t':<12}{'queries':>9}{'CFM loss':>12} = {'oracle':>10} + {'V(t)':>10} + {'cross':>10}  +- error"
    return "\n".join([head, *(_row(part) for part in parts)])


def json_loss_rows(parts: Sequence[LossPart]) -> list[dict[str, Any]]:
    """Return the fields of each of `parts` as values that json can write: None in place of NaN and infinity."""
    return [{name: _finite(value) for name, value in asdict(part).items()} for part in parts]


def _row(part: LossPart) -> str:
    return (
        f"{part.name:<12}{part.count:>9,}{part.conditional:>12.4g} = {part.oracle:>10.4g} + {part.variance:>10.4g} + "
        f"{part.cross:>10.2g}  +- {part.cross_error:.1g}"
    )


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
