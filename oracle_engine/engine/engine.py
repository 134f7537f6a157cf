"""OracleEngine: exact oracle velocity, denoiser, score, noise, density and posterior over a finite data set."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from os import PathLike
from typing import Any

import torch

from ..base.arrays import Float, Numbers, Tensor, check_floating, is_number, is_whole
from ..base.calls.checked import checked_together
from ..base.calls.cuda_graphs import capturing
from ..base.calls.transforms import traced, transformed
from ..base.errors import InputError, invalid
from ..base.foreign import is_foreign, lent
from ..base.outputs import rounded_answer
from ..base.outside.rows import OutsideRows
from ..base.progress import PartProgress
from ..data.dataset import OracleDataset
from ..data.load import load_dataset
from ..data.sharded import rows_here, rows_like
from ..kernels.screens import SharedProducts
from ..paths.paths import Path as ProbabilityPath
from ..paths.paths import check_derivatives, resolve_path
from ..queries.builder import RequestBuilder
from ..queries.conditions import Conditions, Guidance
from ..queries.modes import Auto, Budget, Mode, resolve_mode
from ..queries.posterior import Posterior
from ..scans.backends import BACKENDS, resolve_backend, resolve_precision
from ..scans.sharded import whole_scan
from ..search.index import SearchIndex, prepared_index
from ..search.trajectory import Trajectory, check_deterministic
from . import compiled
from .autograd import attached, differentiable, refuse_transforms
from .derivatives import AnswerFunction, scale_and_interval
from .graphs import obstacle, unrecordable
from .oracle import Oracle
from .plans.plan import Plan, make_plan
from .residency import Wish
from .responder import Responder, mixed
from .router import Router
from .straight import StraightWay
from .widths import check_point_std

# what is made of the attributes of an engine, and kept beside them until one of them is set
MADE = ("request_builder", "responder", "straight")


class OracleEngine(Oracle, torch.nn.Module):
    """Closed-form flow-matching targets over `data`, exact for every query (arXiv 2512.02826).

    data: an OracleDataset, or what load_dataset takes: a name, a path, an array, an iterable. path: a name from
        oracle_engine.paths.PATHS, or an object like one.
    device: where to compute; the data are moved there. None keeps them where they are.
    backend: "native" (C++, on the CPU), "torch", "reference" (float64, slow), "triton" (CUDA), or "auto", the fastest
        that is proved on the device: on an H100 "triton". The variable ORACLE_BACKEND can settle it.
    precision: "full", or "half" for half of the matrix products and velocities off by about 1e-3; Triton only.
    mode: "auto" scans every sample unless `prepare` was called: then queries that few samples can matter to are
        answered from those, where that changes the velocity by at most `tolerance`, relative, by proof. "exact" always
        scans. "top_k" and "budget", or TopK(count), Budget(rows), score that many samples and say what they may miss.
    tolerance: largest relative velocity error that leaving samples out may cause, in (0, 1); of guided answers
        relative to the larger of the velocities with and without the class.
    resident: "all": the samples are on the device. "stream": they stay in their files, or on the host, from where
        blocks of them come to the device while the ones before are scanned; calls that wait at the same time share a
        read. "auto" streams what the device has no room for. `plan` says what was decided, and why.
    memory: bytes of the device that samples may take, a number or a text such as "8GiB"; None for what a card has free.
    point_std: every sample is a Gaussian of this width in value space instead of a point, e.g. a VAE posterior.
    t_max: clamp times here, for paths that end at sigma = 0; None refuses such times.

    Answers can be differentiated in x, t and the guidance scale, forward or backward and under every transform of
    torch.func, for one more scan in x and one in t; the log density twice in x. Other second derivatives are refused.
    Posteriors carry no graph. Under torch.compile an answer is one opaque operator. With backend "triton" a CUDA graph
    can record an answer, after a first call outside: every sample is scanned, values of arguments are not checked.
    The module has no parameters and an empty state_dict; `.to(device)` moves the data, casts such as `.half()` leave
    them as they are. Raises InputError for an argument that cannot be used.

    >>> import torch, oracle_engine as oe
    >>> engine = oe.OracleEngine(oe.OracleDataset(torch.tensor([[-1.0], [1.0]])))
    >>> engine.velocity(torch.tensor([[0.5]]), 0.0)  # at t = 0 the mean of the data less the noise
    tensor([[-0.5000]])
    """

    data: OracleDataset

    def __init__(
        self,
        data: Any,
        path: str | ProbabilityPath = "rectified_flow",
        *,
        device: torch.device | str | None = None,
        backend: str = "auto",
        precision: str = "full",
        mode: str | Mode = "auto",
        tolerance: float = 1e-4,
        resident: str = "auto",
        memory: int | str | None = None,
        point_std: float = 0.0,
        t_max: float | None = None,
    ) -> None:
        super().__init__()
        data = _data_of(data)
        check_point_std(point_std)
        if not is_number(tolerance) or not 0.0 < tolerance < 1.0:
            raise invalid("tolerance", "must lie in (0, 1)", tolerance, "pass 1e-4, or mode='exact' for none at all")
        if t_max is not None and not (is_number(t_max) and 0.0 <= t_max <= 1.0):
            raise invalid("t_max", "must lie in [0, 1]", t_max, "pass 0.999, or None to refuse such times")
        self._wished_residency = Wish.of(resident, memory)
        self.data, self.residency = self._wished_residency.granted(data, device)
        self.path = resolve_path(path)
        check_derivatives(self.path)
        self._wished_backend = backend
        self.backend, self.backend_reason = self._resolved(backend)
        self.precision = resolve_precision(precision, self.backend)
        self.point_std, self.t_max = float(point_std), t_max
        self.mode, self.tolerance = resolve_mode(mode), tolerance
        self.index: SearchIndex | None = None
        self._make_ready()
        self._handle = compiled.register(self)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a file keeps: not what is made of it."""
        return {name: part for name, part in self.__dict__.items() if name not in MADE}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, which compiled code must tell from its original."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._handle = compiled.register(self)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> OracleEngine:
        """Move the data to the device that torch asks for."""
        # torch sends .to(), .cuda() and .half() through here: follow the device, never the dtype
        there = fn(torch.empty(0, device=self.data.device)).device
        if there == self.data.device:
            return self
        self.data, self.residency = self._wished_residency.granted(self.data, there)
        self.index = None if self.index is None else self.index.to(self.data.device)
        self.backend, self.backend_reason = self._resolved(self._wished_backend)
        self._make_ready()
        return self

    def _resolved(self, backend: str) -> tuple[str, str]:
        return resolve_backend(backend, rows_like(self.data))

    def _make_ready(self) -> None:
        """Compute what every answer needs."""
        # what is kept must not be made by a first call that is recorded in a graph
        _ = self.data.base
        # numbers on the meta device are shapes only
        if self.data.device.type != "meta":
            _ = self.data.class_table
        for rows in rows_here(self.data):
            if not isinstance(rows.stored, OutsideRows):
                BACKENDS[self.backend].ready(rows)

    def extra_repr(self) -> str:
        """Return what printing the module shows."""
        return f"{self.data!r}, path={self.path!r}, backend={self.backend!r}"

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
        """Return the posterior over the samples with its statistics, for each of B queries.

        x, t, labels, exclude, source: as in :meth:`velocity`; the posterior of any array is one of tensors. top_k: how
        many of the heaviest samples to name, at least 0. Raises InputError as :meth:`velocity` does, and for a negative
        top_k. Costs little more than a velocity.

        >>> import torch, oracle_engine as oe
        >>> engine = oe.OracleEngine(oe.OracleDataset(torch.tensor([[-1.0], [1.0]])))
        >>> p = engine.posterior(torch.tensor([[0.0]]), 0.5, top_k=1)
        >>> float(p.ess), float(p.variance)
        (2.0, 1.0)
        """
        if not is_whole(top_k) or top_k < 0:
            raise invalid("top_k", "must be a whole number >= 0", top_k, "pass 0 to name no samples")
        conditions = Conditions(labels, None, exclude, source)
        self._check_capture("posterior", conditions)
        points: Any = lent(x, self.data.device) if is_foreign(x) else x
        refuse_transforms("posterior", points, t)
        with self._checks():
            request = self.request_builder.request(points, t, conditions)
            return self.responder.posterior(request, int(top_k), points.shape, points.dtype)

    def prepare(
        self,
        index: str = "screen",
        *,
        path: str | PathLike[str] | None = None,
        neighbours: bool = True,
        progress: PartProgress | None = None,
    ) -> OracleEngine:
        """Build, or load, what late queries search with, and return the engine.

        index: "screen": certified bounds of every logit, of the kind that saves most, or none where none does, and
            "pca" in mode "budget"; a kind by name: "pca", short copies of the samples, "pca8", 8-bit codes of those,
            "int8", 8-bit codes of the samples, "exact8", samples in 8 bits as they are; "flat": those of "pca" searched
            by FAISS; or a FAISS factory string such as "IVF1024,Flat", for mode "top_k" only, since it cannot certify
            its answers.
        path: a file to load the index from; where there is none it is built and saved there. The index of data whose
            samples are the first of these is extended by the others, and saved.
        neighbours: also bound the distances to nearest neighbours, so that late training queries with `source` read
            no data at all; costs N^2 short products.
        progress: called with what is done, how far it is, and how far it goes.
        Raises InputError where samples are too short for a screen to help, DataFileError for the index of other data.
        """
        # estimates are drawn from leading coordinates, whichever kind searches sooner
        spec = "pca" if index == "screen" and isinstance(self.mode, Budget) else index
        return self.use(prepared_index(self.data, spec, path, neighbours=neighbours, progress=progress))

    def use(self, index: SearchIndex, path: str | PathLike[str] = "the index") -> OracleEngine:
        """Search with `index`, read from `path`, from now on, and return the engine.

        The data are prepared around the centre of the index, which changes no answer. Raises DataFileError where the
        index is of other data.
        """
        self.index = index.of(self.data, path)
        self.data = self.data.centred_at(self.index.centre)
        return self

    def trajectory(
        self,
        x: Any,
        t: Numbers = 0.0,
        *,
        labels: Numbers | None = None,
        guidance: Numbers | Guidance | None = None,
    ) -> Trajectory:
        """Return a handle that answers along the path of a deterministic sampler which starts from x at t.

        x, t, labels, guidance: as in :meth:`velocity`; labels and guidance hold for the whole run. The `velocity(x, t)`
        and `denoiser(x, t)` of the handle are those of the engine, sooner: what all states share with x is computed
        once, at the cost of a scan and 4 B N bytes. Without an index, see :meth:`prepare`, it only hands on.
        Raises InputError as :meth:`velocity` does.
        """
        conditions = Conditions(labels, guidance)
        self._check_capture("trajectory", conditions)
        points: Any = lent(x, self.data.device) if is_foreign(x) else x
        refuse_transforms("trajectory", points, t)
        request = self.request_builder.request(points, t, conditions)
        useful = isinstance(self.mode, Auto) and self.index is not None and self.index.uses_shared_products
        point = request.query(self.data).point
        shared_products = SharedProducts.of(self.data.rows, point) if useful else None
        return Trajectory(self._follow, shared_products, conditions, self.data.device)

    def _follow(
        self, name: str, x: Tensor, t: Numbers, conditions: Conditions, shared_products: SharedProducts | None
    ) -> Tensor:
        """Return a prediction for states of a trajectory, which share products with the samples."""
        self._check_capture("trajectory", conditions)
        if transformed() or differentiable(x, t, scale_and_interval(conditions.guidance)[0]):
            # with derivatives nothing is shared between states
            return self._respond(name, x, t, conditions)
        with torch.no_grad():
            request = self.request_builder.request(x, t, conditions)
            if shared_products is not None:
                check_deterministic(self.data, request, shared_products)
            responder = self.responder
            mean = mixed(responder.terms(request, shared_products))
            values = responder.combined(name, request, mean, x.dtype)
            return rounded_answer(values, name, x.dtype, x.shape)

    def plan(self, batch: int = 256) -> Plan:
        """Return what a call with `batch` unconditional queries, at least 1, will do and cost.

        Raises InputError for a smaller batch. Times one small product and a call over a few samples.
        """
        if not is_whole(batch) or batch < 1:
            raise invalid("batch", "must be a whole number of at least 1", batch, "pass the batch you will ask for")
        return make_plan(self, batch)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, and forget what was made of the attributes."""
        super().__setattr__(name, value)
        for made in MADE:
            self.__dict__.pop(made, None)

    @cached_property
    def request_builder(self) -> RequestBuilder:
        """What checks arguments and turns them into requests."""
        return RequestBuilder(self.data, self.path, self.point_std, self.t_max)

    @cached_property
    def responder(self) -> Responder:
        """What answers requests."""
        backend = BACKENDS[self.backend]
        exact = whole_scan(self.data, backend, self.precision)
        router = Router(self.mode, self.tolerance, exact, self.point_std, self.index, backend.merge)
        return Responder(self.data, self.point_std, router, backend.combine, backend.describe)

    @cached_property
    def straight(self) -> StraightWay | None:
        """What answers queries without conditions in one call, where no other route than the scan can be theirs."""
        least = self.responder.router.searched_from
        if least == 0.0:
            return None
        backend = BACKENDS[self.backend]
        return StraightWay.of(self.data, self.path, backend, self.point_std, t_max=self.t_max, searched_from=least)

    def _respond(self, name: str, x: Tensor, t: Numbers, conditions: Conditions) -> Tensor:
        """Return an answer by the way that fits: recorded in compiled code, with derivatives, or plain."""
        if compiled.inside_transform() and compiled.cut_out():
            return compiled.untraced(self, name, x, t, conditions)
        if traced():
            recordable = self._obstacle(name, conditions) is None
            return compiled.respond(self._handle, name, x, t, conditions=conditions, recordable=recordable)
        if transformed() or differentiable(x, t, scale_and_interval(conditions.guidance)[0]):
            return self.answered(name, x, t, conditions)
        return self.answer(name, x, t, conditions)

    def answered(self, name: str, x: Tensor, t: Numbers, conditions: Conditions) -> Tensor:
        """Return what :meth:`answer` does, as a function of x, t and the guidance scale for autograd."""
        check_floating("x", x)
        self._check_capture(name, conditions, derivative=True)
        return attached(self.function(name, x.dtype, conditions), x, t, conditions)

    def answer(
        self, name: str, x: Float[Tensor, "B ..."], t: Numbers, conditions: Conditions
    ) -> Float[Tensor, "B ..."]:
        """Return the answer called `name` without a graph, like x or, of a log density, [B] float64.

        name: velocity, denoiser, score, noise or log_density. x, t: as in :meth:`velocity`. conditions: of the queries.
        Raises InputError as :meth:`velocity` does.
        """
        self._check_capture(name, conditions)
        if self.straight is not None and conditions.are_none:
            found = self.straight.answer(name, x, t)
            if found is not None:
                return found
        with torch.no_grad(), self._checks():
            request = self.request_builder.request(x, t, conditions)
            values = self.responder.values(name, request, x.dtype)
            return values if name == "log_density" else rounded_answer(values, name, x.dtype, x.shape)

    def _checks(self) -> AbstractContextManager[None]:
        # one wait where no search that reads values, and no long pass could meet what is refused
        asks = self.index is not None and not self.index.asks_nothing(self.data.rows)
        together = BACKENDS[self.backend].waits_once and not asks and not self.residency.streams
        return checked_together() if together else nullcontext()

    def function(self, name: str, dtype: torch.dtype, conditions: Conditions) -> AnswerFunction:
        """Return the answer called `name` as a function with derivatives.

        name: as in :meth:`answer`. dtype: of x. conditions: of the queries; of these the interval of the guidance
        counts, and whether its scale has a derivative.
        """
        scale, interval = scale_and_interval(conditions.guidance)
        scaled = isinstance(scale, Tensor) and (transformed() or differentiable(scale))
        responder, builder = self.responder, self.request_builder
        return AnswerFunction(name, responder, builder, dtype=dtype, interval=interval, scaled=scaled)

    def _obstacle(self, name: str, conditions: Conditions) -> str | None:
        weighted = self.data.rows.log_weights is not None
        streams = self.residency.streams
        return obstacle(name, conditions, backend=self.backend, mode=self.mode, weighted=weighted, streams=streams)

    def _check_capture(self, name: str, conditions: Conditions, derivative: bool = False) -> None:
        found = (self._obstacle(name, conditions) or ("x" if derivative else None)) if capturing() else None
        if found is not None:
            raise unrecordable(found)


def _data_of(data: Any) -> OracleDataset:
    """Return a data set as it is, or the one that load_dataset makes of anything else."""
    if isinstance(data, OracleDataset):
        return data
    try:
        return load_dataset(data)
    except InputError as error:
        if error.parameter != "source" or error.remedy is None:
            raise
        raise error.about("data", error.remedy) from error
