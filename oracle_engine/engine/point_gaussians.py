"""The exact oracle of samples that are Gaussians of their own widths, such as the posteriors of a VAE."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from os import PathLike
from typing import NamedTuple

import torch
from torch.utils.checkpoint import checkpoint

from ..base.arrays import Float, Float64, Int64, Numbers, Tensor, check_floating, check_shape, integers, reals
from ..base.calls.checked import required
from ..base.calls.transforms import transformed
from ..base.errors import invalid
from ..base.outputs import rounded_answer
from ..data.latents.files import read_moments
from ..data.latents.latents import Normalisation
from ..paths.paths import (
    Coefficients,
    Path,
    check_derivatives,
    coefficients,
    one_per_query,
    resolve_path,
    resolve_times,
)
from ..paths.slopes import not_differentiable, seen_in_time
from ..queries.builder import NO_NOISE
from .autograd import differentiable

# values of a block of queries and samples, and the queries of a block
PAIR_VALUES = 1 << 22
PAIR_QUERIES = 64
# values of a block where autograd keeps a graph between blocks: above 32 MiB memory is given back to the system, where
# smaller blocks leave holes between what is kept
GRAPH_VALUES = 1 << 23


@dataclass(frozen=True)
class _Answer:
    """The posterior of B queries: E[X | x], E[(x - alpha mu) / V | x] [B, D] each, and log p_t(x) [B], float64."""

    mean: Float64[Tensor, "B D"]
    pull: Float64[Tensor, "B D"]
    log_density: Float64[Tensor, "B"]


class _Asked(NamedTuple):
    """What b queries ask: x, the path at their times, and the classes whose samples count, -1 for all, or None."""

    x: Float64[Tensor, "b D"]
    alpha: Float64[Tensor, "b"]
    sigma: Float64[Tensor, "b"]
    classes: Int64[Tensor, "b"] | None

    def blocks(self) -> Iterator[_Asked]:
        """Yield a few queries after the other."""
        for start in range(0, len(self.x), PAIR_QUERIES):
            part = slice(start, start + PAIR_QUERIES)
            classes = None if self.classes is None else self.classes[part]
            yield _Asked(self.x[part], self.alpha[part], self.sigma[part], classes)


class _Sums(NamedTuple):
    """Weighted sums over the samples that b queries have met: weights are exp(logit - top), met says of how many."""

    top: Float64[Tensor, "b"]
    total: Float64[Tensor, "b"]
    met: Float64[Tensor, "b"]
    mean: Float64[Tensor, "b D"]
    pull: Float64[Tensor, "b D"]


class PointGaussians:
    """The closed-form oracle where sample i is N(mean_i, diag(std_i^2)), drawn anew whenever it is used.

    means: mu, [N, *shape] floating, finite. stds: s, [N] one width a sample, or [N, *shape] a width for each value;
        finite, at least 0. labels: [N] integers of at least 0, -1 for no class, or None. path: a name or an object, as
        OracleEngine takes it. All numbers are kept in float64, in 16 bytes a value where widths are.

    A loop that draws X ~ N(mu_i, diag(s_i^2)) in every epoch trains on this oracle, not on that of one draw: it is the
    target of such a loop, and `velocity` is what the conditional target averages to. Along the path, given sample i,
    x ~ N(alpha mu_i, V_i) with V_i = alpha^2 s_i^2 + sigma^2, so
    gamma_i = softmax_i(-1/2 sum (x - alpha mu_i)^2 / V_i - 1/2 sum log V_i) and
    E[X | x] = sum_i gamma_i (mu_i + alpha s_i^2 / V_i (x - alpha mu_i)). With one width for all samples this is
    OracleEngine(data, point_std=s), which is many times faster.

    Answers are differentiable in x and t to any order, also by torch.func; means and widths are constants. A block is
    computed again for a derivative, so that memory stays that of an answer; inside of torch.func all blocks are kept.

    Raises InputError for other shapes, widths below 0, numbers that are not finite, and as OracleEngine for the path.
    Computed by direct differences in float64, in blocks; costs about 10 B N D operations an answer.

    >>> import torch, oracle_engine as oe
    >>> oracle = oe.PointGaussians(torch.tensor([[-1.0], [1.0]]), torch.tensor([0.1, 0.5]))
    >>> oracle.denoiser(torch.tensor([[0.0]]), 0.0)  # at t = 0 the mean of all
    tensor([[0.]])
    """

    def __init__(
        self,
        means: Float[Tensor, "N ..."],
        stds: Float[Tensor, "N ..."],
        labels: Numbers | None = None,
        *,
        path: str | Path = "rectified_flow",
    ) -> None:
        check_floating("means", means)
        check_floating("stds", stds)
        if means.ndim < 1 or len(means) < 1 or not bool(means.isfinite().all()):
            raise invalid("means", "must be one or more finite samples", list(means.shape), "check the means")
        if stds.shape not in (means.shape, means.shape[:1]) or not bool((stds >= 0).all() & stds.isfinite().all()):
            requirement = f"must be {list(means.shape[:1])} or {list(means.shape)} finite widths of at least 0"
            raise invalid("stds", requirement, list(stds.shape), "pass standard deviations, not their logarithms")
        self.sample_shape, self.path = tuple(means.shape[1:]), resolve_path(path)
        check_derivatives(self.path)
        self._seen_in_time = seen_in_time(self.path)
        self._means = means.detach().double().reshape(len(means), -1)
        self._variances = stds.detach().to(means.device).double().square().reshape(len(means), -1)
        self._labels = None if labels is None else _checked_labels(labels, len(means), means.device)

    @classmethod
    def from_moments(
        cls, moments: Float[Tensor, "N C2 H W"], labels: Numbers | None = None, *, scale: float = 1.0,
        path: str | Path = "rectified_flow",
    ) -> PointGaussians:  # fmt: skip
        """Return the oracle of latents that are stored as means and standard deviations along the channels.

        moments: [N, 2 C, H, W], the means in the first half of the channels, as the files of EDM2 and REPA have them.
        scale: by which a training loop multiplies what it draws, above 0. labels, path: as for the class.
        Raises InputError for an odd number of channels.
        """
        if moments.ndim != 4 or moments.shape[1] % 2:
            requirement = "must be [N, 2 C, H, W], means and then standard deviations"
            raise invalid("moments", requirement, list(moments.shape), "concatenate them along the channels")
        means, stds = (scale * moments.double()).chunk(2, 1)
        return cls(means, stds, labels, path=path)

    @classmethod
    def from_files(
        cls, source: str | PathLike[str], normalisation: Normalisation | None, *, path: str | Path = "rectified_flow"
    ) -> PointGaussians:
        """Return the oracle of the Gaussians in an EDM2 or REPA folder or zip of latents, with the labels there.

        source: the folder or zip (img-mean-std-*.npy, dataset.json). normalisation: what the training loop does to
        what it draws, as in load_latents, which moves the means and scales the widths; None for the numbers as they
        are. path: as for the class.
        Raises DataFileError for other folders and damaged files, and InputError for a normalisation that does not fit.
        """
        moments, labels = read_moments(source)
        means, stds = moments.double().chunk(2, 1)
        if normalisation is not None:
            # widths are scaled and not moved
            means = normalisation.apply(means, torch.float64)
            stds = replace(normalisation, mean=0.0).apply(stds, torch.float64)
        return cls(means, stds, labels, path=path)

    def __len__(self) -> int:
        return len(self._means)

    def __repr__(self) -> str:
        widths = "a width a sample" if self._variances.shape[1] == 1 else "a width a value"
        return f"PointGaussians({len(self):,} x {list(self.sample_shape)}, {widths}, {self.path!r})"

    def __call__(self, x: Float[Tensor, "B ..."], t: Numbers, **conditions: Numbers) -> Float[Tensor, "B ..."]:
        """Return :meth:`velocity` of x at t under `conditions`, its keywords."""
        return self.velocity(x, t, **conditions)

    def velocity(
        self, x: Float[Tensor, "B ..."], t: Numbers, *, labels: Numbers | None = None
    ) -> Float[Tensor, "B ..."]:
        """Return E[d_alpha X + d_sigma eps | x_t = x], like x.

        x: [B, *sample_shape], floating. t: a number or [B], in [0, 1]. labels: the class of each query, [B] integers,
        -1 for none, or one for all. Raises InputError for anything else, for a class without samples, and where neither
        noise nor width is left.
        """
        at, answer = self._answer(x, t, labels)
        noise = at.sigma_t[:, None] * answer.pull
        return self._like("velocity", at.d_alpha_t[:, None] * answer.mean + at.d_sigma_t[:, None] * noise, x)

    def denoiser(
        self, x: Float[Tensor, "B ..."], t: Numbers, *, labels: Numbers | None = None
    ) -> Float[Tensor, "B ..."]:
        """Return E[X | x_t = x], like x; arguments and errors as in :meth:`velocity`."""
        return self._like("denoiser", self._answer(x, t, labels)[1].mean, x)

    def noise(self, x: Float[Tensor, "B ..."], t: Numbers, *, labels: Numbers | None = None) -> Float[Tensor, "B ..."]:
        """Return E[eps | x_t = x], like x; arguments and errors as in :meth:`velocity`."""
        at, answer = self._answer(x, t, labels)
        return self._like("noise", at.sigma_t[:, None] * answer.pull, x)

    def score(self, x: Float[Tensor, "B ..."], t: Numbers, *, labels: Numbers | None = None) -> Float[Tensor, "B ..."]:
        """Return the gradient of log p_t at x, like x; arguments and errors as in :meth:`velocity`."""
        return self._like("score", -self._answer(x, t, labels)[1].pull, x)

    def log_density(
        self, x: Float[Tensor, "B ..."], t: Numbers, *, labels: Numbers | None = None
    ) -> Float64[Tensor, "B"]:
        """Return log p_t(x) in nats, [B] float64, of the class where labels are given; as in :meth:`velocity`."""
        return self._answer(x, t, labels)[1].log_density

    def _like(self, name: str, values: Float64[Tensor, "B D"], x: Tensor) -> Tensor:
        """Return the answer called `name` like x. Raises InputError where the dtype of x cannot hold it."""
        return rounded_answer(values, name, x.dtype, x.shape)

    def _answer(self, x: Tensor, t: Numbers, labels: Numbers | None) -> tuple[Coefficients, _Answer]:
        """Return the posterior of checked queries, and the path at their times."""
        check_floating("x", x)
        check_shape("x", x, self.sample_shape)
        if x.device != self._means.device:
            raise invalid("x", f"must be on {self._means.device}, like the samples", x.device, "move x there")
        points = x.double().reshape(len(x), -1)
        at = coefficients(self.path, self._times(t, x))
        least = at.alpha_t.square() * self._variances.min() + at.sigma_t.square()
        required(least, least > NO_NOISE, "t", "must leave some noise or width", "stop before the end, at 0.999")
        asked = _Asked(points, at.alpha_t, at.sigma_t, self._classes(labels, len(x), x.device))
        parts = [self._block(part) for part in asked.blocks()]
        means, pulls, densities = ([getattr(one, name) for one in parts] for name in ("mean", "pull", "log_density"))
        empty = points[:0]
        joined = (torch.cat([*means, empty]), torch.cat([*pulls, empty]), torch.cat([*densities, empty[:, 0]]))
        return at, _Answer(*joined)

    def _block(self, asked: _Asked) -> _Answer:
        """Return the answer of a few queries by passes over the samples."""
        # hooks of saved tensors and torch.func exclude each other
        again = differentiable(asked.x, asked.alpha, asked.sigma) and not transformed()
        top = torch.full_like(asked.alpha, -math.inf)
        if again:
            # with the final shift nothing of a block has to be kept
            with torch.no_grad():
                top = self._summed(top, asked, again=False).top
        top, total, met, mean, pull = self._summed(top, asked, again=again)
        density = top + total.log() - met.log() - 0.5 * asked.x.shape[1] * math.log(2.0 * math.pi)
        return _Answer(mean / total[:, None], pull / total[:, None], density)

    def _summed(self, top: Float64[Tensor, "b"], asked: _Asked, *, again: bool) -> _Sums:
        """Return sums over all samples. top: as large as known. again: whether derivatives compute each block anew."""
        none, zeros = torch.zeros_like(asked.alpha), torch.zeros_like(asked.x)
        sums = _Sums(top, none, none, zeros, zeros)
        for rows in self._spans(zeros.numel(), GRAPH_VALUES if again else PAIR_VALUES):
            if again:
                kept = checkpoint(self._part, sums.top, asked, rows, use_reentrant=False, preserve_rng_state=False)
                part = _Sums(*kept)
            else:
                part = self._part(sums.top, asked, rows)
            sums = _joined(sums, part)
        return sums

    def _part(self, top: Float64[Tensor, "b"], asked: _Asked, rows: slice) -> _Sums:
        """Return the sums over some rows, whose top is `top` or a larger logit of theirs."""
        x, alpha, sigma, classes = asked
        means, widths, scale = self._means[rows], self._variances[rows], alpha[:, None, None]
        variance = scale.square() * widths + sigma.square()[:, None, None]
        gap = x[:, None] - scale * means
        share = gap / variance
        wide = variance.log().sum(2) * (x.shape[1] / variance.shape[2])
        logits = -0.5 * ((gap * share).sum(2) + wide)
        counted = torch.ones_like(logits, dtype=torch.bool)
        if classes is not None and self._labels is not None:
            counted = (classes[:, None] < 0) | (self._labels[rows] == classes[:, None])
        logits = logits.masked_fill(~counted, -math.inf)
        # answers do not depend on what exponents are shifted by, so that it is a constant for derivatives
        best = torch.maximum(top, logits.detach().amax(1))
        weights = (logits - _shift(best)[:, None]).exp()
        return _Sums(
            top=best,
            total=weights.sum(1),
            met=counted.sum(1).double(),
            mean=torch.einsum("bn,bnd->bd", weights, means + scale * widths * share),
            pull=torch.einsum("bn,bnd->bd", weights, share),
        )

    def _times(self, t: Numbers, x: Tensor) -> Float64[Tensor, "B"]:
        """Return one checked time for each query, with its derivative. Raises InputError where the path has none."""
        times = resolve_times(t, len(x), None, x.device)
        if not isinstance(t, Tensor) or not (differentiable(t) or transformed()):
            return times
        if not self._seen_in_time:
            raise not_differentiable(self.path, "coefficients without a graph")
        return one_per_query(reals("t", t, x.device), len(x))

    def _spans(self, values: int, block: int) -> Iterator[slice]:
        size = max(1, block // max(1, values))
        for start in range(0, len(self), size):
            yield slice(start, start + size)

    def _classes(self, labels: Numbers | None, count: int, device: torch.device) -> Int64[Tensor, "B"] | None:
        """Return the class of each query, -1 for all, or None. Raises InputError for unknown classes."""
        if labels is None:
            return None
        named = integers("labels", labels, device, "pass classes as integers").reshape(-1)
        named = named.expand(count) if len(named) == 1 else named
        known = named == -1
        if self._labels is not None:
            known = known | torch.isin(named, self._labels)
        elif not bool(known.all()):
            raise invalid("labels", "needs samples with labels", "none", "pass labels to PointGaussians")
        if len(named) != count or not bool(known.all()):
            found = named.tolist()[:8]
            raise invalid(
                "labels", f"must be {count} classes with samples, or -1", found, "name classes of the samples"
            )
        return named


def _joined(sums: _Sums, part: _Sums) -> _Sums:
    """Return the sums over what both have met; the top of `part` is the larger one."""
    kept = (sums.top - _shift(part.top)).exp()
    return _Sums(
        top=part.top,
        total=kept * sums.total + part.total,
        met=sums.met + part.met,
        mean=kept[:, None] * sums.mean + part.mean,
        pull=kept[:, None] * sums.pull + part.pull,
    )


def _shift(top: Float64[Tensor, "b"]) -> Float64[Tensor, "b"]:
    """Return `top`, and 0 where no sample of the class has been met yet: nothing is weighed there."""
    return torch.where(top > -math.inf, top, 0.0)


def _checked_labels(labels: Numbers, count: int, device: torch.device) -> Int64[Tensor, "N"]:
    """Return the class of each sample. Raises InputError for others."""
    held = integers("labels", labels, device, "number the classes from 0")
    if held.shape != (count,) or not bool((held >= -1).all()):
        raise invalid(
            "labels", f"must be {count} integers of at least -1", list(held.shape), "number the classes from 0"
        )
    return held
