"""OracleEngine: exact oracle velocity, denoiser, score, noise, density and posterior over a finite data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from . import compiled
from .arrays import Float, Float64, Tensor
from .dataset import OracleDataset
from .env import Settings
from .errors import invalid
from .gradient import DensityDerivative, Derivative, PredictionDerivative, Term, attached, mixed, plain
from .kernels import (
    PosteriorState,
    Query,
    Rows,
    Span,
    Wanted,
    concatenate,
    covariance_product,
    merge,
    posterior_state,
    reference_covariance_product,
    reference_memory,
    reference_state,
    scan_memory,
)
from .paths import Path, Prediction, marginal_variance, resolve_path
from .plan import Plan, batch_slices, class_holes, product_rate, scan_tasks
from .posterior import Posterior
from .request import Asker, Guidance, Request


def _triton_state(rows: Rows, query: Query, span: Span, wanted: Wanted) -> PosteriorState:
    from .kernels.triton_scan import triton_state  # triton is imported only where it is asked for

    return triton_state(rows, query, span, wanted)


def _triton_half_state(rows: Rows, query: Query, span: Span, wanted: Wanted) -> PosteriorState:
    from .kernels.operands import HALF
    from .kernels.triton_scan import triton_state

    return triton_state(rows, query, span, wanted, HALF)


def _triton_memory(rows: Rows, batch: int) -> int:
    from .kernels.triton_scan import triton_memory

    return triton_memory(rows, batch)


# what computes the state of a span of rows, in full and half precision, and what memory it needs for a batch
BACKENDS = {"torch": posterior_state, "reference": reference_state, "triton": _triton_state}
HALF_BACKENDS = {"triton": _triton_half_state}
MEMORY = {"torch": scan_memory, "reference": reference_memory, "triton": _triton_memory}


class OracleEngine(torch.nn.Module):
    """Closed-form flow-matching targets over `data`, exact for every query.

    data: an OracleDataset. path: a name from oracle_engine.paths.PATHS, or an object like one.
    device: where to compute; the data are moved there. None keeps them where they are.
    backend: "torch", "reference" (float64, slow), "triton" (CUDA; not yet proved on a card, so never chosen for
        you), or "auto", which the variable ORACLE_BACKEND can settle.
    precision: "full", or "half" for half of the matrix products and velocities off by about 1e-3; Triton only.
    point_std: every sample is a Gaussian of this width in value space instead of a point, e.g. a VAE posterior.
    t_max: clamp times here, for paths that end at sigma = 0; None refuses such times.

    Answers can be differentiated in x, once: forward or backward, at one and a half times the cost of the answer, and
    free where x wants no gradient. Posteriors carry no graph. Under torch.compile an answer is one opaque operator.
    The module has no parameters and an empty state_dict; `.to(device)` moves the data, casts such as `.half()` leave
    them as they are.
    """

    def __init__(
        self,
        data: OracleDataset,
        path: str | Path = "rectified_flow",
        *,
        device: torch.device | str | None = None,
        backend: str = "auto",
        precision: str = "full",
        point_std: float = 0.0,
        t_max: float | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(data, OracleDataset):
            raise invalid(
                "data", "must be an OracleDataset", type(data).__name__, "use oracle_engine.load_dataset(data)"
            )
        if not 0.0 <= point_std < math.inf:
            raise invalid("point_std", "must be a finite number >= 0", point_std, "pass the width in value space")
        if t_max is not None and not 0.0 <= t_max <= 1.0:
            raise invalid("t_max", "must lie in [0, 1]", t_max, "pass 0.999, or None to refuse such times")
        self.data = data if device is None else data.to(device)
        self.path = resolve_path(path)
        self.backend, self.backend_reason = _resolve_backend(backend)
        self.precision = _resolve_precision(precision, self.backend)
        self.point_std, self.t_max = float(point_std), t_max
        self._handle = compiled.register(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, which compiled code must tell from its original."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._handle = compiled.register(self)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> OracleEngine:
        # torch sends .to(), .cuda() and .half() through here: follow the device, never the dtype
        self.data = self.data.to(fn(torch.empty(0, device=self.data.device)).device)
        return self

    def extra_repr(self) -> str:
        """Return what printing the module shows."""
        return f"{self.data!r}, path={self.path!r}, backend={self.backend!r}"

    def forward(self, x: Float[Tensor, "B ..."], t: float | Tensor, **options: Any) -> Float[Tensor, "B ..."]:
        """Return :meth:`velocity`."""
        return self.velocity(x, t, **options)

    def velocity(
        self,
        x: Float[Tensor, "B ..."],
        t: float | Tensor,
        labels: int | Tensor | None = None,
        guidance: float | Tensor | Guidance | None = None,
        exclude: int | Tensor | None = None,
    ) -> Float[Tensor, "B ..."]:
        """Return the oracle velocity E[d_alpha X + d_sigma eps | x_t = x], like x (arXiv 2512.02826).

        x: [B, *sample_shape], any floating dtype, on the engine's device.
        t: a number, [], [B] or [B, 1, ...] in [0, 1], 0 noise and 1 data.
        labels: condition on a class: an integer, [B], or [B, U] for the union of U classes; -1 stands for none.
        guidance: scale w of v_0 + w (v_y - v_0), a number, [B], or a Guidance with an interval of t; needs labels.
        exclude: index of a sample that does not count, one for all or [B], -1 for none (leave-one-out).
        Raises InputError for anything else, where sigma(t) = 0, and where no sample is left.
        Costs one pass over the rows in question: 2 to 4 B N D operations.
        """
        return self._respond("velocity", x, t, labels, guidance, exclude)

    def denoiser(
        self,
        x: Float[Tensor, "B ..."],
        t: float | Tensor,
        labels: int | Tensor | None = None,
        guidance: float | Tensor | Guidance | None = None,
        exclude: int | Tensor | None = None,
    ) -> Float[Tensor, "B ..."]:
        """Return the posterior mean E[X | x_t = x], like x; arguments, errors and cost as in :meth:`velocity`."""
        return self._respond("denoiser", x, t, labels, guidance, exclude)

    def score(
        self,
        x: Float[Tensor, "B ..."],
        t: float | Tensor,
        labels: int | Tensor | None = None,
        guidance: float | Tensor | Guidance | None = None,
        exclude: int | Tensor | None = None,
    ) -> Float[Tensor, "B ..."]:
        """Return the gradient of log p_t at x, like x; arguments, errors and cost as in :meth:`velocity`."""
        return self._respond("score", x, t, labels, guidance, exclude)

    def noise(
        self,
        x: Float[Tensor, "B ..."],
        t: float | Tensor,
        labels: int | Tensor | None = None,
        guidance: float | Tensor | Guidance | None = None,
        exclude: int | Tensor | None = None,
    ) -> Float[Tensor, "B ..."]:
        """Return the posterior mean E[eps | x_t = x], like x; arguments, errors and cost as in :meth:`velocity`."""
        return self._respond("noise", x, t, labels, guidance, exclude)

    def log_density(
        self,
        x: Float[Tensor, "B ..."],
        t: float | Tensor,
        labels: int | Tensor | None = None,
        exclude: int | Tensor | None = None,
    ) -> Float64[Tensor, "B"]:
        """Return log p_t(x) in nats, float64 [B]; arguments and errors as in :meth:`velocity`.

        log p_t(x) = lse_j(log w_j - |x - alpha X_j|^2 / 2 s^2) - lse_j(log w_j) - (D/2) log(2 pi s^2).
        Costs half of a velocity: no weighted mean is taken.
        """
        return self._respond("log_density", x, t, labels, None, exclude)

    def posterior(
        self,
        x: Float[Tensor, "B ..."],
        t: float | Tensor,
        labels: int | Tensor | None = None,
        exclude: int | Tensor | None = None,
        top_k: int = 8,
    ) -> Posterior:
        """Return the posterior over the samples with its statistics; arguments and errors as in :meth:`velocity`.

        top_k: how many of the heaviest samples to name, at least 0. Costs little more than a velocity.
        """
        if top_k < 0:
            raise invalid("top_k", "must not be negative", top_k, "pass 0 to name no samples")
        request = self._asker.request(x, t, labels, exclude)
        state = self._state(request, Wanted(moments=True, top_k=top_k))
        variance = marginal_variance(request.at, self.point_std)
        # a sample of width p keeps sigma^2 / s^2 of its distance to the others, and adds its own spread
        kept = request.at.sigma_t.square() / variance
        own = self.data.dim * self.point_std**2 * kept
        return Posterior(
            mean=self._shaped(self._prediction(request, state.mean).denoiser, x),
            log_density=self._log_density(request, state),
            ess=1.0 / state.concentration,
            entropy=state.entropy,
            variance=(self.data.value_map.scale * kept).square() * state.variance + own,
            top_weights=(state.top_logits - state.lse[:, None]).exp(),
            top_indices=self.data.index_of(state.top_rows),
            route=("exact",) * len(x),
        )

    def plan(self, batch: int = 256) -> Plan:
        """Return what a query of `batch` points will do and cost; times one small product, reads no data."""
        rows = self.data.rows
        if batch < 1:
            raise invalid("batch", "must be at least 1", batch, "pass the batch you will ask for")
        slices = batch_slices(batch, rows.dim)
        size = slices[0].stop
        operations = 4 * batch * len(rows) * rows.dim
        return Plan(
            data=repr(self.data),
            batch=batch,
            backend=self.backend,
            route="exact",
            reason=self.backend_reason + (", velocities off by about 1e-3" if self.precision == "half" else ""),
            memory=MEMORY[self.backend](rows, size),
            operations=operations,
            read=rows.stored.nbytes * len(slices),
            seconds=operations / product_rate(rows.device, size, rows.dim),
        )

    @property
    def _asker(self) -> Asker:
        return Asker(self.data, self.path, self.point_std, self.t_max)

    def _respond(
        self,
        name: str,
        x: Tensor,
        t: float | Tensor,
        labels: int | Tensor | None,
        guidance: float | Tensor | Guidance | None,
        exclude: int | Tensor | None,
    ) -> Tensor:
        if torch.compiler.is_compiling():
            return compiled.respond(self._handle, name, x, t, labels, guidance, exclude)
        point, wanted = plain(x)
        answer, derivative = self.answer(name, point, t, labels, guidance, exclude, wanted)
        return attached(answer, x, derivative)

    def answer(
        self,
        name: str,
        x: Float[Tensor, "B ..."],
        t: float | Tensor,
        labels: int | Tensor | None,
        guidance: float | Tensor | Guidance | None,
        exclude: int | Tensor | None,
        derivative: bool,
    ) -> tuple[Tensor, Derivative | None]:
        """Return the answer called `name` without a graph and, where wanted, its derivative in x."""
        with torch.no_grad():
            request = self._asker.request(x, t, labels, exclude, guidance)
            if name == "log_density":
                return self._density_answer(request, derivative)
            terms = self._terms(request)
            # every prediction is affine in the mean, so guiding the mean guides them all
            prediction = self._prediction(request, mixed(terms))
            values = self._shaped(getattr(prediction, name), x)
            return values, self._derivative(name, request, terms) if derivative else None

    def _density_answer(self, request: Request, derivative: bool) -> tuple[Tensor, Derivative | None]:
        state = self._state(request, Wanted(mean=derivative))
        density = self._log_density(request, state)
        if not derivative:
            return density, None
        return density, DensityDerivative(self._prediction(request, state.mean).score)

    def _derivative(self, name: str, request: Request, terms: Sequence[Term]) -> Derivative:
        product = reference_covariance_product if self.backend == "reference" else covariance_product
        return PredictionDerivative.of(name, self.data, request, self.point_std, terms, product)

    def _terms(self, request: Request) -> list[Term]:
        state = self._state(request, Wanted())
        everyone = torch.arange(len(request), device=self.data.device)
        terms = [Term(everyone, request.scale, request, state)]
        guided = (request.scale != 1.0).nonzero()[:, 0]
        if len(guided):
            part = request.take(guided)
            # the classes are scanned already: the rest of the data completes the unconditional term
            free = merge(state.take(guided), self._by_slices(part, Wanted(), self._scan_rest))
            terms.append(Term(guided, 1.0 - part.scale, replace(part, labels=None), free))
        return terms

    def _state(self, request: Request, wanted: Wanted) -> PosteriorState:
        state = self._by_slices(request, wanted, self._scan)
        if bool((state.lse == -torch.inf).any()):
            first = int((state.lse == -torch.inf).nonzero()[0])
            raise invalid(
                "weights", "must be positive for some sample", f"none for query {first}", "change labels or exclude"
            )
        return state

    def _by_slices(
        self, request: Request, wanted: Wanted, scan: Callable[[Request, Wanted], PosteriorState]
    ) -> PosteriorState:
        parts = [scan(request.take(part), wanted) for part in batch_slices(len(request), self.data.dim)]
        return concatenate(parts or [PosteriorState.empty(0, self.data.dim, wanted.top_k, self.data.device)])

    def _scan(self, request: Request, wanted: Wanted) -> PosteriorState:
        query = request.query(self.data, self.point_std)
        everyone = torch.arange(len(query), device=self.data.device)
        state = PosteriorState.empty(len(query), self.data.dim, wanted.top_k, self.data.device)
        for task in scan_tasks(request.labels, self.data.segments, len(self.data), everyone):
            part = self._run(query.take(task.query), task.span, wanted)
            state = state.put(task.query, merge(state.take(task.query), part))
        return state

    def _scan_rest(self, request: Request, wanted: Wanted) -> PosteriorState:
        query = request.query(self.data, self.point_std)
        holes = torch.cat([query.holes, class_holes(request.labels, self.data.segments)], dim=1)
        return self._run(replace(query, holes=holes), Span(0, len(self.data)), wanted)

    def _run(self, query: Query, span: Span, wanted: Wanted) -> PosteriorState:
        run = HALF_BACKENDS[self.backend] if self.precision == "half" else BACKENDS[self.backend]
        return run(self.data.rows, query, span, wanted)

    def _prediction(self, request: Request, mean: Float64[Tensor, "B D"]) -> Prediction:
        values = self.data.value_map.scale * mean + self.data.base
        return Prediction(request.x, values, request.at, self.point_std)

    def _log_density(self, request: Request, state: PosteriorState) -> Float64[Tensor, "B"]:
        variance = marginal_variance(request.at, self.point_std)
        return state.lse - request.log_mass(self.data) - 0.5 * self.data.dim * (2 * math.pi * variance).log()

    @staticmethod
    def _shaped(values: Float64[Tensor, "B D"], x: Tensor) -> Tensor:
        return values.to(x.dtype).reshape(x.shape)


def _resolve_precision(precision: str, backend: str) -> str:
    if precision not in ("full", "half"):
        raise invalid("precision", "must be full or half", repr(precision), "use 'full'")
    if precision == "half" and backend not in HALF_BACKENDS:
        remedy = "pass backend='triton', or precision='full'"
        raise invalid("precision", "can be half with the Triton kernels only", f"backend {backend!r}", remedy)
    return precision


def _resolve_backend(backend: str) -> tuple[str, str]:
    chosen, source = backend, "asked for"
    if backend == "auto":
        chosen, source = Settings.read().backend, "set by ORACLE_BACKEND"
    if chosen == "auto":
        return "torch", "the torch backend runs on every device; every row is scanned"
    if chosen not in BACKENDS:
        raise invalid("backend", f"must be auto, {', '.join(BACKENDS)}", repr(chosen), "use 'auto'")
    return chosen, f"backend {chosen} was {source}; every row is scanned"
