"""Small images with classes, and what the oracle behind an adapter is recognised by."""

from __future__ import annotations

import torch
from closed_form import normal
from tolerances import assert_within
from torch import Tensor

from oracle_engine import OracleDataset, OracleEngine


def small_images(generator: torch.Generator) -> OracleDataset:
    """Return forty samples [2, 3, 4] of four classes."""
    return OracleDataset(normal(40, 24, generator).reshape(40, 2, 3, 4), torch.arange(40) % 4)


def one_sample(generator: torch.Generator) -> OracleEngine:
    """Return an engine over one sample: the oracle is the conditional velocity of the pair that made x."""
    return OracleEngine(OracleDataset(normal(1, 24, generator)))


def assert_is_projection(target: Tensor, conditional: Tensor, x: Tensor) -> None:
    """Check E[(u - v) f(x)] = 0, which says that v is E[u | x], for f = 1, x and v."""
    rest = (conditional - target).double()
    for weight in (torch.ones_like(rest), x.double(), target.double()):
        terms = (rest * weight).sum(1)
        assert_within(terms.mean() / (terms.std() / len(terms) ** 0.5), "standard errors")
