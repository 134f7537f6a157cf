"""A checked batch of queries: everything a caller can ask, resolved to float64 tensors before any work starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch

from ..base.arrays import Bool, Float64, Int64, Tensor, check_floating, check_shape, on_device
from ..base.cuda_graphs import capturing, holds
from ..base.errors import invalid
from ..data.dataset import OracleDataset
from ..kernels import Query, Span
from ..kernels.screens import BOUND_FAILURE, Source
from ..paths.paths import Coefficients, Path, coefficients, marginal_variance, resolve_times
from .classes import class_ranges

# noise this many times longer than Gaussian noise is not noise: the index belongs to another sample
NOT_NOISE = 1.5

# variances up to here are none: paths whose d_sigma diverges end at a standard deviation of 1e-150 instead of zero
NO_NOISE = 1e-290


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance of the oracle: v_0 + scale (v_y - v_0) for t in [t_min, t_max], v_y outside.

    scale: a number or [B]. Ho and Salimans (2021); the interval follows Kynkäänniemi et al. (2024).
    """

    scale: float | Tensor
    t_min: float = 0.0
    t_max: float = 1.0


class Conditions(NamedTuple):
    """What an answer depends on beside x and t, as the caller passed it; see OracleEngine.velocity."""

    labels: int | Tensor | None = None
    guidance: float | Tensor | Guidance | None = None
    exclude: int | Tensor | None = None
    source: int | Tensor | None = None


@dataclass(frozen=True)
class Request:
    """x [B, D], times [B] and the path at these times in float64, on the device of the data.

    labels: classes each query may use, [B, U] with -1 for none, or None.
    exclude: row that does not count for a query, -1 for none, [B].
    source: row that a query was made from, -1 for unknown, [B].
    blur: rounding of x in its own dtype, a norm in value space, [B].
    scale: guidance scale, 1 where there is none, [B].
    """

    x: Float64[Tensor, "B D"]
    times: Float64[Tensor, "B"]
    at: Coefficients
    labels: Int64[Tensor, "B U"] | None
    exclude: Int64[Tensor, "B"]
    source: Int64[Tensor, "B"]
    blur: Float64[Tensor, "B"]
    scale: Float64[Tensor, "B"]

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: slice | Int64[Tensor, "b"]) -> Request:
        """Return part of the batch."""
        at = Coefficients(*(getattr(self.at, field.name)[index] for field in fields(self.at)))
        labels = None if self.labels is None else self.labels[index]
        rest = (part[index] for part in (self.exclude, self.source, self.blur, self.scale))
        return Request(self.x[index], self.times[index], at, labels, *rest)

    @property
    def unconditional(self) -> Request:
        """The same queries of the whole data set."""
        return replace(self, labels=None)

    def known_source(self, data: OracleDataset) -> Source:
        """Return what is known about where the queries come from, in the coordinates of the rows of `data`."""
        return Source(self.source, self.blur / data.value_map.scale, BOUND_FAILURE)

    def source_counts(self, data: OracleDataset) -> Bool[Tensor, "B"]:
        """Return which queries may use the sample they were made from, [B]."""
        counts = (self.source >= 0) & (self.source != self.exclude)
        if self.labels is None or data.sorted_labels is None:
            return counts
        own = data.sorted_labels[self.source.clamp_min(0)]
        return counts & ((self.labels == own[:, None]).any(1) | (self.labels < 0).all(1))

    def query(self, data: OracleDataset, point_std: float) -> Query:
        """Return the batch in the coordinates of the rows of `data`."""
        scale = data.value_map.scale
        point = (self.x - self.at.alpha_t[:, None] * data.base) / scale
        excluded = torch.stack([self.exclude, self.exclude + (self.exclude >= 0)], dim=1)[:, None]
        inverse_variance = scale**2 / marginal_variance(self.at, point_std)
        return Query(point, self.at.alpha_t.contiguous(), inverse_variance, excluded)

    def usable(self, data: OracleDataset) -> Int64[Tensor, "B"]:
        """Return how many samples each query may use, [B]."""
        count = torch.full_like(self.exclude, len(data))
        own = self.exclude >= 0
        if self.labels is not None and data.sorted_labels is not None:
            ranges = class_ranges(self.labels, data.sorted_labels)
            start, stop, row = ranges[:, :, 0], ranges[:, :, 1], self.exclude[:, None]
            conditional = (self.labels >= 0).any(1)
            count = torch.where(conditional, (stop - start).sum(1), count)
            own = own & (~conditional | ((row >= start) & (row < stop)).any(1))
        return count - own.long()

    def log_mass(self, data: OracleDataset) -> Float64[Tensor, "B"]:
        """Return the log of the weight of the samples each query may use, [B]; without weights each counts one."""
        if data.rows.log_weights is None:
            return self.usable(data).double().log()
        weights = data.rows.log_weights.exp()
        mass = weights.sum().expand(len(self)).clone()
        own = torch.ones(len(self), dtype=torch.bool, device=mass.device)
        if self.labels is not None:
            conditional = (self.labels >= 0).any(1)
            mass[conditional] = 0.0
            own = ~conditional
            for name, span in data.segments.items():
                uses = (self.labels == name).any(1)
                mass[uses] += weights[span.start : span.stop].sum()
                own |= uses & (self.exclude >= span.start) & (self.exclude < span.stop)
        left_out = torch.where(own & (self.exclude >= 0), weights[self.exclude.clamp_min(0)], 0.0)
        rest = mass - left_out
        # where one sample holds nearly all of the weight the difference loses it: sum the others
        for query in (left_out > 0.999 * mass).nonzero()[:, 0].tolist():
            rest[query] = self._others(query, weights, data)
        return rest.log()

    def _others(self, query: int, weights: Float64[Tensor, "N"], data: OracleDataset) -> Float64[Tensor, ""]:
        others = weights.clone()
        others[self.exclude[query]] = 0.0
        names = [] if self.labels is None else self.labels[query].unique().tolist()
        spans = [data.segments[name] for name in names if name >= 0] or [Span(0, len(data))]
        return torch.stack([others[span.start : span.stop].sum() for span in spans]).sum()


