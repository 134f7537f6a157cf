"""Problems with known answers, families of data sets, and the oracle in float64 straight from the formula.

Everything is for the path alpha = t, sigma = 1 - t unless alpha and sigma are arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import Tensor

from oracle_engine.data.dataset import OracleDataset

# what the bar is promised for
TIMES = (1e-4, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1 - 1e-4)

Samples = Callable[[int, int, torch.Generator], Tensor]


@dataclass(frozen=True)
class Problem:
    """Samples, queries x [B, D] at times t [B], and what the posterior at them must be, all float64.

    The points are float32 numbers, so that they are the same data in either storage.
    """

    name: str
    points: Tensor
    weights: Tensor | None
    x: Tensor
    t: Tensor
    denoiser: Tensor
    log_density: Tensor
    ess: Tensor
    entropy: Tensor
    variance: Tensor

    @property
    def velocity(self) -> Tensor:
        """The velocity that goes with the denoiser, [B, D]."""
        return self.denoiser - (self.x - self.t[:, None] * self.denoiser) / (1 - self.t[:, None])


def problems() -> SearchStrategy[Problem]:
    """Return data sets whose oracle is known in closed form."""
    return st.one_of(equal_samples(), two_atoms(), cubes(), gaussian_lattices(), separated_atoms())


def times(smallest: float = 1e-4, largest: float = 1 - 1e-4) -> SearchStrategy[float]:
    """Return times, some of them near the ends."""
    return st.one_of(st.floats(smallest, largest), st.sampled_from([t for t in TIMES if smallest <= t <= largest]))


def dims() -> SearchStrategy[int]:
    """Return dimensions on both sides of the width where products turn to single precision."""
    return st.sampled_from([1, 2, 3, 17, 32, 33, 64, 200])


def generators() -> SearchStrategy[torch.Generator]:
    """Return seeded generators."""
    return st.integers(0, 2**31).map(lambda seed: torch.Generator().manual_seed(seed))


@st.composite
def equal_samples(draw: DrawFn) -> Problem:
    """One sample, or several equal ones: the posterior is uniform and the denoiser is the sample."""
    count, dim, generator = draw(st.sampled_from([1, 2, 5, 100])), draw(dims()), draw(generators())
    sample = normal(1, dim, generator)
    t = torch.full((3,), draw(times()), dtype=torch.float64)
    x = draw(st.sampled_from([0.01, 1.0, 30.0])) * normal(3, dim, generator)
    return Problem(
        name=f"{count} equal samples",
        points=sample.repeat(count, 1),
        weights=None,
        x=x,
        t=t,
        denoiser=sample.expand(3, dim),
        log_density=gaussian_log_density(x - t[:, None] * sample, 1 - t),
        ess=torch.full_like(t, count),
        entropy=torch.full_like(t, math.log(count)),
        variance=torch.zeros_like(t),
    )


@st.composite
def two_atoms(draw: DrawFn) -> Problem:
    """Two different samples +-a, each repeated or weighted: a tanh, shifted by the log of the odds."""
    dim, generator = draw(dims()), draw(generators())
    copies = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    weighted = draw(st.booleans())
    atom = normal(1, dim, generator)[0]
    t = torch.full((4,), draw(times()), dtype=torch.float64)
    # queries whose log-odds are of order one, whatever the time
    gain = 2 * t / (1 - t).square() * atom.square().sum()
    x = (3 * normal(4, 1, generator) / gain[:, None]) * atom + _orthogonal(normal(4, dim, generator), atom)
    logits = gain * (x @ atom) / atom.square().sum() + math.log(copies[0] / copies[1])
    first, second = logits.sigmoid(), (-logits).sigmoid()
    repeats = torch.tensor([1, 1] if weighted else copies)
    inside = -torch.xlogy(first, first) - torch.xlogy(second, second)
    between = first * math.log(repeats[0]) + second * math.log(repeats[1])
    share = torch.tensor(copies, dtype=torch.float64) / sum(copies)
    ends = [gaussian_log_density(x - sign * t[:, None] * atom, 1 - t) for sign in (1, -1)]
    return Problem(
        name=f"two atoms {copies}, {'weighted' if weighted else 'repeated'}",
        points=torch.stack([atom, -atom]).repeat_interleave(repeats, 0),
        weights=torch.tensor(copies, dtype=torch.float64) if weighted else None,
        x=x,
        t=t,
        denoiser=(first - second)[:, None] * atom,
        log_density=torch.logaddexp(ends[0] + share[0].log(), ends[1] + share[1].log()),
        ess=1 / (first.square() / repeats[0] + second.square() / repeats[1]),
        entropy=inside + between,
        variance=4 * first * second * atom.square().sum(),
    )


@st.composite
def cubes(draw: DrawFn) -> Problem:
    """All corners {-a, a}^k: coordinates are independent, each one a tanh."""
    sides, generator = draw(st.integers(1, 7)), draw(generators())
    edge = draw(st.sampled_from([0.25, 1.0, 4.0]))
    t = torch.full((4,), draw(times(largest=0.999)), dtype=torch.float64)
    corners = torch.cartesian_prod(*[torch.tensor([-edge, edge], dtype=torch.float64)] * sides).reshape(-1, sides)
    slope = edge * t / (1 - t).square()
    x = 1.5 * normal(4, sides, generator) / slope[:, None].clamp_min(1.0)
    half = slope[:, None] * x
    up, down = (2 * half).sigmoid(), (-2 * half).sigmoid()
    ends = [gaussian_terms(x - sign * edge * t[:, None], 1 - t) for sign in (1, -1)]
    return Problem(
        name=f"corners of a cube with {sides} sides",
        points=corners,
        weights=None,
        x=x,
        t=t,
        denoiser=edge * half.tanh(),
        log_density=(torch.logaddexp(*ends) - math.log(2)).sum(1),
        ess=1 / (up.square() + down.square()).prod(1),
        entropy=-(torch.xlogy(up, up) + torch.xlogy(down, down)).sum(1),
        variance=4 * edge**2 * (up * down).sum(1),
    )


@st.composite
def gaussian_lattices(draw: DrawFn) -> Problem:
    """A fine lattice weighted by a unit Gaussian: to all digits the Gaussian itself, whose oracle is linear."""
    generator, t = draw(generators()), torch.full((5,), draw(times(largest=0.9)), dtype=torch.float64)
    points, weights = gaussian_lattice(1.0)
    total = t.square() + (1 - t).square()
    width = (1 - t) / total.sqrt()
    x = total.sqrt()[:, None] * normal(5, 1, generator)
    spacing = points[1, 0] - points[0, 0]
    return Problem(
        name="Gaussian lattice",
        points=points,
        weights=weights,
        x=x,
        t=t,
        denoiser=x * (t / total)[:, None],
        log_density=gaussian_log_density(x, total.sqrt()),
        ess=2 * math.sqrt(math.pi) * width / spacing,
        entropy=0.5 * (2 * math.pi * math.e * width.square()).log() - spacing.log(),
        variance=width.square(),
    )


@st.composite
def separated_atoms(draw: DrawFn) -> Problem:
    """Atoms of several copies each, too far apart to compete: the copies of the nearest share the posterior."""
    dim, generator = draw(st.sampled_from([2, 40])), draw(generators())
    copies = torch.tensor(draw(st.lists(st.integers(1, 5), min_size=2, max_size=4)))
    t = torch.full((3,), draw(times(smallest=0.5)), dtype=torch.float64)
    atoms = normal(len(copies), dim, generator)
    atoms[:, 0] += 1000.0 * torch.arange(len(copies))
    atoms = atoms.float().double()
    own = torch.randint(len(copies), (3,), generator=generator)
    x = t[:, None] * atoms[own] + (1 - t)[:, None] * normal(3, dim, generator)
    share = (copies.double() / copies.sum())[own]
    return Problem(
        name=f"separated atoms {copies.tolist()}",
        points=atoms.repeat_interleave(copies, 0),
        weights=None,
        x=x,
        t=t,
        denoiser=atoms[own],
        log_density=gaussian_log_density(x - t[:, None] * atoms[own], 1 - t) + share.log(),
        ess=copies[own].double(),
        entropy=copies[own].double().log(),
        variance=torch.zeros_like(t),
    )


def gaussian_lattice(width: float) -> tuple[Tensor, Tensor]:
    """Return points [N, 1] and weights [N] that stand for a Gaussian of this width around zero."""
    steps = torch.arange(-288, 289, dtype=torch.float64) / 32
    return width * steps[:, None], (-0.5 * steps.square()).exp()


def gaussian_terms(offset: Tensor, sigma: Tensor) -> Tensor:
    """Return the log-density of every coordinate of `offset` [B, D] under N(0, sigma_b^2)."""
    variance = sigma.square()[:, None]
    return -0.5 * (offset.square() / variance + (2 * math.pi * variance).log())


def gaussian_log_density(offset: Tensor, sigma: Tensor) -> Tensor:
    """Return the log-density [B] of `offset` [B, D] under N(0, sigma_b^2 I)."""
    return gaussian_terms(offset, sigma).sum(1)


def normal(count: int, dim: int, generator: torch.Generator) -> Tensor:
    """Return float64 [count, dim] of unit Gaussians that are float32 numbers."""
    return torch.randn(count, dim, generator=generator).double()


def clusters(count: int, dim: int, generator: torch.Generator) -> Tensor:
    """Return samples around ten centres, a third of their distance wide."""
    centres = normal(10, dim, generator)
    return centres[torch.arange(count) % 10] + 0.3 * normal(count, dim, generator)


def near_duplicates(count: int, dim: int, generator: torch.Generator) -> Tensor:
    """Return pairs of samples, 2 j and 2 j + 1, that differ by a thousandth in every coordinate."""
    first = normal((count + 1) // 2, dim, generator)
    second = first + 1e-3 * normal(len(first), dim, generator)
    return torch.stack([first, second], 1).reshape(-1, dim)[:count]


def nearer_duplicates(count: int, dim: int, generator: torch.Generator) -> Tensor:
    """Return pairs of samples that differ by a hundred-thousandth: less than float32 products can tell."""
    pairs = near_duplicates(count, dim, generator)
    pairs[1::2] = pairs[::2][: len(pairs[1::2])] + 1e-5 * normal(len(pairs[1::2]), dim, generator)
    return pairs


def far_from_zero(count: int, dim: int, generator: torch.Generator) -> Tensor:
    """Return samples with a mean of 1e3 and a spread of 1."""
    return 1e3 + normal(count, dim, generator)


def one_direction(count: int, dim: int, generator: torch.Generator) -> Tensor:
    """Return samples that differ along one direction mostly, as photographs do in brightness."""
    brightness = normal(count, 1, generator) * torch.linspace(0.5, 1, dim, dtype=torch.float64)
    return brightness + 0.05 * normal(count, dim, generator)


FAMILIES: Mapping[str, Samples] = {
    "gaussian": normal,
    "clusters": clusters,
    "near duplicates": near_duplicates,
    "nearer duplicates": nearer_duplicates,
    "far from zero": far_from_zero,
    "one direction": one_direction,
}


def stored_as(points: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `points` in a storage dtype; unit spread becomes 40 levels of an integer one."""
    if dtype.is_floating_point:
        return points.to(dtype)
    limits = torch.iinfo(dtype)
    middle = 128 if dtype == torch.uint8 else 0
    return (40 * points + middle).round().clamp(limits.min, limits.max).to(dtype)


