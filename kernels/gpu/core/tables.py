"""Launch configurations as data: tables for each architecture, and a conservative one for the rest.

Every listed configuration compiles for its architecture, with matrix instructions and asynchronous copies: `make aot`
checks that. Those of sm_90 were measured on an H100, the others chosen by their use of registers and shared memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from .tiles import ANY, DigitConfig, FusedConfig, ScoreConfig, TileChoice, WeighConfig

# what tables distinguish of a storage dtype: half is float16, brain bfloat16, whose queries have more parts, byte uint8
# and int8, single float32
ROW_KINDS = {
    torch.float16: "half",
    torch.bfloat16: "brain",
    torch.uint8: "byte",
    torch.int8: "byte",
    torch.float32: "single",
}

# for every architecture and kind: of each kernel the first choice that is large enough is taken, and of the two ways to
# score 8-bit rows the first that the device has a unit for
TABLES: dict[str, Mapping[str, Sequence[TileChoice]]] = {
    # measured on an H100, with 196,608 x 4,096 float16 values or as many bytes
    "sm_90": {
        "half": (
            # few queries: wide in D, so that rows stream in long pieces
            TileChoice(ScoreConfig(128, 16, 128, 4, 4), batch=16),
            TileChoice(ScoreConfig(128, 64, 64, 4, 4, every=4), batch=64),
            TileChoice(ScoreConfig(256, 64, 64, 8, 4, every=4)),
            TileChoice(WeighConfig(64, 16, 256, 4, 4, every=4), batch=16),
            TileChoice(WeighConfig(64, 64, 256, 8, 3, every=4)),
            TileChoice(FusedConfig(32, 32, 64, 4, 3), dim=64),
            TileChoice(FusedConfig(32, 32, 128, 4, 3), dim=128),
        ),
        "brain": (
            TileChoice(ScoreConfig(64, 16, 128, 4, 4), batch=16),
            TileChoice(ScoreConfig(128, 32, 64, 4, 4, every=4), batch=64),
            TileChoice(ScoreConfig(256, 32, 64, 8, 4, every=4)),
            TileChoice(WeighConfig(64, 16, 256, 4, 4, every=4), batch=16),
            TileChoice(WeighConfig(64, 64, 256, 8, 3, every=4)),
            TileChoice(FusedConfig(32, 32, 64, 4, 3), dim=64),
            TileChoice(FusedConfig(32, 32, 128, 4, 3), dim=128),
        ),
        "byte": (
            TileChoice(DigitConfig(64, 16, 128, 4, 4), batch=16),
            TileChoice(DigitConfig(128, 64, 128, 4, 3)),
            TileChoice(ScoreConfig(64, 16, 128, 4, 4), batch=16),
            TileChoice(ScoreConfig(128, 64, 64, 8, 4, every=4)),
            TileChoice(WeighConfig(128, 16, 128, 4, 4), batch=16),
            TileChoice(WeighConfig(64, 64, 256, 8, 3, every=4)),
            TileChoice(FusedConfig(32, 32, 64, 4, 3), dim=64),
        ),
        "single": (
            TileChoice(ScoreConfig(64, 16, 64, 4, 4, every=4), batch=16),
            TileChoice(ScoreConfig(64, 64, 64, 4, 3, every=4)),
            TileChoice(WeighConfig(64, 16, 128, 4, 4), batch=16),
            TileChoice(WeighConfig(32, 64, 128, 4, 4, every=4)),
            TileChoice(FusedConfig(32, 32, 64, 4, 2), dim=64),
        ),
    },
    # serves sm_86, sm_89 and sm_120 too: everything fits in their 99 KB
    "sm_80": {
        "half": (
            TileChoice(ScoreConfig(64, 16, 128, 4, 3), batch=16),
            TileChoice(ScoreConfig(128, 32, 32, 4, 3)),
            TileChoice(WeighConfig(64, 16, 128, 4, 4), batch=16),
            TileChoice(WeighConfig(32, 32, 128, 4, 4)),
            TileChoice(FusedConfig(32, 32, 64, 4, 2), dim=64),
            TileChoice(FusedConfig(32, 32, 128, 4, 2), dim=128),
        ),
        "brain": (
            TileChoice(ScoreConfig(64, 16, 64, 4, 3), batch=16),
            TileChoice(ScoreConfig(64, 32, 32, 4, 3)),
            TileChoice(WeighConfig(64, 16, 128, 4, 4), batch=16),
            TileChoice(WeighConfig(32, 32, 128, 4, 4)),
            TileChoice(FusedConfig(32, 32, 64, 4, 2), dim=64),
            TileChoice(FusedConfig(32, 32, 128, 4, 2), dim=128),
        ),
        "byte": (
            TileChoice(DigitConfig(64, 16, 128, 4, 3), batch=16),
            TileChoice(DigitConfig(128, 64, 64, 8, 3)),
            TileChoice(ScoreConfig(64, 16, 128, 4, 3), batch=16),
            TileChoice(ScoreConfig(128, 64, 64, 8, 3)),
            TileChoice(WeighConfig(64, 16, 128, 4, 4), batch=16),
            TileChoice(WeighConfig(32, 64, 128, 4, 4)),
            TileChoice(FusedConfig(32, 32, 64, 4, 2), dim=64),
        ),
        "single": (
            TileChoice(ScoreConfig(64, 16, 64, 4, 3), batch=16),
            TileChoice(ScoreConfig(64, 64, 32, 4, 3)),
            TileChoice(WeighConfig(32, 16, 128, 4, 4), batch=16),
            TileChoice(WeighConfig(32, 64, 64, 4, 4)),
        ),
    },
    # compiles for every GPU with 64 KB for a program; for what is not listed, gfx942 included
    "any": {
        "half": (
            TileChoice(ScoreConfig(64, 16, 64, 4, 2), batch=16),
            TileChoice(ScoreConfig(64, 32, 32, 4, 2)),
            TileChoice(WeighConfig(32, 16, 64, 4, 2), batch=16),
            TileChoice(WeighConfig(32, 32, 64, 4, 2)),
        ),
        "brain": (
            TileChoice(ScoreConfig(64, 16, 64, 4, 2), batch=16),
            TileChoice(ScoreConfig(64, 16, 32, 4, 2)),
            TileChoice(WeighConfig(32, 16, 64, 4, 2), batch=16),
            TileChoice(WeighConfig(32, 32, 64, 4, 2)),
        ),
        "byte": (
            TileChoice(DigitConfig(64, 16, 64, 4, 2), batch=16),
            TileChoice(DigitConfig(64, 64, 64, 4, 2)),
            TileChoice(ScoreConfig(64, 16, 64, 4, 2), batch=16),
            TileChoice(ScoreConfig(64, 64, 64, 4, 2)),
            TileChoice(WeighConfig(32, 16, 64, 4, 2), batch=16),
            TileChoice(WeighConfig(32, 64, 64, 4, 2)),
        ),
        "single": (
            TileChoice(ScoreConfig(64, 16, 32, 4, 2), batch=16),
            TileChoice(ScoreConfig(64, 64, 32, 4, 2)),
            TileChoice(WeighConfig(32, 16, 64, 4, 2), batch=16),
            TileChoice(WeighConfig(32, 64, 64, 4, 2)),
        ),
    },
    # the interpreter runs programs one after the other: small tiles, so that small tests cover masks and loops
    "interpreter": {
        kind: (
            *([TileChoice(DigitConfig(32, 16, 32, 4, 2))] if kind == "byte" else []),
            TileChoice(ScoreConfig(32, 16, 32, 4, 2)),
            TileChoice(WeighConfig(32, 16, 32, 4, 2)),
            TileChoice(FusedConfig(16, 16, 16, 4, 2), dim=16),
            TileChoice(FusedConfig(16, 16, 32, 4, 2), dim=32),
        )
        for kind in ("half", "brain", "byte", "single")
    },
}

# that of sm_90, but for the sums of three digits, which leave the matrix unit there and take twice the warps to hold
TABLES["sm_100"] = {
    kind: tuple(
        replace(choice, config=replace(choice.config, warps=8))
        if isinstance(choice.config, DigitConfig) and choice.batch == ANY
        else choice
        for choice in table
    )
    for kind, table in TABLES["sm_90"].items()
}

# the architecture whose table serves another one
RELATED = {"sm_103": "sm_100", "sm_86": "sm_80", "sm_89": "sm_80", "sm_120": "sm_80"}


def table_name(architecture: str) -> str:
    """Return the key of TABLES that serves `architecture`: its own, that of a related one, or `any`."""
    name = RELATED.get(architecture, architecture)
    return name if name in TABLES else "any"