NONE = Conditions()


@dataclass(frozen=True)
class RequestBuilder:
    """What turns arguments into requests: the data, the path and the two ends of the noise."""

    data: OracleDataset
    path: Path
    point_std: float
    t_max: float | None

    def request(self, x: Tensor, t: float | Tensor, given: Conditions = NONE) -> Request:
        """Check every argument and return the request. Raises InputError."""
        self._check_points(x)
        batch, device = len(x), x.device
        times = resolve_times(t, batch, self.t_max, device)
        at = coefficients(self.path, times)
        if batch and not holds(marginal_variance(at, self.point_std) > NO_NOISE):
            bad = times[marginal_variance(at, self.point_std) <= NO_NOISE][0].item()
            remedy = "stop before the end point, clamp with OracleEngine(t_max=0.999), or give samples a point_std"
            raise invalid("t", "must leave some noise: sigma(t) > 0", f"t = {bad}", remedy)
        resolved = _labels(given.labels, batch, self.data.segments, device)
        rows = _named_rows("exclude", given.exclude, batch, self.data, device)
        _check_nonempty(resolved, rows, self.data)
        origin = _named_rows("source", given.source, batch, self.data, device)
        scale = _guidance_scale(given.guidance, times, resolved)
        point = x.detach().double().reshape(batch, self.data.dim)
        blur = 0.5 * torch.finfo(x.dtype).eps * torch.linalg.vector_norm(point, dim=1)
        request = Request(point, times, at, resolved, rows, origin, blur, scale)
        self._check_source(request)
        return request

    def _check_source(self, request: Request) -> None:
        """Refuse sources that cannot have made x: what is left would be too long for noise."""
        if capturing():
            return
        known = (request.source >= 0).nonzero()[:, 0]
        if len(known) == 0:
            return
        part = request.take(known)
        sample = self.data.sample_values(part.source).reshape(len(known), -1).double()
        noise = torch.linalg.vector_norm(part.x - part.at.alpha_t[:, None] * sample, dim=1)
        deviation = marginal_variance(part.at, self.point_std).sqrt()
        usual = deviation * (self.data.dim**0.5 + 8.0) * NOT_NOISE + 4.0 * part.blur
        if bool((noise > usual).any()):
            first = int((noise > usual).nonzero()[0])
            raise invalid(
                "source",
                "must be the index of the sample that x was made from, x = alpha X + sigma eps",
                f"noise of norm {noise[first] / deviation[first]:.3g} sigma in query {int(known[first])}, where about "
                f"{self.data.dim**0.5:.3g} is usual",
                "pass the index in the order of the data set's points, -1 where it is not known",
            )

    def _check_points(self, x: Tensor) -> None:
        check_floating("x", x)
        check_shape("x", x, self.data.sample_shape)
        if x.device != self.data.device:
            raise invalid("x", f"must be on the device of the data, {self.data.device}", x.device, "move one of them")
        if not holds(x.isfinite()):
            bad = int((~x.isfinite().reshape(len(x), -1).all(1)).nonzero()[0])
            raise invalid(
                "x",
                "must be finite",
                f"a NaN or an infinity in query {bad}",
                "look at the model or sampler that made it",
            )


