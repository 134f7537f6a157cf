"""Launch configurations as data: tables for each architecture, a conservative one for the rest, and JSON overrides.

Every listed configuration compiles without spills for its architecture, with matrix instructions and asynchronous
copies: `make aot` checks that. Only a GPU can tell which of them is fastest: entries without a measured reason were
chosen by their use of registers and shared memory, and :mod:`.tools.tune` replaces them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch

from ...base.errors import bad_file, invalid
from .devices import Device

# the folder that the tuner writes to and this module reads: one file for each GPU
TUNED = Path(__file__).parent / "tuned"

# a limit on B, or D, that no batch reaches
ANY = 1 << 30

# programs that every multiprocessor is given where there is enough work
PROGRAMS = 2

# tiles of D that a slice of the score has at least, and tiles of rows that a share of the weighted sum has at least:
# with less the additional sum costs more than it saves
LEAST_SLICE, LEAST_SHARE = 8, 4

# programs that share the rows of a weighted sum, and the share of its time that adding up one more of them takes
MOST_SHARES, SHARE_COST = 64, 0.003

# values of D after which a sum of digits times 8-bit differences might exceed an int32: 128 255 D < 2^31, rounded down
# to a multiple of every tile
DIGIT_DEPTH = 1 << 16


@dataclass(frozen=True)
class Tile:
    """Size of the tile that a program computes at once, and what the program is given.

    block_n, block_b, block_d: rows, queries and values of D. warps, stages: warps and pipeline stages of the program.
    every: steps after which the sums in the matrix unit are emptied, at least 2: sums of a single step would be
    folded into those of all steps by the compiler.
    """

    block_n: int
    block_b: int
    block_d: int
    warps: int
    stages: int
    every: int = 2


@dataclass(frozen=True)
class ScoreTile(Tile):
    """Tile of the score: products of rows and queries, summed over D a tile at a time."""

    def shared_bytes(self, row_bytes: int, part_bytes: int) -> int:
        """Return the most bytes of shared memory, for `row_bytes` a value of rows and `part_bytes` of queries."""
        tile = self.block_n * row_bytes + self.block_b * part_bytes
        return self.stages * self.block_d * tile + 8192

    def least_slices(self, dim: int) -> int:
        """Return into how many slices the sum over `dim` values must be cut so that it does not overflow."""
        return 1


@dataclass(frozen=True)
class ScoreConfig(ScoreTile):
    """Tile of the score with queries in floating point numbers."""


@dataclass(frozen=True)
class DigitConfig(ScoreTile):
    """Tile of the score with queries in base-256 digits, through the int8 matrix unit."""

    def least_slices(self, dim: int) -> int:
        """Return into how many slices the sum over `dim` values must be cut so that no int32 overflows."""
        return _ceil(dim, DIGIT_DEPTH)


@dataclass(frozen=True)
class WeighConfig(Tile):
    """Tile of the weighted sum: a slice of D for some queries, summed over the rows a tile at a time."""

    def listed(self, row_bytes: int) -> WeighConfig:
        """Return the tile for rows that are reached through a list, of `row_bytes` a value.

        Rows that are converted pass through the registers, which then hold no more than half of a wide tile.
        """
        if row_bytes == 2:
            return self
        warps = self.warps if self.block_b <= 16 else 8
        return replace(self, block_n=min(self.block_n, 64), block_d=min(self.block_d, 128), warps=warps)

    def shared_bytes(self, row_bytes: int, part_bytes: int) -> int:
        """Return the most bytes of shared memory, for `row_bytes` a value of rows and `part_bytes` a weight."""
        tile = self.block_d * max(row_bytes, 2) + self.block_b * part_bytes
        return self.stages * self.block_n * tile + 8192


@dataclass(frozen=True)
class FusedConfig(Tile):
    """Tile of the fused kernel, where `block_d` is all of D, rounded up."""

    def shared_bytes(self, row_bytes: int, part_bytes: int) -> int:
        """Return the most bytes of shared memory, for `row_bytes` a value of rows and `part_bytes` of queries."""
        # stages of rows, the queries, and a tile of weights
        rows = self.stages * self.block_n * max(row_bytes, 2) * self.block_d
        return rows + self.block_b * (self.block_d + 2 * self.block_n) * part_bytes + 8192


AnyConfig = ScoreConfig | DigitConfig | WeighConfig | FusedConfig


@dataclass(frozen=True)
class Choice:
    """A configuration and the largest work it is for.

    config: the tile. batch: the largest number of queries. dim: the largest D.
    """

    config: AnyConfig
    batch: int = ANY
    dim: int = ANY


# what tables distinguish of a storage dtype: half is float16, brain bfloat16, whose queries have more parts, byte uint8
# and int8, single float32
KINDS = {
    torch.float16: "half",
    torch.bfloat16: "brain",
    torch.uint8: "byte",
    torch.int8: "byte",
    torch.float32: "single",
}

# for every architecture and kind: of each kernel the first choice that is large enough is taken, and of the two ways to
# score 8-bit rows the first that the device has a unit for
TABLES: Mapping[str, Mapping[str, Sequence[Choice]]] = {
    # measured on an H100, with 196,608 x 4,096 float16 values or as many bytes
    "sm_90": {
        "half": (
            # few queries: wide in D, so that rows stream in long pieces
            Choice(ScoreConfig(128, 16, 128, 4, 4), batch=16),
            Choice(ScoreConfig(128, 64, 64, 4, 4, every=4), batch=64),
            Choice(ScoreConfig(256, 64, 64, 8, 4, every=4)),
            Choice(WeighConfig(64, 16, 256, 4, 4, every=4), batch=16),
            Choice(WeighConfig(64, 64, 256, 8, 3, every=4)),
            Choice(FusedConfig(32, 32, 64, 4, 3), dim=64),
            Choice(FusedConfig(32, 32, 128, 4, 3), dim=128),
        ),
        "brain": (
            Choice(ScoreConfig(64, 16, 128, 4, 4), batch=16),
            Choice(ScoreConfig(128, 32, 64, 4, 4, every=4), batch=64),
            Choice(ScoreConfig(256, 32, 64, 8, 4, every=4)),
            Choice(WeighConfig(64, 16, 256, 4, 4, every=4), batch=16),
            Choice(WeighConfig(64, 64, 256, 8, 3, every=4)),
            Choice(FusedConfig(32, 32, 64, 4, 3), dim=64),
            Choice(FusedConfig(32, 32, 128, 4, 3), dim=128),
        ),
        "byte": (
            Choice(DigitConfig(64, 16, 128, 4, 4), batch=16),
            Choice(DigitConfig(128, 64, 128, 4, 3)),
            Choice(ScoreConfig(64, 16, 128, 4, 4), batch=16),
            Choice(ScoreConfig(128, 64, 64, 8, 4, every=4)),
            Choice(WeighConfig(128, 16, 128, 4, 4), batch=16),
            Choice(WeighConfig(64, 64, 256, 8, 3, every=4)),
            Choice(FusedConfig(32, 32, 64, 4, 3), dim=64),
        ),
        "single": (
            Choice(ScoreConfig(64, 16, 64, 4, 4, every=4), batch=16),
            Choice(ScoreConfig(64, 64, 64, 4, 3, every=4)),
            Choice(WeighConfig(64, 16, 128, 4, 4), batch=16),
            Choice(WeighConfig(32, 64, 128, 4, 4, every=4)),
            Choice(FusedConfig(32, 32, 64, 4, 2), dim=64),
        ),
    },
    # serves sm_86, sm_89 and sm_120 too: everything fits in their 99 KB
    "sm_80": {
        "half": (
            Choice(ScoreConfig(64, 16, 128, 4, 3), batch=16),
            Choice(ScoreConfig(128, 32, 32, 4, 3)),
            Choice(WeighConfig(64, 16, 128, 4, 4), batch=16),
            Choice(WeighConfig(32, 32, 128, 4, 4)),
            Choice(FusedConfig(32, 32, 64, 4, 2), dim=64),
            Choice(FusedConfig(32, 32, 128, 4, 2), dim=128),
        ),
        "brain": (
            Choice(ScoreConfig(64, 16, 64, 4, 3), batch=16),
            Choice(ScoreConfig(64, 32, 32, 4, 3)),
            Choice(WeighConfig(64, 16, 128, 4, 4), batch=16),
            Choice(WeighConfig(32, 32, 128, 4, 4)),
            Choice(FusedConfig(32, 32, 64, 4, 2), dim=64),
            Choice(FusedConfig(32, 32, 128, 4, 2), dim=128),
        ),
        "byte": (
            Choice(DigitConfig(64, 16, 128, 4, 3), batch=16),
            Choice(DigitConfig(128, 64, 64, 8, 3)),
            Choice(ScoreConfig(64, 16, 128, 4, 3), batch=16),
            Choice(ScoreConfig(128, 64, 64, 8, 3)),
            Choice(WeighConfig(64, 16, 128, 4, 4), batch=16),
            Choice(WeighConfig(32, 64, 128, 4, 4)),
            Choice(FusedConfig(32, 32, 64, 4, 2), dim=64),
            Choice(FusedConfig(32, 32, 128, 4, 2), dim=128),
        ),
        "single": (
            Choice(ScoreConfig(64, 16, 64, 4, 3), batch=16),
            Choice(ScoreConfig(64, 64, 32, 4, 3)),
            Choice(WeighConfig(32, 16, 128, 4, 4), batch=16),
            Choice(WeighConfig(32, 64, 64, 4, 4)),
        ),
    },
    # compiles for every GPU with 64 KB for a program; for what is not listed, gfx942 included
    "any": {
        "half": (
            Choice(ScoreConfig(64, 16, 64, 4, 2), batch=16),
            Choice(ScoreConfig(64, 32, 32, 4, 2)),
            Choice(WeighConfig(32, 16, 64, 4, 2), batch=16),
            Choice(WeighConfig(32, 32, 64, 4, 2)),
        ),
        "brain": (
            Choice(ScoreConfig(64, 16, 64, 4, 2), batch=16),
            Choice(ScoreConfig(64, 16, 32, 4, 2)),
            Choice(WeighConfig(32, 16, 64, 4, 2), batch=16),
            Choice(WeighConfig(32, 32, 64, 4, 2)),
        ),
        "byte": (
            Choice(DigitConfig(64, 16, 64, 4, 2), batch=16),
            Choice(DigitConfig(64, 64, 64, 4, 2)),
            Choice(ScoreConfig(64, 16, 64, 4, 2), batch=16),
            Choice(ScoreConfig(64, 64, 64, 4, 2)),
            Choice(WeighConfig(32, 16, 64, 4, 2), batch=16),
            Choice(WeighConfig(32, 64, 64, 4, 2)),
        ),
        "single": (
            Choice(ScoreConfig(64, 16, 32, 4, 2), batch=16),
            Choice(ScoreConfig(64, 64, 32, 4, 2)),
            Choice(WeighConfig(32, 16, 64, 4, 2), batch=16),
            Choice(WeighConfig(32, 64, 64, 4, 2)),
        ),
    },
    # the interpreter runs programs one after the other: small tiles, so that small tests cover masks and loops
    "interpreter": {
        kind: (
            *([Choice(DigitConfig(32, 16, 32, 4, 2))] if kind == "byte" else []),
            Choice(ScoreConfig(32, 16, 32, 4, 2)),
            Choice(WeighConfig(32, 16, 32, 4, 2)),
            Choice(FusedConfig(16, 16, 16, 4, 2), dim=16),
            Choice(FusedConfig(16, 16, 32, 4, 2), dim=32),
        )
        for kind in ("half", "brain", "byte", "single")
    },
}

# the architecture whose table serves another one
RELATED = {"sm_100": "sm_90", "sm_103": "sm_90", "sm_86": "sm_80", "sm_89": "sm_80", "sm_120": "sm_80"}


@dataclass(frozen=True)
class LaunchConfig:
    """The configurations of one call.

    score, weigh: tiles of the two kernels of a two-phase scan. fused: tile of the fused kernel, None where a program
    cannot hold all of D. parts: tile of the statistics that it needs. device: what the kernels are launched on.
    """

    score: ScoreConfig | DigitConfig
    weigh: WeighConfig
    fused: FusedConfig | None
    parts: ScoreConfig
    device: Device

    @property
    def operand(self) -> str:
        """What rows are multiplied by in the score: `digits` of the queries, or floating point `parts` of them."""
        return "digits" if isinstance(self.score, DigitConfig) else "parts"

    def score_slices(self, count: int, batch: int, dim: int) -> int:
        """Return into how many slices of D the score is cut, so that few tiles still fill the GPU.

        count: rows of a block. batch: queries. dim: D.
        """
        tiles = _ceil(count, self.score.block_n) * _ceil(batch, self.score.block_b)
        slices = self._programs(tiles, dim // (LEAST_SLICE * self.score.block_d))
        return max(slices, self.score.least_slices(dim))

    def weigh_shares(self, count: int, batch: int, dim: int) -> int:
        """Return among how many programs the rows with weight are shared.

        count: rows of a block. batch: queries. dim: D.
        """
        tiles = _ceil(dim, self.weigh.block_d) * _ceil(batch, self.weigh.block_b)
        most = min(MOST_SHARES, count // (LEAST_SHARE * self.weigh.block_n))
        # programs of few warps fit twice into a multiprocessor
        slots = self.device.multiprocessors * max(1, 8 // self.weigh.warps)
        return max(
            range(1, most + 1), key=lambda shares: _filled(tiles * shares, slots) - SHARE_COST * shares, default=1
        )

    def fused_shares(self, count: int, batch: int) -> int:
        """Return among how many programs of the fused kernel the `count` rows are shared, for `batch` queries."""
        if self.fused is None:
            return 1
        return self._programs(_ceil(batch, self.fused.block_b), count // (LEAST_SHARE * self.fused.block_n))

    def _programs(self, tiles: int, most: int) -> int:
        # programs that work on one tile, at most `most` of them
        return max(1, min(_ceil(PROGRAMS * self.device.multiprocessors, tiles), most))


def choose(device: Device, stored: torch.dtype, batch: int, dim: int, *, folder: Path = TUNED) -> LaunchConfig:
    """Return the configurations of a call, those tuned for this GPU before those of the tables.

    device: what the kernels are launched on. stored: dtype of the rows as the kernels read them, one of KINDS.
    batch: number of queries. dim: D. folder: where tuned configurations are kept.

    Raises DataFileError where the tuned file of the GPU is damaged, AssertionError where a table has no entry for
    large work.
    """
    kind = KINDS[stored]
    table = (*tuned(device.name, folder).get(kind, ()), *TABLES[table_name(device.architecture)][kind])
    reaching = [choice.config for choice in table if batch <= choice.batch and dim <= choice.dim]
    fused, weigh = _first(FusedConfig, reaching), _first(WeighConfig, reaching)
    parts, digits = _first(ScoreConfig, reaching), _first(DigitConfig, reaching) if device.multiplies_digits else None
    if parts is None or weigh is None:
        raise AssertionError(f"the last entries of a table are for any size, but not for {kind}, {batch} x {dim}")
    score: ScoreConfig | DigitConfig
    if digits is None or _OPERAND.get() == "parts":
        score = parts
    else:
        # the one that is listed first, unless digits were asked for
        first = reaching.index(digits) < reaching.index(parts)
        score = digits if first or _OPERAND.get() == "digits" else parts
    return LaunchConfig(score, weigh, fused, parts, device)


# what 8-bit rows are multiplied by where both operands are possible; None leaves it to the tables
_OPERAND: ContextVar[str | None] = ContextVar("operand", default=None)


@contextmanager
def scored_with(operand: str | None) -> Iterator[None]:
    """Choose in this context what 8-bit rows are multiplied by, so that the two ways can be compared.

    operand: `digits` or `parts` of the queries, or None for the one in the tables.

    Raises InputError for another name.
    """
    if operand not in (None, "digits", "parts"):
        raise invalid("operand", "must be digits or parts", repr(operand), "pass None for the one in the tables")
    token = _OPERAND.set(operand)
    try:
        yield
    finally:
        _OPERAND.reset(token)


def table_name(architecture: str) -> str:
    """Return the key of TABLES that serves `architecture`: its own, that of a related one, or `any`."""
    name = RELATED.get(architecture, architecture)
    return name if name in TABLES else "any"


ConfigOf = TypeVar("ConfigOf", ScoreConfig, DigitConfig, WeighConfig, FusedConfig)


def _first(kind: type[ConfigOf], configs: Sequence[AnyConfig]) -> ConfigOf | None:
    return next((config for config in configs if isinstance(config, kind)), None)


def _ceil(count: int, size: int) -> int:
    return -(-count // size)


def _filled(programs: int, slots: int) -> float:
    # the share of the slots that work, as slots are taken in turns
    return programs / (_ceil(programs, slots) * slots)


def tuned_file(name: str, folder: Path = TUNED) -> Path:
    """Return the path in `folder` of the configurations tuned for the GPU called `name`."""
    return folder / f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.json"


@lru_cache
def tuned(name: str, folder: Path = TUNED) -> dict[str, tuple[Choice, ...]]:
    """Return the choices tuned for a GPU, by kind of dtype; empty without a file.

    name: of the GPU, as in Device. folder: where tuned configurations are kept.

    Raises DataFileError where the file is damaged. The file is read once in a process.
    """
    path = tuned_file(name, folder)
    if not path.is_file():
        return {}
    try:
        kinds = json.loads(path.read_text("utf-8"))["kinds"]
        return {kind: tuple(choice_of(entry) for entry in entries) for kind, entries in kinds.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        expected = "tuned configurations as kernels.gpu.tools.tune writes them"
        raise bad_file(path, expected, repr(error), "delete it, or run kernels.gpu.tools.tune again") from None


# names of the kernels in tuned files
CONFIGS: dict[str, type[AnyConfig]] = {
    "score": ScoreConfig,
    "digits": DigitConfig,
    "weigh": WeighConfig,
    "fused": FusedConfig,
}


def choice_of(entry: dict[str, Any]) -> Choice:
    """Return the choice that :func:`plain` wrote as `entry`.

    Raises KeyError where a value is missing, TypeError where one is of another type, ValueError where one is not a
    positive integer.
    """
    config = CONFIGS[entry["kernel"]](**entry["config"])
    if not all(isinstance(value, int) and value > 0 for value in asdict(config).values()):
        raise ValueError(f"not positive integers: {config}")
    return Choice(config, int(entry["batch"]), int(entry["dim"]))


def plain(choice: Choice) -> dict[str, Any]:
    """Return `choice` as plain values that JSON can hold: kernel, batch, dim and config."""
    kernel = next(name for name, config in CONFIGS.items() if isinstance(choice.config, config))
    return {"kernel": kernel, "batch": choice.batch, "dim": choice.dim, "config": asdict(choice.config)}
