"""Every tolerance of the tests with its reason: an assertion names one, and a failure repeats what was promised."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor


class Tolerance(NamedTuple):
    """How far an answer may be off, relative to the scale that the reason names."""

    value: float
    reason: str


TOLERANCES: Mapping[str, Tolerance] = MappingProxyType(
    {
        "bar": Tolerance(1e-5, "relative velocity error against float64 that every exact answer promises"),
        "bar of the terms": Tolerance(
            1e-5,
            "the bar relative to the terms d_alpha xhat and d_sigma eps of the velocity, for queries on top of a "
            "sample: there the terms cancel to nothing and an error relative to their sum has no meaning",
        ),
        "half precision": Tolerance(
            1e-3, "relative velocity error with one 16-bit number for each query and weight; measured up to 3e-4"
        ),
        "mean": Tolerance(
            1e-5,
            "error of a posterior mean relative to the radius of the rows: kernels know no velocity, and the bar on it "
            "is no looser than this where the distance of query and mean is of that size",
        ),
        "rounding law": Tolerance(
            1.5,
            "root mean square error of coarse logits relative to the law that decides what is scored again: up to 1.0 "
            "over many queries, a few may have more; what is scored again leaves the bar a factor of five",
        ),
        "moment": Tolerance(
            1e-4,
            "log-densities and entropies in nats, ESS, variance and weights relative to themselves (at least 1): a "
            "coarse logit of a sample that is not scored again may err by 1e-5 alpha sqrt(D) / 8, 7e-5 at D = 3072",
        ),
        "derivative": Tolerance(
            1e-5,
            "error of a derivative J g in a query relative to |g| + |J g|: the terms of the derivative of a velocity "
            "in units of its noise; single precision is used while the rounding of a logit stays below five times this",
        ),
        "float64": Tolerance(
            1e-9,
            "two float64 evaluations of one quantity in another order: 2^-53 times logits of 1e4, a thousand terms",
        ),
        "float32 output": Tolerance(
            2e-7, "answers are rounded once to the float32 of the query: 2^-24, and a factor 3"
        ),
        "float16 output": Tolerance(
            2e-3, "answers are rounded once to the float16 of the query: 2^-11, and a factor 4"
        ),
        "bfloat16 output": Tolerance(1.6e-2, "answers are rounded once to the bfloat16 of the query: 2^-8, a factor 4"),
        "merge": Tolerance(
            1e-9,
            "float64 sums of a few terms in another order; log-partitions reach 1e6, so 1e-10 of a share is rounding",
        ),
        "float32 sums": Tolerance(
            1e-5, "two float32 sums of up to a hundred products in another order, relative to their largest term"
        ),
        "upper logits": Tolerance(
            1e-4,
            "a bound that has nothing to bound but rounding allows 8 (sqrt(terms) + 2) roundings of float32, relative "
            "to (alpha / sigma^2) (|q| R + alpha R^2): 3e-5 for a thousand terms",
        ),
        "two digits": Tolerance(
            1e-3,
            "a query rounded to steps of 1 / 16,319 of its largest coordinate, which is at most a few times their root "
            "mean square: 2.5e-4 of its norm times the radius of the rows, and the rounding that upper logits allow",
        ),
        "rounded upper logits": Tolerance(
            0.05, "nats by which rounding may lift all upper logits: 'upper logits' times logits of a few hundred"
        ),
        "vanished norms": Tolerance(
            3e-3,
            "a norm of zero found as the root of a difference of float32 squares: the root of 8 (sqrt(M) + 1) "
            "roundings is 2e-3 of the radius, and a product with it is that share of the largest one",
        ),
        "tolerance of a search": Tolerance(
            1.1e-4, "the relative velocity error an engine allows a search by default, and the bar of the exact answer"
        ),
        "finite difference": Tolerance(
            1e-6, "central differences with step 1e-4 in float64: truncation h^2 and cancellation 2^-53 / h"
        ),
        "quadrature": Tolerance(
            1e-8,
            "trapezoidal sums of Gaussians whose spacing is below a third of their width: exp(-2 pi^2 9), and rounding",
        ),
        "standard errors": Tolerance(
            4.5, "a mean over seeded draws in units of its standard error: one seed in 10^5 would fail"
        ),
        "landing": Tolerance(
            1e-6, "the last Euler step ends at the posterior mean, and other samples weigh less than 1e-6 there"
        ),
        "prepared": Tolerance(
            1e-4, "a prepared engine may leave out samples that change a velocity by no more than its tolerance"
        ),
        "near a sample": Tolerance(
            1e-2, "a run that ends at t = 0.999 keeps 1 - t of its noise: 1e-3 sqrt(D) / |X|, and a factor 10 for |x|"
        ),
        "float32 steps": Tolerance(
            1e-5, "a dozen steps in float32 with their times in float32: 2^-24 a step and 2^-24 of a velocity of a few"
        ),
        "solver": Tolerance(1e-6, "an adaptive solver at its default relative tolerance of 1e-7, over a straight line"),
    }
)


def within(error: float | Tensor, name: str) -> bool:
    """Whether the largest |error| is finite and at most the tolerance called `name`."""
    largest = torch.as_tensor(error, dtype=torch.float64).abs()
    return bool((largest <= TOLERANCES[name].value).all())


def assert_within(error: float | Tensor, name: str) -> None:
    """Fail with the size of the worst error and the reason of the tolerance called `name`."""
    worst = torch.as_tensor(error, dtype=torch.float64).abs().reshape(-1)
    if not within(worst, name):
        place = int(worst.nan_to_num(torch.inf).argmax())
        value, reason = TOLERANCES[name]
        raise AssertionError(f"error {float(worst[place]):.2e} at {place} is above {value:.1e}, {name}: {reason}")


def assert_close(actual: Tensor, expected: Tensor, name: str, scale: float | Tensor | None = None) -> None:
    """Compare two tensors of one shape, infinities exactly; errors are relative to `scale`.

    scale: a number or a tensor of the shape of `expected`; by default |expected|, but at least 1.
    """
    assert actual.shape == expected.shape
    actual, expected = actual.double(), expected.double()
    unit = expected.abs().clamp_min(1.0) if scale is None else scale
    assert_within(torch.where(actual == expected, 0.0, (actual - expected) / unit), name)


def assert_rows_close(actual: Tensor, expected: Tensor, name: str, scale: float | Tensor | None = None) -> None:
    """Compare two batches [B, *shape] by |a_b - e_b| / scale_b; by default scale_b = |e_b|."""
    assert actual.shape == expected.shape
    wanted = expected.double().reshape(len(expected), -1)
    difference = (actual.double().reshape(wanted.shape) - wanted).norm(dim=1)
    assert_within(
        torch.where(difference == 0, 0.0, difference / (wanted.norm(dim=1) if scale is None else scale)), name
    )
