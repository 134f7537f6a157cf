"""OracleEngine: exact oracle velocity, denoiser, score, noise, density and posterior over a finite data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import torch

from ..base.arrays import Float, Float64, Tensor
from ..base.cuda_graphs import capturing
from ..base.errors import invalid
from ..base.progress import PartProgress
from ..data.dataset import OracleDataset
from ..kernels import PosteriorState, Wanted, covariance_product, reference_covariance_product
from ..kernels.screens import BOUND_FAILURE, SharedProducts
from ..paths.paths import Path as ProbabilityPath
from ..paths.paths import Prediction, marginal_variance, resolve_path
from ..queries.answer import Route
from ..queries.classes import batch_slices
from ..queries.modes import Auto, Mode, resolve_mode
from ..queries.posterior import Posterior
from ..queries.request import Conditions, Guidance, Request, RequestBuilder
from ..scans.backends import BACKENDS, resolve_backend, resolve_precision
from ..scans.exact import ExactScan
from ..search.certificate import farthest, omitted_mass, relative_error
from ..search.index import SearchIndex, prepared_index
from ..search.trajectory import Trajectory, check_deterministic
from . import compiled
from .autograd import DensityDerivative, Derivative, PredictionDerivative, Term, attached, detached, mixed
from .graphs import obstacle, unrecordable
from .outlook import forecast
from .plan import Plan, product_rate
from .router import Router


class OracleEngine(torch.nn.Module):
    """Closed-form flow-matching targets over `data`, exact for every query.

    data: an OracleDataset. path: a name from oracle_engine.paths.paths.PATHS, or an object like one.
    device: where to compute; the data are moved there. None keeps them where they are.
    backend: "torch", "reference" (float64, slow), "triton" (CUDA; not yet proved on a card, so never chosen for
        you), or "auto", which the variable ORACLE_BACKEND can settle.
    precision: "full", or "half" for half of the matrix products and velocities off by about 1e-3; Triton only.
    mode: "auto" scans every sample unless `prepare` was called: then queries that few samples can matter to look at
        those, where that changes the velocity by at most `tolerance`, relative, by proof. "exact" always scans.
        "top_k" and "budget", or TopK(count), Budget(rows), look at that many samples and say what they may miss.
    tolerance: largest relative velocity error that leaving samples out may cause, in (0, 1).
    point_std: every sample is a Gaussian of this width in value space instead of a point, e.g. a VAE posterior.
    t_max: clamp times here, for paths that end at sigma = 0; None refuses such times.

    Answers can be differentiated in x, once: forward or backward, at one and a half times the cost of the answer, and
    free where x wants no gradient. Posteriors carry no graph. Under torch.compile an answer is one opaque operator.
    With backend "triton" a CUDA graph can record an answer, after a first call outside of it: every sample is scanned,
    and values of arguments are not checked.
    The module has no parameters and an empty state_dict; `.to(device)` moves the data, casts such as `.half()` leave
    them as they are.
    """

    def __init__(
        self,
        data: OracleDataset,
        path: str | ProbabilityPath = "rectified_flow",
        *,
        device: torch.device | str | None = None,
        backend: str = "auto",
        precision: str = "full",
        mode: str | Mode = "auto",
        tolerance: float = 1e-4,
        point_std: float = 0.0,
        t_max: float | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(data, OracleDataset):
            raise invalid(
                "data", "must be an OracleDataset", type(data).__name__, "use oracle_engine.load_dataset(data)"
            )
        if isinstance(point_std, Tensor) and point_std.numel() != 1:
            remedy = "pass the root of its mean square, or draw a few latents of each posterior and store those"
            found = f"a tensor of shape {list(point_std.shape)}, which gives every sample a kernel of its own"
            raise invalid("point_std", "must be one width for all samples", found, remedy)
        if not 0.0 <= point_std < math.inf:
            raise invalid("point_std", "must be a finite number >= 0", point_std, "pass the width in value space")
        if not 0.0 < tolerance < 1.0:
            raise invalid("tolerance", "must lie in (0, 1)", tolerance, "pass 1e-4, or mode='exact' for none at all")
        if t_max is not None and not 0.0 <= t_max <= 1.0:
            raise invalid("t_max", "must lie in [0, 1]", t_max, "pass 0.999, or None to refuse such times")
        self.data = data if device is None else data.to(device)
        self.path = resolve_path(path)
        self.backend, self.backend_reason = resolve_backend(backend)
        self.precision = resolve_precision(precision, self.backend)
        self.point_std, self.t_max = float(point_std), t_max
        self.mode, self.tolerance = resolve_mode(mode), tolerance
        self.index: SearchIndex | None = None
        self._handle = compiled.register(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, which compiled code must tell from its original."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._handle = compiled.register(self)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> OracleEngine:
        # torch sends .to(), .cuda() and .half() through here: follow the device, never the dtype
        self.data = self.data.to(fn(torch.empty(0, device=self.data.device)).device)
        self.index = None if self.index is None else self.index.to(self.data.device)
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
        source: int | Tensor | None = None,
    ) -> Float[Tensor, "B ..."]:
        """Return the oracle velocity E[d_alpha X + d_sigma eps | x_t = x], like x (arXiv 2512.02826).

        x: [B, *sample_shape], any floating dtype, on the engine's device.
        t: a number, [], [B] or [B, 1, ...] in [0, 1], 0 noise and 1 data.
        labels: condition on a class: an integer, [B], or [B, U] for the union of U classes; -1 stands for none.
        guidance: scale w of v_0 + w (v_y - v_0), a number, [B], or a Guidance with an interval of t; needs labels.
        exclude: index of a sample that does not count, one for all or [B], -1 for none (leave-one-out).
        source: index of the sample that x was made from, x = alpha X + sigma eps, -1 for unknown; after prepare() it
            lets late queries do with far fewer samples. The answer is the same.
        Raises InputError for anything else, where sigma(t) = 0, and where no sample is left.
        Costs one pass over the rows in question: 2 to 4 B N D operations.
        """
        return self._respond("velocity", x, t, Conditions(labels, guidance, exclude, source))

    def denoiser(
        self,
        x: Float[Tensor, "B ..."],
        t: float | Tensor,
        labels: int | Tensor | None = None,
        guidance: float | Tensor | Guidance | None = None,
        exclude: int | Tensor | None = None,
        source: int | Tensor | None = None,
    ) -> Float[Tensor, "B ..."]:
        """Return the posterior mean E[X | x_t = x], like x; arguments, errors and cost as in :meth:`velocity`."""
        return self._respond("denoiser", x, t, Conditions(labels, guidance, exclude, source))

    def score(
        self,
        x: Float[Tensor, "B ..."],
        t: float | Tensor,
        labels: int | Tensor | None = None,
        guidance: float | Tensor | Guidance | None = None,
        exclude: int | Tensor | None = None,
        source: int | Tensor | None = None,
    ) -> Float[Tensor, "B ..."]:
        """Return the gradient of log p_t at x, like x; arguments, errors and cost as in :meth:`velocity`."""
        return self._respond("score", x, t, Conditions(labels, guidance, exclude, source))

    def noise(
        self,
        x: Float[Tensor, "B ..."],
        t: float | Tensor,
        labels: int | Tensor | None = None,
        guidance: float | Tensor | Guidance | None = None,
        exclude: int | Tensor | None = None,
        source: int | Tensor | None = None,
    ) -> Float[Tensor, "B ..."]:
        """Return the posterior mean E[eps | x_t = x], like x; arguments, errors and cost as in :meth:`velocity`."""
        return self._respond("noise", x, t, Conditions(labels, guidance, exclude, source))

    def log_density(
        self,
        x: Float[Tensor, "B ..."],
        t: float | Tensor,
        labels: int | Tensor | None = None,
        exclude: int | Tensor | None = None,
        source: int | Tensor | None = None,
    ) -> Float64[Tensor, "B"]:
        """Return log p_t(x) in nats, float64 [B]; arguments and errors as in :meth:`velocity`.

        log p_t(x) = lse_j(log w_j - |x - alpha X_j|^2 / 2 s^2) - lse_j(log w_j) - (D/2) log(2 pi s^2).
        Costs half of a velocity: no weighted mean is taken.
        """
        return self._respond("log_density", x, t, Conditions(labels, None, exclude, source))

    def posterior(
        self,
        x: Float[Tensor, "B ..."],
        t: float | Tensor,
        labels: int | Tensor | None = None,
        exclude: int | Tensor | None = None,
        source: int | Tensor | None = None,
        top_k: int = 8,
    ) -> Posterior:
        """Return the posterior over the samples with its statistics; arguments and errors as in :meth:`velocity`.

        top_k: how many of the heaviest samples to name, at least 0. Costs little more than a velocity.
        """
        if top_k < 0:
            raise invalid("top_k", "must not be negative", top_k, "pass 0 to name no samples")
        given = Conditions(labels, None, exclude, source)
        self._check_capture("posterior", given)
        request = self.request_builder.request(x, t, given)
        answer = self._router.answer(request, Wanted(moments=True, top_k=top_k))
        state = answer.state
        variance = marginal_variance(request.at, self.point_std)
        # a sample of width p keeps sigma^2 / s^2 of its distance to the others, and adds its own spread
        kept = request.at.sigma_t.square() / variance
        own = self.data.dim * self.point_std**2 * kept
        prediction = self._prediction(request, state.mean)
        omitted = omitted_mass(state, answer.log_omitted)
        return Posterior(
            mean=self._shaped(prediction.denoiser, x),
            log_density=self._log_density(request, state),
            ess=1.0 / state.concentration,
            entropy=state.entropy,
            variance=(self.data.value_map.scale * kept).square() * state.variance + own,
            top_weights=(state.top_logits - state.lse[:, None]).exp(),
            top_indices=self.data.index_of(state.top_rows),
            omitted_mass=omitted,
            # the exact mean is (1 - e) E_S + e E_T: off by e |E_T - E_S|, e at most the omitted mass
            velocity_error=relative_error(prediction, omitted * farthest(self.data, state)),
            confidence=1.0 - BOUND_FAILURE * answer.likely.double(),
            standard_error=relative_error(prediction, self.data.value_map.scale * answer.standard_error),
            survivors=answer.survivors,
            route=tuple(Route(code).label for code in answer.route.tolist()),
        )

    def prepare(
        self,
        index: str = "screen",
        *,
        path: str | PathLike[str] | None = None,
        neighbours: bool = True,
        progress: PartProgress | None = None,
    ) -> OracleEngine:
        """Build, or load, what late queries search with, and return the engine.

        index: "screen": certified bounds of every logit, of the kind that saves most, or none where none does; a kind
            by name: "pca", short copies of the samples, "int8", 8-bit codes of them, "exact8", samples in 8 bits as
            they are; "flat": those of "pca" searched by FAISS; or a FAISS factory string such as "IVF1024,Flat", for
            mode "top_k" only, since it cannot certify its answers.
        path: a file to load the index from; where there is none it is built and saved there. The index of data whose
            samples are the first of these is extended by the others, and saved.
        neighbours: also bound the distances to nearest neighbours, so that late training queries with `source` read
            no data at all; costs N^2 short products.
        progress: called with what is done, how far it is, and how far it goes.
        Raises InputError where samples are too short for a screen to help, DataFileError for the index of other data.
        """
        return self.use(prepared_index(self.data, index, path, neighbours, progress))

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
        x: Float[Tensor, "B ..."],
        t: float | Tensor = 0.0,
        labels: int | Tensor | None = None,
        guidance: float | Tensor | Guidance | None = None,
    ) -> Trajectory:
        """Return a handle that answers along the path of a deterministic sampler which starts from x at t.

        Its `velocity(x, t)` and `denoiser(x, t)` are those of the engine for the given labels and guidance, sooner:
        what all states share with x is computed once, at the cost of a scan and 4 B N bytes. Without an index, see
        :meth:`prepare`, it only hands on.
        """
        given = Conditions(labels, guidance)
        self._check_capture("trajectory", given)
        request = self.request_builder.request(x, t, given)
        point = request.query(self.data, self.point_std).point
        useful = isinstance(self.mode, Auto) and self.index is not None and self.index.uses_shared_products
        shared_products = SharedProducts.of(self.data.rows, point) if useful else None
        return Trajectory(self._follow, shared_products, given)

    def _follow(
        self, name: str, x: Tensor, t: float | Tensor, given: Conditions, shared_products: SharedProducts | None
    ) -> Tensor:
        self._check_capture("trajectory", given)
        with torch.no_grad():
            request = self.request_builder.request(x.detach(), t, given)
            if shared_products is not None:
                check_deterministic(self.data, request, shared_products, self.point_std)
            prediction = self._prediction(request, mixed(self._terms(request, shared_products)))
            return self._shaped(getattr(prediction, name), x)

    def plan(self, batch: int = 256) -> Plan:
        """Return what a query of `batch` points will do and cost; times one small product, reads no data."""
        rows = self.data.rows
        if batch < 1:
            raise invalid("batch", "must be at least 1", batch, "pass the batch you will ask for")
        slices = batch_slices(batch, rows.dim)
        size = slices[0].stop
        operations = 4 * batch * len(rows) * rows.dim
        late = forecast(self.mode, self.index, self.data, self.path, self.point_std)
        return Plan(
            data=repr(self.data),
            batch=batch,
            backend=self.backend,
            route=", ".join(late.routes),
            reason=self.backend_reason + (", velocities off by about 1e-3" if self.precision == "half" else ""),
            late=late,
            memory=BACKENDS[self.backend].memory(rows, size),
            operations=operations,
            read=rows.stored.nbytes * len(slices),
            seconds=operations / product_rate(rows.device, size, rows.dim),
        )

    @property
    def _router(self) -> Router:
        run = BACKENDS[self.backend].run(self.precision)
        return Router(self.mode, self.tolerance, ExactScan(self.data, self.point_std, run), self.index)

    @property
    def request_builder(self) -> RequestBuilder:
        """What checks arguments and turns them into requests."""
        return RequestBuilder(self.data, self.path, self.point_std, self.t_max)

    def _respond(self, name: str, x: Tensor, t: float | Tensor, given: Conditions) -> Tensor:
        if torch.compiler.is_compiling():
            return compiled.respond(self._handle, name, x, t, given, self._obstacle(name, given) is None)
        point, wanted = detached(x)
        answer, derivative = self.answer(name, point, t, given, wanted)
        return attached(answer, x, derivative)

    def answer(
        self, name: str, x: Float[Tensor, "B ..."], t: float | Tensor, given: Conditions, derivative: bool
    ) -> tuple[Tensor, Derivative | None]:
        """Return the answer called `name` without a graph and, where wanted, its derivative in x."""
        self._check_capture(name, given, derivative)
        with torch.no_grad():
            request = self.request_builder.request(x, t, given)
            if name == "log_density":
                return self._density_answer(request, derivative)
            terms = self._terms(request)
            # every prediction is affine in the mean, so guiding the mean guides them all
            prediction = self._prediction(request, mixed(terms))
            values = self._shaped(getattr(prediction, name), x)
            return values, self._derivative(name, request, terms) if derivative else None

    def _obstacle(self, name: str, given: Conditions) -> str | None:
        return obstacle(name, self.backend, self.mode, given, self.data.rows.log_weights is not None)

    def _check_capture(self, name: str, given: Conditions, derivative: bool = False) -> None:
        found = (self._obstacle(name, given) or ("x" if derivative else None)) if capturing() else None
        if found is not None:
            raise unrecordable(found)

    def _density_answer(self, request: Request, derivative: bool) -> tuple[Tensor, Derivative | None]:
        state = self._router.answer(request, Wanted(mean=derivative)).state
        density = self._log_density(request, state)
        if not derivative:
            return density, None
        return density, DensityDerivative(self._prediction(request, state.mean).score)

    def _derivative(self, name: str, request: Request, terms: Sequence[Term]) -> Derivative:
        product = reference_covariance_product if self.backend == "reference" else covariance_product
        return PredictionDerivative.of(name, self.data, request, self.point_std, terms, product)

    def _terms(self, request: Request, shared_products: SharedProducts | None = None) -> list[Term]:
        answer = self._router.answer(request, Wanted(), shared_products)
        everyone = torch.arange(len(request), device=self.data.device)
        terms = [Term(everyone, request.scale, request, answer.state)]
        guided = everyone[:0] if capturing() else (request.scale != 1.0).nonzero()[:, 0]
        if len(guided):
            part = request.take(guided)
            shared = None if shared_products is None else shared_products.take(guided)
            unconditional = self._router.unconditional(part, answer.take(guided), shared).state
            terms.append(Term(guided, 1.0 - part.scale, part.unconditional, unconditional))
        return terms

    def _prediction(self, request: Request, mean: Float64[Tensor, "B D"]) -> Prediction:
        values = self.data.value_map.scale * mean + self.data.base
        return Prediction(request.x, values, request.at, self.point_std)

    def _log_density(self, request: Request, state: PosteriorState) -> Float64[Tensor, "B"]:
        variance = marginal_variance(request.at, self.point_std)
        return state.lse - request.log_mass(self.data) - 0.5 * self.data.dim * (2 * math.pi * variance).log()

    @staticmethod
    def _shaped(values: Float64[Tensor, "B D"], x: Tensor) -> Tensor:
        return values.to(x.dtype).reshape(x.shape)
