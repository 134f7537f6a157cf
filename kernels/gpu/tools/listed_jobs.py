"""Which jobs there are: every configuration of the tables for every target, and the kernels launched beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from ..core.devices import Device
from ..core.tables import TABLES, table_name
from ..core.tiles import AnyConfig, DigitConfig, FusedConfig, ScoreConfig, Tile, WeighConfig
from ..late.entries import ENTRY_BLOCK
from ..late.projection import COEFFICIENT_BLOCK, COEFFICIENT_WARPS, POINT_BLOCK
from ..late.screen_logits import (
    SCREEN_CODES,
    SCREEN_FEW_QUERIES,
    SCREEN_MANY_QUERIES,
    SCREEN_ROWS,
    SCREEN_STAGES,
    SCREEN_WARPS,
)
from ..late.screen_tiles import CLOSE_QUERIES, CLOSE_TILES, FIRST_ROWS
from ..late.search import CERTIFY_BLOCK, LIST_BLOCK, LIST_TILES
from ..operands.queries import QUERY_WARPS
from ..rescore.compensate import COMPENSATED_TILE
from ..rescore.steps import RESCORE_TILE
from ..scans.one_read import ONE_READ_ARCHITECTURES, ONE_READ_DIM, one_read_tile
from .jobs import BOUNDS, TRITON_NAMES, Job

# storage dtypes of each kind in the tables
STORED = {
    "half": (torch.float16,),
    "brain": (torch.bfloat16,),
    "byte": (torch.uint8, torch.int8),
    "single": (torch.float32,),
}

# kernels that make states of queries of those of their spans
UNIONS = ("union", "union moments", "union top", "union doubt")

# kernels and dtypes of the subset, on sm_90
SUBSET = (
    *(("score", "fp16"), ("score", "fp32"), ("digits", "u8"), ("dense", "fp16"), ("dense", "u8")),
    *(("weights", "bf16"), ("place", "fp16")),
    *(("distance", "fp32"), ("rescore", "u8"), ("rescore spread", "fp16"), ("order", "fp32")),
    *(("compensate", "fp16"), ("compensate spread", "u8"), ("compensated slots", "u8"), ("based", "fp32")),
    *(("parts", "bf16"), ("combine", "fp16"), ("describe", "fp32"), ("split digits", "u8")),
    *(
        ("maxima", "u8"),
        ("above", "fp32"),
        ("floor", "u8"),
        ("list", "fp32"),
        ("coefficients", "i8"),
    ),
    *(
        ("shift", "fp32"),
        ("partition", "fp32"),
        ("add", "fp32"),
        ("doubt", "fp32"),
        ("state", "fp32"),
        ("state variance", "fp32"),
    ),
    *((kernel, "fp32") for kernel in UNIONS),
)

# and those of it whose operands are split as in half precision
SUBSET_HALF = (("score", "u8"), ("weights", "fp16"), ("listed", "bf16"))

QUERY_TILE = replace(RESCORE_TILE, warps=QUERY_WARPS)


def jobs(targets: Sequence[str]) -> Iterator[Job]:
    """Yield every listed configuration for `targets`, keys of TARGETS, with the kernels that are launched beside it."""
    for target in targets:
        for kind, table in TABLES[table_name(target)].items():
            configs = dict.fromkeys(choice.config for choice in table)
            for stored in STORED[kind]:
                for config in configs:
                    yield from _jobs_of(target, stored, config)
                    # few queries are about the same segment
                    if config.block_b == 16 and not isinstance(config, FusedConfig):
                        found = _jobs_of(target, stored, config)
                        yield from (replace(job, segmented=True) for job in found if job.kernel != "finish")
        yield from _rescoring(target)


def _jobs_of(target: str, stored: torch.dtype, config: AnyConfig) -> Iterator[Job]:
    if isinstance(config, DigitConfig):
        if Device(target, target, 1, 1).multiplies_digits:
            yield Job(target, "digits", stored, config)
            yield Job(target, "finish", stored, config)
    elif isinstance(config, ScoreConfig):
        yield Job(target, "score", stored, config)
        yield Job(target, "finish", stored, config)
    elif isinstance(config, WeighConfig):
        dense = ("dense",) if Device(target, target, 1, 1).has_descriptors else ()
        for kernel in (*dense, "weights"):
            yield Job(target, kernel, stored, config)
        for kernel in ("listed", "place"):
            yield Job(target, kernel, stored, config.listed(stored.itemsize))
    else:
        yield Job(target, "fused", stored, config)


def _rescoring(target: str) -> Iterator[Job]:
    """Yield the kernels around the products, which have one tile for all devices."""
    for stored in dict.fromkeys(dtype for dtypes in STORED.values() for dtype in dtypes):
        for kernel in ("distance", "rescore", "rescore spread"):
            yield Job(target, kernel, stored, RESCORE_TILE)
        for kernel in ("compensate", "compensate spread", "compensated slots"):
            yield Job(target, kernel, stored, COMPENSATED_TILE)
        if target in ONE_READ_ARCHITECTURES and stored.itemsize > 1:
            yield Job(target, "one read", stored, one_read_tile(ONE_READ_DIM))
    yield from _bounding(target)
    for stored in (torch.float16, torch.bfloat16):
        yield Job(target, "parts", stored, QUERY_TILE)
    for stored in (torch.float16, torch.bfloat16, torch.float32):
        yield Job(target, "combine", stored, RESCORE_TILE)
    yield Job(target, "split digits", torch.uint8, QUERY_TILE)
    yield Job(target, "prefix", torch.float32, RESCORE_TILE)
    for kernel in ("based", "describe"):
        yield Job(target, kernel, torch.float32, replace(COMPENSATED_TILE, warps=1))
    for kernel in (
        "shift",
        "partition",
        "add",
        "doubt",
        "state",
        "state variance",
        "candidates",
        "panels",
        "segments",
        "merge",
        *UNIONS,
        "move",
        "order",
    ):
        yield Job(target, kernel, torch.float32, RESCORE_TILE)


def _bounding(target: str) -> Iterator[Job]:
    """Yield the kernels of screens: of float32 features, and of 8-bit codes with features beside them."""
    for batch in (SCREEN_FEW_QUERIES, SCREEN_MANY_QUERIES):
        tile = Tile(SCREEN_ROWS, batch, SCREEN_CODES, SCREEN_WARPS, SCREEN_STAGES)
        for kernel in BOUNDS:
            for stored in (torch.float32, torch.int8, torch.uint8):
                yield Job(target, kernel, stored, tile)
    yield Job(target, "close", torch.float32, Tile(CLOSE_TILES, CLOSE_QUERIES, 1, 4, 3))
    yield Job(target, "point", torch.float32, Tile(1, 1, POINT_BLOCK, 4, 3))
    for stored in (torch.float32, torch.int8, torch.uint8):
        yield Job(target, "coefficients", stored, Tile(1, 1, COEFFICIENT_BLOCK, COEFFICIENT_WARPS, 3))
    for stored in dict.fromkeys(dtype for dtypes in STORED.values() for dtype in dtypes):
        yield Job(target, "floor", stored, Tile(FIRST_ROWS, 1, RESCORE_TILE.block_d, 4, 3))
    yield Job(target, "entry", torch.float32, Tile(1, 1, ENTRY_BLOCK, 4, 3))
    yield Job(target, "certify", torch.float32, Tile(1, 1, CERTIFY_BLOCK, 4, 3))
    yield Job(target, "list", torch.float32, Tile(LIST_TILES, 1, LIST_BLOCK, 4, 3))


def subset() -> list[Job]:
    """Return a few jobs that cover every kernel, dtype and target and compile in well under a minute."""
    hopper = list(jobs(["sm_90"]))
    # the last of each is the one for large batches
    last = {(job.kernel, TRITON_NAMES[job.stored]): job for job in hopper}
    fused = next(job for job in hopper if job.kernel == "fused")
    others = [job for target in ("sm_80", "sm_100", "gfx942") for job in jobs([target])]
    firsts = {(job.target, job.kernel): job for job in reversed(others) if job.kernel in ("score", "digits")}
    halves = [replace(last[key], half=True) for key in SUBSET_HALF]
    return [*(last[key] for key in SUBSET), *halves, fused, *firsts.values()]