def values_of(data: OracleDataset) -> Tensor:
    """Return the samples in value space, [N, D] float64, in the order of the rows."""
    return data.rows.stored.double() * data.value_map.scale + data.value_map.offset


def nearest(x: Tensor, data: OracleDataset) -> tuple[Tensor, Tensor]:
    """Return the sample nearest to each x, like x, and their indices [B]."""
    points = data[torch.arange(len(data))]
    index = torch.cdist(x.flatten(1), points.flatten(1).to(x.dtype)).argmin(1)
    return points[index].to(x.dtype), index


def direct_weights(
    values: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor, log_weights: Tensor | None = None
) -> Tensor:
    """Return the posterior weights [B, N] by direct difference in float64."""
    logits = x.new_empty(len(x), len(values))
    for scale in alpha.unique():
        which = alpha == scale
        # never the expansion into norms and products
        distance = torch.cdist(x[which], scale * values, compute_mode="donot_use_mm_for_euclid_dist")
        logits[which] = -0.5 * (distance / sigma[which, None]).square()
    return (logits if log_weights is None else logits + log_weights).softmax(1)


def direct_velocity(values: Tensor, x: Tensor, t: Tensor, log_weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the velocity [B, D] of flat float64 queries, and the norms [B] of its two terms added up."""
    x = x.double().reshape(len(x), -1)
    mean = direct_weights(values, x, t, 1 - t, log_weights) @ values
    noise = (x - t[:, None] * mean) / (1 - t)[:, None]
    return mean - noise, mean.norm(dim=1) + noise.norm(dim=1)


def _orthogonal(vectors: Tensor, direction: Tensor) -> Tensor:
    return vectors - torch.outer(vectors @ direction / direction.square().sum(), direction)
