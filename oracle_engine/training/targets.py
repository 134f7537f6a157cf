"""What a network is trained to regress on at x_t: the oracle in place of one sample's own velocity."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch

from ..base.arrays import Float, Float64, Int64, Tensor, check_floating, on_device
from ..base.cuda_graphs import capturing, holds
from ..base.errors import invalid
from ..engine.engine import OracleEngine
from ..engine.graphs import unrecordable
from ..paths.paths import Coefficients, Path, Prediction, coefficients, resolve_path, resolve_times
from ..queries.request import Conditions, Guidance, Request
from .estimates import Asked, Estimate, Exact, Flip, References, over_points
from .posterior_draws import uniforms

PredictionName = Literal["velocity", "denoiser", "score", "noise"]


class OracleTarget(torch.nn.Module):
    """The regression target at (x_t, t) over a whole data set, in place of the conditional one of CFM.

    engine: over the samples that the loop draws. Latents drawn from a VAE posterior: OracleEngine(point_std=).
    prediction: what the network predicts: "velocity", "denoiser", "score" or "noise".
    estimate: Exact(); References(M) for EFM over M samples; PosteriorDraw() for one sample of the posterior.
    guidance: as in OracleEngine.velocity; the target is then the guided field, for queries with labels.
    leave_one_out: the sample that made x_t does not count: what the other samples say about it.
    augmentation: Flip() where the loop mirrors its samples at random. Nothing else: see below.

    No parameters and no buffers: it may live inside a module wrapped by DDP or FSDP or outside, adds nothing to a
    state_dict, and is not affected by autocast; inside, a deep copy of the network, as for an EMA, copies the data too.
    `.to(device)` moves the data. Under torch.compile call it outside the
    compiled student. In a DataLoader worker it runs on the CPU only, on the one thread that torch gives to a worker:
    the workers do not get into each other's way, and they share the samples where they are forked.

    Any other augmentation is refused: the oracle is that of the set of all samples the loop can produce. Random crops
    or colours make it another and larger set, over which the mean of the unaugmented samples is simply wrong; what can
    be enumerated can be stored.
    """

    def __init__(
        self,
        engine: OracleEngine,
        prediction: PredictionName = "velocity",
        *,
        estimate: Estimate | None = None,
        guidance: float | Tensor | Guidance | None = None,
        leave_one_out: bool = False,
        augmentation: Flip | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(engine, OracleEngine):
            raise invalid("engine", "must be an OracleEngine", type(engine).__name__, "wrap the data in one")
        _check_prediction(prediction)
        self.engine, self.prediction, self.guidance = engine, prediction, guidance
        self.estimate: Estimate = Exact() if estimate is None else estimate
        self.leave_one_out, self.augmentation = leave_one_out, augmentation
        self._check_options()

    @torch.no_grad()
    def forward(
        self,
        x_t: Float[Tensor, "B ..."],
        t: float | Tensor,
        labels: int | Tensor | None = None,
        source: int | Tensor | None = None,
    ) -> Float[Tensor, "B ..."]:
        """Return what to regress on, like x_t, without an autograd graph.

        x_t: [B, *sample_shape], any floating dtype. t: a number, [], [B] or [B, 1, ...] in [0, 1].
        labels: as in OracleEngine.velocity; -1 for queries without a class, as :func:`drop_labels` makes them.
        source: index [B] of the sample that made x_t, -1 for none. Needed for leave_one_out and References; it makes
            late targets of a prepared engine cheaper.
        Raises InputError as OracleEngine.velocity does, without a source that is needed, and on CUDA in a worker.
        Costs what the estimate costs; Exact() one pass over the data, twice that with Flip().
        """
        check_worker(self.engine.data.device)
        source = self._source(source, x_t)
        exclude = source if self.leave_one_out else None
        if isinstance(self.estimate, Exact) and self.augmentation is None:
            return self._exactly(x_t, t, labels, exclude, source)
        if capturing():
            raise unrecordable("estimate")
        # a mirrored sample is not the one that the engine knows by this index
        origin = source if self.augmentation is None else None
        request = self._request(x_t, t, labels, exclude, origin)
        asked = Asked(request.x.reshape(x_t.shape), request.times, request.labels, exclude, source)
        self._check_source(asked)
        mean = self._guided(asked, request).reshape(len(x_t), -1)
        values = getattr(Prediction(request.x, mean, request.at, self.engine.point_std), self.prediction)
        result: Tensor = values.to(x_t.dtype).reshape(x_t.shape)
        return result

    def extra_repr(self) -> str:
        """Return what printing the module shows."""
        return f"{self.prediction!r}, {self.estimate}"

    def _exactly(
        self, x_t: Tensor, t: float | Tensor, labels: int | Tensor | None, exclude: Tensor | None, source: Tensor | None
    ) -> Tensor:
        ask = getattr(self.engine, self.prediction)
        answer: Tensor = ask(x_t, t, labels=labels, guidance=self.guidance, exclude=exclude, source=source)
        return answer

    def _request(
        self, x_t: Tensor, t: float | Tensor, labels: int | Tensor | None, exclude: Tensor | None, source: Tensor | None
    ) -> Request:
        return self.engine.request_builder.request(x_t, t, Conditions(labels, self.guidance, exclude, source))

    def _guided(self, asked: Asked, request: Request) -> Float64[Tensor, "B ..."]:
        """Return the mean of the samples, guided where that is asked for: every prediction is affine in it."""
        own = self._mean(asked)
        guided = (request.scale != 1.0).nonzero()[:, 0]
        if len(guided) == 0:
            return own
        part = asked.take(guided)
        free = self._mean(Asked(part.x, part.t, None, part.exclude, part.source))
        scale = request.scale[guided].reshape(-1, *[1] * (own.ndim - 1))
        return own.index_copy(0, guided, free + scale * (own[guided] - free))

    def _mean(self, asked: Asked) -> Float64[Tensor, "B ..."]:
        engine = over_points(self.engine)
        if self.augmentation is None:
            return self.estimate.mean(engine, asked).values
        return self.augmentation.mean(self.estimate, engine, asked)

    def _source(self, source: int | Tensor | None, x_t: Tensor) -> Int64[Tensor, "B"] | None:
        if source is None:
            if self.leave_one_out or self.estimate.needs_source:
                what = "leave_one_out" if self.leave_one_out else type(self.estimate).__name__
                remedy = "pass the indices of the samples that made x_t"
                raise invalid("source", f"is needed for {what}", None, remedy)
            return None
        count, batch = len(self.engine.data), len(x_t)
        given = on_device(source, self.engine.data.device)
        if given.is_floating_point() or given.dtype == torch.bool or given.shape not in ((), (batch,)):
            found = f"{given.dtype} {list(given.shape)}"
            raise invalid("source", f"must be integers, one or [{batch}]", found, "pass one index a query")
        least = 0 if self.estimate.needs_source else -1
        if not holds((given >= least) & (given < count)):
            bad = given[(given < least) | (given >= count)].reshape(-1)[0].item()
            remedy = "check the indices" if least else "a query that no sample made has no such target; use Exact()"
            raise invalid("source", f"must be indices of samples, {least} .. {count - 1}", bad, remedy)
        return given.long().expand(batch)

    def _check_source(self, asked: Asked) -> None:
        """Refuse to ask about a class that the sample that made x_t is not of: it would be biased."""
        known = self.engine.data.labels
        if not self.estimate.needs_source or asked.labels is None or known is None or asked.source is None:
            return
        if asked.labels.shape[1] != 1:
            raise invalid("labels", "must be one class a query for References", list(asked.labels.shape), "pass [B]")
        asked_for, own = asked.labels[:, 0], known[asked.source]
        if bool(((asked_for >= 0) & (asked_for != own)).any()):
            first = int(((asked_for >= 0) & (asked_for != own)).nonzero()[0])
            found = f"class {asked_for[first].item()} for a sample of class {own[first].item()} in query {first}"
            raise invalid("labels", "must be the class of the sample that made x_t, or -1", found, "pass its own label")

    def _check_options(self) -> None:
        if isinstance(self.estimate, type) or not isinstance(self.estimate, Estimate):
            remedy = "pass Exact(), References(128) or PosteriorDraw()"
            raise invalid("estimate", "must say what the target is made of", self.estimate, remedy)
        if isinstance(self.estimate, References) and self.leave_one_out:
            remedy = "use Exact() or PosteriorDraw()"
            raise invalid("leave_one_out", "contradicts References, which include that sample", True, remedy)
        if isinstance(self.estimate, References) and self.guidance is not None:
            found = "References, which know x_t as a draw from its own class only"
            raise invalid("guidance", "needs an estimate that is unbiased without a class", found, "use Exact()")
        if self.augmentation is None:
            return
        if not isinstance(self.augmentation, Flip):
            remedy = "store the augmented samples as the data set, or train on unaugmented ones"
            found = f"{self.augmentation!r}, after which the loop draws from another set with another oracle"
            raise invalid("augmentation", "must be Flip(...) or None", found, remedy)
        shape = self.engine.data.sample_shape
        if min(self.augmentation.dims) < -len(shape):
            found = f"{self.augmentation.dims} for samples of shape {list(shape)}"
            raise invalid("augmentation", "must flip dimensions of a sample", found, "name those that samples have")


def conditional_target(
    path: str | Path,
    x1: Float[Tensor, "B ..."],
    eps: Float[Tensor, "B ..."],
    t: float | Tensor,
    prediction: PredictionName = "velocity",
) -> Float[Tensor, "B ..."]:
    """Return the target of conditional flow matching, what sample x1 and noise eps alone say, like x1.

    velocity d_alpha x1 + d_sigma eps, denoiser x1, noise eps, score -eps / sigma. Its mean given x_t is the oracle.
    x1, eps: [B, *shape], any floating dtype. t: a number, [], [B] or [B, 1, ...] in [0, 1].
    Raises InputError for shapes that differ and where the path has no finite target, as at the end of "vp".
    """
    _check_prediction(prediction)
    at = _at(path, x1, eps, t)
    if prediction == "denoiser":
        return x1.detach()
    if prediction == "noise":
        return eps.detach()
    if prediction == "score":
        return _combined(x1, eps, torch.zeros_like(at.sigma_t), -at.sigma_t.reciprocal())
    return _combined(x1, eps, at.d_alpha_t, at.d_sigma_t)


def path_sample(
    path: str | Path, x1: Float[Tensor, "B ..."], eps: Float[Tensor, "B ..."], t: float | Tensor
) -> Float[Tensor, "B ..."]:
    """Return x_t = alpha(t) x1 + sigma(t) eps, like x1; arguments and errors as in :func:`conditional_target`."""
    at = _at(path, x1, eps, t)
    return _combined(x1, eps, at.alpha_t, at.sigma_t)


def drop_labels(labels: Tensor, probability: float, generator: torch.Generator | None = None) -> Int64[Tensor, "B ..."]:
    """Return `labels` with each query's replaced by -1, no class, with this probability (classifier-free guidance).

    Give the result to the network and to the target alike: what the network cannot see must not be in its target.
    labels: [B] or [B, U] integers. probability: in [0, 1]. generator: on any device. Ho and Salimans (2021).
    """
    if not 0.0 <= probability <= 1.0:
        raise invalid("probability", "must lie in [0, 1]", probability, "pass 0.1")
    dropped = uniforms(len(labels), generator, labels.device) < probability
    return labels.long().masked_fill(dropped.reshape(-1, *[1] * (labels.ndim - 1)), -1)


def check_worker(device: torch.device) -> None:
    """Raise InputError where a process that loads data for another one would use a CUDA device."""
    worker: Any = torch.utils.data.get_worker_info()
    if worker is not None and device.type != "cpu":
        found = f"an engine on {device} in DataLoader worker {worker.id}"
        remedy = "call the target in the training loop, or give the workers an engine on the CPU"
        raise invalid("engine", "must be on the CPU inside a DataLoader worker", found, remedy)


def _check_prediction(prediction: str) -> None:
    if prediction not in get_args(PredictionName):
        names = ", ".join(get_args(PredictionName))
        raise invalid("prediction", f"must be one of {names}", repr(prediction), "name what the network predicts")


def _at(path: str | Path, x1: Tensor, eps: Tensor, t: float | Tensor) -> Coefficients:
    check_floating("x1", x1)
    check_floating("eps", eps)
    if x1.ndim == 0 or x1.shape != eps.shape:
        raise invalid("eps", f"must have the shape of x1, {list(x1.shape)}", list(eps.shape), "draw it like x1")
    return coefficients(resolve_path(path), resolve_times(t, len(x1), None, x1.device))


def _combined(x1: Tensor, eps: Tensor, first: Float64[Tensor, "B"], second: Float64[Tensor, "B"]) -> Tensor:
    # in float32 at least: both terms of a bfloat16 batch are rounded once, together
    dtype = torch.promote_types(x1.dtype, torch.float32)
    ends = torch.stack([first, second]).to(dtype)
    if not holds(ends.isfinite()):
        raise invalid("t", "must leave a finite target", "the end of the path", "stop before it, at 0.999")
    columns = ends.reshape(2, -1, *[1] * (x1.ndim - 1))
    return (columns[0] * x1.detach().to(dtype) + columns[1] * eps.detach().to(dtype)).to(x1.dtype)
