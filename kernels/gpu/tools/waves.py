"""How much of a card the programs of a launch fill, as they take turns on it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..core.configs import LaunchConfig, choose
from ..core.limits import DEFAULT_LIMITS
from ..core.tiles import AnyConfig, ceil_div
from ..scans.scan import TwoPhaseScan
from .figures import Number
from .jobs import TRITON_NAMES, Job
from .pretended_card import H100

# samples, values of a sample, storage, numbers of queries
SHAPES = (
    (1_280_000, 4096, torch.float16, (1, 64, 256)),
    (50_000, 3072, torch.float16, (1, 64, 256)),
    (50_000, 3072, torch.uint8, (1, 64, 256)),
    (1_280_000, 12_288, torch.uint8, (64,)),
    (50_000, 3072, torch.float32, (64, 256)),
    (50_000, 784, torch.uint8, (64, 256, 1024)),
)

# the least share of the card that a kernel may fill, and why
LEAST = {
    "score": (0.9, "a last turn that is half empty costs as much as a full one"),
    "dense": (0.9, "a last turn that is half empty costs as much as a full one"),
    "digits": (0.74, "for few queries memory sets the pace, which half the programs keep up with"),
    "listed": (0.84, "its shares are those of the dense kernel, whose tile is twice as large for 8-bit rows"),
}


def waves(figures: Mapping[str, Mapping[str, Number]]) -> dict[str, dict[str, Number]]:
    """Return the share of an H100 that the programs of each kernel fill, by shape and by kernel.

    figures: of compiled kernels, by the name of the job; read are the programs that a multiprocessor holds.
    """
    found = {}
    for count, dim, stored, batches in SHAPES:
        for batch in batches:
            grids = launches(choose(H100, stored, batch, dim), stored, count, batch, dim)
            held = {kernel: figures[str(Job("sm_90", kernel, stored, tile))] for kernel, (tile, _) in grids.items()}
            found[f"{count} x {dim} {TRITON_NAMES[stored]} B={batch}"] = {
                kernel: round(_filled(programs, int(held[kernel]["programs"]) * H100.multiprocessors), 3)
                for kernel, (_, programs) in grids.items()
            }
    return found


def launches(
    config: LaunchConfig, stored: torch.dtype, count: int, batch: int, dim: int
) -> dict[str, tuple[AnyConfig, int]]:
    """Return the tile and the programs of each kernel with products in the first block of a scan.

    config: of the call. stored: dtype of the rows. count: rows of the span. batch: queries. dim: D.
    """
    rows = min(count, DEFAULT_LIMITS.block_rows(batch, TwoPhaseScan.pair_bytes))
    score, dense, listed = config.score, config.weigh, config.weigh.listed(stored.itemsize)
    slices, shares = config.score_slices(rows, batch, dim), config.weigh_shares(rows, batch, dim)
    scored = ceil_div(rows, score.block_n) * ceil_div(batch, score.block_b) * slices
    weighed = {
        kernel: (tile, ceil_div(dim, tile.block_d) * ceil_div(batch, tile.block_b) * shares)
        for kernel, tile in (("dense", dense), ("listed", listed))
    }
    return {"digits" if config.operand == "digits" else "score": (score, scored), **weighed}


def _filled(programs: int, slots: int) -> float:
    return programs / (ceil_div(programs, slots) * slots)


def empty(found: Mapping[str, Mapping[str, Number]]) -> list[str]:
    """Return which launches fill less of the card than they must, in words; found: as :func:`waves` returns it."""
    return [
        f"{name}: {kernel} fills {share:g} of the card, at least {LEAST[kernel][0]:g}: {LEAST[kernel][1]}"
        for name, shares in found.items()
        for kernel, share in shares.items()
        if share < LEAST[kernel][0]
    ]