def _labels(
    labels: int | Tensor | None, batch: int, segments: Mapping[int, Span], device: torch.device
) -> Int64[Tensor, "B U"] | None:
    if labels is None:
        return None
    if not segments:
        raise invalid("labels", "need labelled data", "a data set without labels", "pass labels= to OracleDataset")
    given = on_device(labels, device)
    if given.is_floating_point() or given.dtype == torch.bool:
        raise invalid("labels", "must be integers", given.dtype, "pass labels.long()")
    if given.ndim == 0:
        given = given.expand(batch)
    if given.ndim > 2 or len(given) != batch:
        raise invalid(
            "labels", f"must be one number, [{batch}] or [{batch}, U]", list(given.shape), "pass one row a query"
        )
    unknown = [] if capturing() else sorted(set(given.unique().tolist()) - set(segments) - {-1})
    if unknown:
        known = f"{min(segments)} .. {max(segments)} ({len(segments)} classes)"
        raise invalid(
            "labels", f"must be classes of the data, {known}, or -1", unknown[0], "list them with data.segments"
        )
    return given.long() if given.ndim == 2 else given.long()[:, None]


def _named_rows(
    name: str, index: int | Tensor | None, batch: int, data: OracleDataset, device: torch.device
) -> Int64[Tensor, "B"]:
    """Return the rows of the samples with these indices, [B]; -1 for none."""
    given = on_device(-1 if index is None else index, device)
    if given.is_floating_point() or given.dtype == torch.bool:
        raise invalid(name, "must be integers", given.dtype, "pass the indices of samples")
    if given.shape not in ((), (batch,)):
        raise invalid(name, f"must be one number or [{batch}]", list(given.shape), "pass one index a query")
    if not holds((given >= -1) & (given < len(data))):
        bad = given[(given < -1) | (given >= len(data))].reshape(-1)[0].item()
        raise invalid(name, f"must be indices of samples, 0 .. {len(data) - 1}, or -1", bad, "check the indices")
    chosen = given.long().expand(batch)
    return torch.where(chosen < 0, -1, data.row_of(chosen.clamp_min(0)))


def _check_nonempty(labels: Int64[Tensor, "B U"] | None, exclude: Int64[Tensor, "B"], data: OracleDataset) -> None:
    # only a set of one sample can become empty by leaving one out
    single = {name: span.start for name, span in data.segments.items() if len(span) == 1}
    alone = (exclude >= 0) if len(data) == 1 else torch.zeros_like(exclude, dtype=torch.bool)
    if labels is not None:
        for name, row in single.items():
            only = ((labels == name) | (labels < 0)).all(1) & (labels == name).any(1)
            alone = alone | (only & (exclude == row))
    if not holds(~alone):
        first = int(alone.nonzero()[0])
        raise invalid("exclude", "must leave a sample to each query", f"none left for query {first}", "pass -1 for it")


def _guidance_scale(
    guidance: float | Tensor | Guidance | None, times: Float64[Tensor, "B"], labels: Int64[Tensor, "B U"] | None
) -> Float64[Tensor, "B"]:
    if guidance is None:
        return torch.ones_like(times)
    if labels is None:
        raise invalid("guidance", "needs labels to guide towards", "no labels", "pass labels=")
    chosen = guidance if isinstance(guidance, Guidance) else Guidance(guidance)
    scale = on_device(chosen.scale, times.device).detach().double()
    if scale.shape not in ((), times.shape) or not holds(scale.isfinite()):
        raise invalid("guidance", f"must be a finite number or [{len(times)}]", chosen.scale, "pass one scale a query")
    inside: Bool[Tensor, "B"] = (times >= chosen.t_min) & (times <= chosen.t_max)
    # a query without a class has nothing to be guided towards
    return torch.where(inside & (labels >= 0).any(1), scale, 1.0)
