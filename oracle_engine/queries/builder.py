"""From what a caller passes to a request: every argument is checked before any work starts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ..base.arrays import Bool, Float64, Int64, Numbers, Tensor, check_floating, check_shape, integers, reals
from ..base.calls.checked import above, check, finite
from ..base.calls.cuda_graphs import capturing
from ..base.errors import InputError, invalid
from ..data.dataset import OracleDataset
from ..data.sharded import ShardedDataset, refused_together
from ..kernels import float64_values
from ..paths.paths import Path, coefficients, resolve_times
from ..paths.predictions import marginal_variance
from .classes import class_ranges, with_class
from .conditions import UNCONDITIONAL, Conditions, Guidance
from .known_times import KnownTimes, host_times
from .labels import resolve_labels
from .request import PlainRequest, Request

# noise this many times longer than Gaussian noise is not noise: the index belongs to another sample
NOT_NOISE = 1.5

# unit roundoffs of the dtypes that queries may have
ROUNDING = {
    dtype: 0.5 * torch.finfo(dtype).eps for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
}

# variances up to here are none: paths whose d_sigma diverges end at a standard deviation of 1e-150 instead of zero
NO_NOISE = 1e-290


@dataclass(frozen=True)
class RequestBuilder:
    """What turns arguments into requests.

    data: the samples. path: of x_t. point_std: width of every sample in value space, at least 0. t_max: where times are
    clamped, or None.
    """

    data: OracleDataset
    path: Path
    point_std: float
    t_max: float | None

    def request(self, x: Tensor, t: Numbers, conditions: Conditions = UNCONDITIONAL) -> Request:
        """Check every argument and return the request.

        x: [B, *sample_shape], any floating dtype, on the device of the data. t: a number, [], [B] or [B, 1, ...] in
        [0, 1]. conditions: labels, guidance, excluded samples and sources.
        Raises InputError that names the argument that cannot be used, and where the data were changed in place.
        """
        with refused_together(self.data):
            return self._checked(x, t, conditions)

    def _checked(self, x: Tensor, t: Numbers, conditions: Conditions) -> Request:
        """Return the request of a batch. Raises InputError for what cannot be answered."""
        self.data.check_unchanged()
        flat = self._points(x)
        batch, device = len(flat), flat.device
        times = resolve_times(t, batch, self.t_max, device)
        at = coefficients(self.path, times)
        variance = marginal_variance(at, self.point_std)
        _check_noise(times, variance)
        labels = resolve_labels(conditions.labels, batch, self.data.segments, device)
        scale = _guidance_scale(conditions.guidance, times, labels)
        shared = None if isinstance(scale, Tensor) else scale
        rounding, known = ROUNDING[x.dtype], partial(self._known_times, t, times)
        plain = PlainRequest(
            flat, times, at, variance, rounding=rounding, labels=labels, shared_scale=shared, known_times=known
        )
        if conditions.exclude is None and conditions.source is None and not isinstance(scale, Tensor):
            return plain
        changes = {"scale": scale} if isinstance(scale, Tensor) else {}
        request = plain.changed(guided=scale is not None, **changes, **self._rows(conditions, labels, batch))
        if conditions.source is not None:
            self._check_source(request)
        return request

    def _known_times(self, t: Numbers, times: Float64[Tensor, "B"]) -> KnownTimes | None:
        """Return what the host knows of `times`, which were passed as `t`, without a wait for their device."""
        known = host_times(t, times)
        return None if known is None else KnownTimes(self.path, known, self.t_max, self.point_std)

    def _rows(self, conditions: Conditions, labels: Int64[Tensor, "B U"] | None, batch: int) -> dict[str, Any]:
        """Return the rows that do not count and those that queries come from, as fields of a request."""
        exclude = _named_rows("exclude", conditions.exclude, batch, self.data)
        nobody = conditions.exclude is None and conditions.source is None
        source = exclude if nobody else _named_rows("source", conditions.source, batch, self.data)
        if conditions.exclude is not None:
            _check_nonempty(labels, exclude, self.data)
        excluded = _excluded_ranges(exclude, some=conditions.exclude is not None)
        return {"exclude": exclude, "excluded": excluded, "source": source}

    def _check_source(self, request: Request) -> None:
        """Refuse sources that cannot have made x: what is left would be too long for noise."""
        if capturing():
            return
        known = (request.source >= 0).nonzero()[:, 0]
        noise, deviation = self._noise(request, known), request.variance[known].sqrt()
        usual = deviation * (self.data.dim**0.5 + 8.0) * NOT_NOISE + 4.0 * request.blur[known]
        if bool((noise > usual).any()):
            first = int((noise > usual).nonzero()[0])
            raise invalid(
                "source",
                "must be the index of the sample that x was made from, x = alpha X + sigma eps",
                f"noise of norm {noise[first] / deviation[first]:.3g} sigma in query {int(known[first])}, where about "
                f"{self.data.dim**0.5:.3g} is usual",
                "pass the index in the order of the data set's points, -1 where it is not known",
            )

    def _noise(self, request: Request, known: Int64[Tensor, "b"]) -> Float64[Tensor, "b"]:
        """Return the distance of the queries `known` to their sources times alpha, in value space."""
        if isinstance(self.data, ShardedDataset):
            # a collective, also for a rank that knows no source
            part = request.take(known)
            samples = self.data.sample_values(part.source).reshape(len(known), self.data.dim).double()
            distance: Tensor = torch.linalg.vector_norm(part.x - part.at.alpha_t[:, None] * samples, dim=1)
            return distance
        if len(known) == 0:
            return request.times[known]
        # the logit of a sample is its squared distance over the variance
        logit = request.source_state(self.data).lse[known]
        scaled: Tensor = request.variance[known].sqrt() * (-2.0 * logit).clamp_min(0.0).sqrt()
        return scaled

    def _points(self, x: Tensor) -> Float64[Tensor, "B D"]:
        """Return the queries flat and in float64. Raises InputError for other shapes, devices and dtypes."""
        check_floating("x", x)
        check_shape("x", x, self.data.sample_shape)
        device = self.data.device
        if x.device != device:
            raise invalid("x", f"must be on the device of the data, {device}", x.device, "move one of them")
        flat, known = float64_values(x, self.data.dim)
        check(lambda: finite(flat) if known is None else known, lambda: _not_finite(flat))
        return flat


def _not_finite(x: Float64[Tensor, "B D"]) -> InputError | None:
    """Return the error about the first query that is not finite, or None."""
    bad = (~x.isfinite().all(1)).nonzero()[:, 0].tolist()
    if not bad:
        return None
    found = f"a NaN or an infinity in query {bad[0]}"
    return invalid("x", "must be finite", found, "look at the model or sampler that made it")


def _check_noise(times: Float64[Tensor, "B"], variance: Float64[Tensor, "B"]) -> None:
    """Raise InputError where a time leaves no noise."""
    remedy = "stop before the end point, clamp with OracleEngine(t_max=0.999), or give samples a point_std"
    needs = "must leave some noise: sigma(t) > 0"
    check(
        lambda: above(variance, NO_NOISE),
        lambda: invalid("t", needs, f"t = {times[~(variance > NO_NOISE)][0].item()}", remedy),
    )


def _named_rows(name: str, index: Numbers | None, batch: int, data: OracleDataset) -> Int64[Tensor, "B"]:
    """Return the rows of the samples with these indices, [B]; -1 for none."""
    if index is None:
        return torch.full((batch,), -1, dtype=torch.int64, device=data.device)
    given = integers(name, index, data.device, "pass the indices of samples")
    if given.shape not in ((), (batch,)):
        raise invalid(name, f"must be one number or [{batch}]", list(given.shape), "pass one index a query")
    held = (given >= -1) & (given < len(data))
    needs = f"must be indices of samples, 0 .. {len(data) - 1}, or -1"
    check(lambda: held, lambda: invalid(name, needs, given[~held].reshape(-1)[0].item(), "check the indices"))
    chosen = given.expand(batch)
    # what is refused later does no harm before
    return torch.where(chosen < 0, -1, data.row_of(chosen.clamp(0, len(data) - 1)))


def _excluded_ranges(exclude: Int64[Tensor, "B"], *, some: bool) -> Int64[Tensor, "B H 2"]:
    """Return the ranges of rows that do not count: of the row of each query, empty for -1, or none at all."""
    if not some:
        return exclude.new_empty(len(exclude), 0, 2)
    return torch.stack([exclude, exclude + (exclude >= 0)], dim=1)[:, None]


def _check_nonempty(labels: Int64[Tensor, "B U"] | None, exclude: Int64[Tensor, "B"], data: OracleDataset) -> None:
    """Raise InputError where leaving a sample out leaves none."""
    # only a set of one sample can become empty by leaving one out
    if labels is None and len(data) > 1:
        return
    alone = (exclude >= 0) if len(data) == 1 else torch.zeros_like(exclude, dtype=torch.bool)
    if labels is not None and data.sorted_labels is not None:
        start, stop = class_ranges(labels, data.sorted_labels).unbind(2)
        own = ((start <= exclude[:, None]) & (exclude[:, None] < stop)).any(1)
        alone = alone | (own & ((stop - start).sum(1) == 1))
    check(lambda: ~alone, lambda: _none_left(int(alone.nonzero()[0])))


def _none_left(query: int) -> InputError:
    return invalid("exclude", "must leave a sample to each query", f"none left for query {query}", "pass -1 for it")


def _guidance_scale(
    guidance: Numbers | Guidance | None, times: Float64[Tensor, "B"], labels: Int64[Tensor, "B U"] | None
) -> Float64[Tensor, "B"] | float | None:
    """Return the scale of each query, [B], or the number that it is for all with a class, or None without guidance."""
    if guidance is None:
        return None
    if labels is None:
        raise invalid("guidance", "needs labels to guide towards", "no labels", "pass labels=")
    chosen = guidance if isinstance(guidance, Guidance) else Guidance(guidance)
    needs, remedy = f"must be a finite number or [{len(times)}]", "pass one scale a query"
    always = (chosen.t_min, chosen.t_max) == (0.0, 1.0)
    if always and isinstance(chosen.scale, (int, float)) and math.isfinite(factor := float(chosen.scale)):
        # nothing of such a number has to be read anywhere
        return factor
    scale = reals("guidance", chosen.scale, times.device).detach()
    if scale.shape not in ((), times.shape):
        raise invalid("guidance", needs, chosen.scale, remedy)
    check(scale.isfinite, lambda: invalid("guidance", needs, chosen.scale, remedy))
    inside: Bool[Tensor, "B"] = (times >= chosen.t_min) & (times <= chosen.t_max)
    # a query without a class has nothing to be guided towards
    return torch.where(inside & with_class(labels), scale, 1.0)
