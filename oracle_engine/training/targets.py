"""What a network is trained to regress on at x_t: the oracle in place of one sample's own velocity."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ..base.arrays import Float, Float64, Int64, Numbers, Tensor, integers, on_device
from ..base.calls.cuda_graphs import capturing, holds
from ..base.calls.transforms import traced
from ..base.errors import invalid
from ..base.outputs import rounded_answer
from ..engine import compiled
from ..engine.arguments import check_engine, check_oracle
from ..engine.autograd import refuse_transforms
from ..engine.engine import OracleEngine
from ..engine.graphs import unrecordable
from ..engine.oracle import Oracle
from ..paths.predictions import Prediction
from ..queries.conditions import Conditions, Guidance
from ..queries.request import Request
from .conditional import PredictionName, check_prediction
from .estimates import Estimate, Exact, Flip, TargetQuery, over_points
from .references import References


class OracleTarget(torch.nn.Module):
    """The regression target at (x_t, t) over a whole data set, in place of the conditional one of CFM.

    engine: over the samples that the loop draws; a RemoteOracle has the exact target only. Latents drawn from a VAE
        posterior: OracleEngine(point_std=).
    prediction: what the network predicts: "velocity", "denoiser", "score" or "noise".
    estimate: Exact(), unless given; References(M) for EFM over M samples; PosteriorDraw() for one posterior sample.
    guidance: scale of the guided field v_0 + w (v_y - v_0), a number, [B], or a Guidance with an interval of t; it
        acts on queries with labels.
    leave_one_out: whether the sample that made x_t is left out, so that the target is made of the other samples.
    augmentation: Flip() where the loop mirrors its samples at random; no other augmentation, see below.
    Raises InputError for arguments that are none of these or contradict each other.

    The target is E[u | x_t] of the conditional target u of CFM (Lipman et al. 2023): regression on either has the same
    expected gradient. The module has no parameters and no buffers: it may live inside a module wrapped by DDP or FSDP
    or outside, adds nothing to a state_dict, and is not affected by autocast; inside, a deep copy of the network, as
    for an EMA, copies the data too. `.to(device)` moves the data. Under torch.compile a target is one opaque operator.
    In a DataLoader worker it runs on the CPU only, on the one thread that torch gives to a worker; workers share the
    samples where they are forked.

    Any other augmentation is refused: the oracle is that of the set of all samples the loop can produce. Random crops
    or colours make it another and larger set, over which the mean of the unaugmented samples is wrong; augmented
    samples that can be enumerated can be stored as the data set.

    >>> import torch, oracle_engine as oe
    >>> data = oe.load_dataset("digits")
    >>> target = oe.OracleTarget(oe.OracleEngine(data))
    >>> x1, eps, t = data[torch.arange(16)], torch.randn(16, 1, 8, 8), torch.rand(16)
    >>> u = target(oe.path_sample("rectified_flow", x1, eps, t), t, source=torch.arange(16))
    >>> u.shape, u.requires_grad
    (torch.Size([16, 1, 8, 8]), False)
    """

    def __init__(
        self,
        engine: Oracle,
        prediction: PredictionName = "velocity",
        *,
        estimate: Estimate | None = None,
        guidance: Numbers | Guidance | None = None,
        leave_one_out: bool = False,
        augmentation: Flip | None = None,
    ) -> None:
        super().__init__()
        check_oracle(engine)
        check_prediction(prediction)
        self.engine, self.prediction, self.guidance = engine, prediction, guidance
        self.estimate: Estimate = Exact() if estimate is None else estimate
        self.leave_one_out, self.augmentation = leave_one_out, augmentation
        self._check_options()
        self._handle = compiled.register(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, which compiled code must tell from its original."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._handle = compiled.register(self)

    @torch.no_grad()
    def forward(
        self,
        x_t: Float[Tensor, "B ..."],
        t: Numbers,
        labels: Numbers | None = None,
        source: Numbers | None = None,
    ) -> Float[Tensor, "B ..."]:
        """Return what to regress on, like x_t, without an autograd graph.

        x_t: noised samples, [B, *sample_shape], any floating dtype, on the device of the data.
        t: a number, [], [B] or [B, 1, ...] in [0, 1], 0 noise and 1 data.
        labels: condition on a class: an integer, [B], [B, U] for the union of U different classes, or one-hot rows
            [B, K], as OracleEngine.velocity reads them; -1 stands for none, as :func:`drop_labels` makes it.
        source: index of the sample that made x_t, one or [B], -1 for none. Needed for leave_one_out and References; it
            makes late targets of a prepared engine cheaper.
        Returns [B, *sample_shape] in the dtype of x_t.
        Raises InputError as OracleEngine.velocity does, without a source that is needed, on CUDA in a DataLoader
        worker, and, unless the estimate is Exact() without augmentation, while a CUDA graph is captured and inside
        transforms of torch.func.
        Costs what the estimate costs: Exact() one pass over the data, twice that with Flip() or guidance.
        """
        if traced():
            return compiled.regression_target(self._handle, x_t, t, labels, source)
        check_worker(self.engine.data.device)
        source = self._source(source, x_t)
        exclude = source if self.leave_one_out else None
        if isinstance(self.estimate, Exact) and self.augmentation is None:
            return self._exact(x_t, t, Conditions(labels, self.guidance, exclude, source))
        if capturing():
            raise unrecordable("estimate")
        refuse_transforms("estimate", x_t, t)
        # a mirrored sample is not the sample that has this index in the engine
        origin = source if self.augmentation is None else None
        request = self._local.request_builder.request(x_t, t, Conditions(labels, self.guidance, exclude, origin))
        query = TargetQuery(request.x.reshape(x_t.shape), request.times, request.labels, exclude, source)
        self._check_source(query)
        mean = self._guided(query, request).reshape(len(x_t), -1)
        values = getattr(Prediction(request.x, mean, request.at, self.engine.point_std), self.prediction)
        return rounded_answer(values, self.prediction, x_t.dtype, x_t.shape)

    def extra_repr(self) -> str:
        """Return what printing the module shows."""
        return f"{self.prediction!r}, {self.estimate}"

    @property
    def _local(self) -> OracleEngine:
        """The engine, where an estimate needs its data."""
        assert isinstance(self.engine, OracleEngine)
        return self.engine

    def _exact(self, x_t: Tensor, t: Numbers, conditions: Conditions) -> Tensor:
        """Return the prediction of the engine."""
        answer: Tensor = getattr(self.engine, self.prediction)(
            x_t,
            t,
            labels=conditions.labels,
            guidance=conditions.guidance,
            exclude=conditions.exclude,
            source=conditions.source,
        )
        return answer

    def _guided(self, query: TargetQuery, request: Request) -> Float64[Tensor, "B ..."]:
        """Return the mean of the samples, with guidance applied: every prediction is affine in the mean."""
        conditional = self._mean(query)
        guided = (request.scale != 1.0).nonzero()[:, 0]
        if len(guided) == 0:
            return conditional
        unconditional = self._mean(replace(query.take(guided), labels=None))
        scale = request.scale[guided].reshape(-1, *[1] * (conditional.ndim - 1))
        return conditional.index_copy(0, guided, unconditional + scale * (conditional[guided] - unconditional))

    def _mean(self, query: TargetQuery) -> Float64[Tensor, "B ..."]:
        engine = over_points(self._local)
        if self.augmentation is None:
            return self.estimate.mean(engine, query).values
        return self.augmentation.mean(self.estimate, engine, query)

    def _source(self, source: Numbers | None, x_t: Tensor) -> Int64[Tensor, "B"] | None:
        """Return `source` checked, [B], or None where there is none and none is needed."""
        if source is None:
            if self.leave_one_out or self.estimate.needs_source:
                what = "leave_one_out" if self.leave_one_out else type(self.estimate).__name__
                remedy = "pass the indices of the samples that made x_t"
                raise invalid("source", f"is needed for {what}", None, remedy)
            return None
        count, batch = len(self.engine.data), len(x_t)
        given = on_device(source, self.engine.data.device, "source")
        if given.is_floating_point() or given.dtype == torch.bool or given.shape not in ((), (batch,)):
            found = f"{given.dtype} {list(given.shape)}"
            raise invalid("source", f"must be integers, one or [{batch}]", found, "pass one index a query")
        index = integers("source", given, given.device, "pass the indices of samples")
        least = 0 if self.estimate.needs_source else -1
        if not holds((index >= least) & (index < count)):
            bad = index[(index < least) | (index >= count)].reshape(-1)[0].item()
            unmade = "a query that no sample made has no such target; use Exact()"
            remedy = unmade if bad == -1 else "check the indices"
            raise invalid("source", f"must be indices of samples, {least} .. {count - 1}", bad, remedy)
        return index.expand(batch)

    def _check_source(self, query: TargetQuery) -> None:
        """Refuse another class than that of the sample that made x_t: References would be biased."""
        data = self.engine.data
        known = data.sorted_labels
        if not self.estimate.needs_source or query.labels is None or known is None or query.source is None:
            return
        # the classes of a union come before what is only padding
        if bool((query.labels[:, 1:] >= 0).any()):
            raise invalid("labels", "must be one class a query for References", list(query.labels.shape), "pass [B]")
        label, own = query.labels[:, 0], known[data.row_of(query.source)]
        other = (label >= 0) & (label != own)
        if bool(other.any()):
            first = int(other.nonzero()[0])
            found = f"class {label[first].item()} for a sample of class {own[first].item()} in query {first}"
            raise invalid("labels", "must be the class of the sample that made x_t, or -1", found, "pass its own label")

    def _check_options(self) -> None:
        """Raise InputError for options that contradict each other or the data."""
        if isinstance(self.estimate, type) or not isinstance(self.estimate, Estimate):
            remedy = "pass Exact(), References(128) or PosteriorDraw()"
            raise invalid("estimate", "must be an estimate of the posterior mean", self.estimate, remedy)
        if self.augmentation is not None or not isinstance(self.estimate, Exact):
            check_engine(self.engine)
        if isinstance(self.estimate, References) and self.leave_one_out:
            remedy = "use Exact() or PosteriorDraw()"
            raise invalid("leave_one_out", "contradicts References, which include that sample", True, remedy)
        if isinstance(self.estimate, References) and self.guidance is not None:
            found = "References, which are unbiased only over the class that x_t was made from"
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


def check_worker(device: torch.device) -> None:
    """Raise InputError where a DataLoader worker would use an engine on a CUDA device.

    device: of the data of the engine. Raises InputError in a worker process for any device but the CPU.
    """
    worker: Any = torch.utils.data.get_worker_info()
    if worker is not None and device.type != "cpu":
        found = f"an engine on {device} in DataLoader worker {worker.id}"
        remedy = "call the target in the training loop, or give the workers an engine on the CPU"
        raise invalid("engine", "must be on the CPU inside a DataLoader worker", found, remedy)
