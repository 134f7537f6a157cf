"""Gradients of the oracle beside those that autograd takes through its formula: `python -m bench.gradients`.

Three sides take turns: the velocity alone, the velocity and its gradient in x, and both by autograd through products
and a softmax of float32 samples. Errors are those of J^T g for a random g against float64, relative to |g| + |J^T g|.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any

import torch

import oracle_engine as oe
from oracle_engine.base.arrays import Float, Tensor
from oracle_engine.base.errors import OracleError
from oracle_engine.cli.commands.bench import listed_of
from oracle_engine.compare.timing import interleave
from oracle_engine.compare.workloads import Workload

from .data import load_data

Velocity = Callable[[Tensor], Tensor]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures of every case that the options name, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.gradients", description=__doc__)
    parser.add_argument("--data", default="patches", help="a built-in set or a file, with -fp32 its values as float32")
    parser.add_argument("--batch", type=listed_of(int), default=(8, 64), help="queries of a call, with commas")
    parser.add_argument("--t", type=listed_of(float), default=(0.05, 0.2, 0.3, 0.5, 0.9), help="times, with commas")
    parser.add_argument("--budget", type=float, default=2.0, help="seconds of each case, about")
    options = parser.parse_args(arguments)
    try:
        found = list(cases(load_data(options.data), options))
    except OracleError as error:
        sys.exit(f"{error}")
    json.dump(found, sys.stdout, indent=1)
    print()


def cases(data: oe.OracleDataset, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the figures of each batch and time: milliseconds, ratios to our velocity with its gradient, and errors."""
    values, engine = data[:].reshape(len(data), -1).float(), oe.OracleEngine(data)
    for batch, t in product(options.batch, options.t):
        x = Workload(data, batch, t).draw().x
        vector = torch.randn(len(x), data.dim, generator=torch.Generator().manual_seed(0))
        ours, theirs = _ours(engine, t), _by_formula(values, t)
        sides = {
            "velocity": partial(ours, x),
            "gradient": partial(pulled, ours, x, vector),
            "autograd": partial(pulled, theirs, x, vector),
        }
        found = {name: side() for name, side in sides.items()}
        timings = interleave(sides, options.budget, torch.device("cpu"), set(sides))
        true = pulled(_by_formula(values.double(), t), x.double(), vector.double())
        yield {
            "batch": batch,
            "t": t,
            "ms": {name: round(1e3 * timing.median, 2) for name, timing in timings.items()},
            "ratio": {name: round(timings[name].paired_ratio(timings["gradient"]), 2) for name in sides},
            "error": {name: error_of(found[name], true, vector) for name in ("gradient", "autograd")},
        }


def pulled(velocity: Velocity, x: Float[Tensor, "B ..."], vector: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    """Return J^T g of a velocity at x, for the vectors g."""
    x = x.detach().requires_grad_()
    (found,) = torch.autograd.grad(velocity(x), x, vector.reshape(x.shape))
    return found.reshape(vector.shape)


def error_of(found: Float[Tensor, "B D"], true: Float[Tensor, "B D"], vector: Float[Tensor, "B D"]) -> float:
    """Return the largest error of J^T g over the queries, relative to |g| + |J^T g|."""
    size = vector.double().norm(dim=1) + true.norm(dim=1)
    return float(((found - true).norm(dim=1) / size).max())


def _ours(engine: oe.OracleEngine, t: float) -> Velocity:
    return lambda x: engine.velocity(x, t)


def _by_formula(values: Float[Tensor, "N D"], t: float) -> Velocity:
    half_norms = 0.5 * values.square().sum(1)

    def velocity(x: Tensor) -> Tensor:
        logits = t / (1 - t) ** 2 * (x.flatten(1) @ values.T - t * half_norms)
        return ((logits.softmax(1) @ values).reshape(x.shape) - x) / (1 - t)

    return velocity


if __name__ == "__main__":
    main()
