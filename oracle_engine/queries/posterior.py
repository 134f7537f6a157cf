"""The posterior of a batch of queries, in the words of the theory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ..base.arrays import Float, Float64, Int64, Tensor


@dataclass(frozen=True)
class Posterior:
    """The posterior over the samples of every query; `mean` is [B, *shape] like x, the rest float64 or int64.

    mean: E[X | x_t = x], the denoiser. log_density: log p_t(x) in nats, of the class where labels were given.
    ess: 1 / sum_j gamma_j^2, in [1, N]. entropy: -sum_j gamma_j log gamma_j, in nats.
    variance: trace of the posterior covariance of the data, in squared values. Scans in float32 leave out samples that
        hold 1e-6 of a posterior together, so that it may be too small by that share of the largest squared distance
        between samples: late in time 0 where such samples are all there is. `backend="reference"` leaves out none.
    top_weights, top_indices: the heaviest samples in falling order, [B, k]; weight 0, index -1 where there are fewer.
    omitted_mass: bound on the posterior mass of the samples that were not scored, in [0, 1]; 0 for exact answers,
        NaN where the index cannot tell.
    velocity_error: bound on |velocity - exact velocity| / |velocity| that follows, relative to the velocity returned.
    confidence: probability, over the noise of the query, that both bounds hold: 1 unless `source` was used.
    standard_error: of the velocity, relative to it, for answers of mode "budget"; 0 for others.
    survivors: how many samples were scored in full.
    route: which way each query took, by the names of `Route`: exact, screen, faiss, source, sampled.
    """

    mean: Float[Tensor, "B ..."]
    log_density: Float64[Tensor, "B"]
    ess: Float64[Tensor, "B"]
    entropy: Float64[Tensor, "B"]
    variance: Float64[Tensor, "B"]
    top_weights: Float64[Tensor, "B K"]
    top_indices: Int64[Tensor, "B K"]
    omitted_mass: Float64[Tensor, "B"]
    velocity_error: Float64[Tensor, "B"]
    confidence: Float64[Tensor, "B"]
    standard_error: Float64[Tensor, "B"]
    survivors: Int64[Tensor, "B"]
    route: tuple[str, ...]

    def __repr__(self) -> str:
        count, *shape = self.mean.shape
        names = ("ess", "entropy", "log_density") if count else ()
        found = {name: getattr(self, name) for name in names}
        ranges = [f"{name} {values.min():.4g} .. {values.max():.4g}" for name, values in found.items()]
        routes = [f"{number} {name}" for name, number in Counter(self.route).items()]
        return f"Posterior({', '.join([f'{count:,} queries of {shape}', *ranges, *routes])})"
