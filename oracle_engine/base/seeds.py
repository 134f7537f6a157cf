"""Generators of random numbers from seeds that a caller passes."""

from __future__ import annotations

from operator import index
from typing import Any

import torch

from .errors import invalid

# what torch takes
LEAST_SEED, MOST_SEED = -(2**63), 2**64 - 1


def seeded(seed: Any, device: torch.device | None = None) -> torch.Generator:
    """Return a generator that starts from `seed`.

    seed: an integer from -2^63 to 2^64 - 1. device: of the generator; None is the CPU.
    Raises InputError for another seed.
    """
    try:
        number = index(seed)
    except TypeError:
        number = MOST_SEED + 1
    if not LEAST_SEED <= number <= MOST_SEED:
        raise invalid("seed", "must be an integer from -2^63 to 2^64 - 1", seed, "choose a smaller number, such as 0")
    return torch.Generator(device or "cpu").manual_seed(number)
