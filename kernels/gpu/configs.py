"""Launch configurations as data: tables for each architecture, a conservative one for the rest, and JSON overrides.

Every listed configuration compiles without spills for its architecture, with matrix instructions and asynchronous
copies: `make aot` checks that. Which of them is fastest is for a GPU to say: entries
without a measured reason were chosen by register and shared memory use, and `kernels.tune` replaces them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch

from ...base.errors import bad_file, invalid
from .devices import Device

# where the tuner writes and this module reads: one file for each GPU
TUNED = Path(__file__).parent / "tuned"

# a limit on B, or D, that no batch reaches
ANY = 1 << 30

# programs that a multiprocessor is given at least, where the work allows
PROGRAMS = 2

# values of D, in tiles, below which a slice of the score, and live rows below which a share of the sum, is not worth
# the additional sum
LEAST_SLICE, LEAST_SHARE = 8, 4

# values of D after which a sum of digits times 8-bit differences might exceed an int32: 128 255 D < 2^31, rounded down
# to a multiple of every tile
DIGIT_DEPTH = 1 << 16


@dataclass(frozen=True)
class ScoreTile:
    """Tile of the score: rows, queries, values of D; warps and stages of a program."""

    block_n: int
    block_b: int
    block_d: int
    warps: int
    stages: int

    def shared_bytes(self, row_bytes: int, part_bytes: int) -> int:
        """Return an upper bound of the shared memory, for rows of `row_bytes` a value and queries of `part_bytes`."""
        tile = self.block_n * row_bytes + self.block_b * part_bytes
        return self.stages * self.block_d * tile + 8192


@dataclass(frozen=True)
class ScoreConfig(ScoreTile):
    """Tile of the score with floating point numbers."""

    def least_slices(self, dim: int) -> int:
        """Return into how many slices of D the score must be cut: none."""
        return 1


@dataclass(frozen=True)
class DigitConfig(ScoreTile):
    """Tile of the score through the int8 matrix unit."""

    def least_slices(self, dim: int) -> int:
        """Return into how many slices of D the score must be cut, so that no sum overflows."""
        return _ceil(dim, DIGIT_DEPTH)


@dataclass(frozen=True)
class WeighConfig:
    """Tile of the weighted sum: rows at once, queries, slice of D; warps and pipeline stages of a program."""

    block_n: int
    block_b: int
    block_d: int
    warps: int
    stages: int

    def shared_bytes(self, row_bytes: int, part_bytes: int) -> int:
        """Return an upper bound of the shared memory, for rows of `row_bytes` a value and weights of `part_bytes`."""
        tile = self.block_d * max(row_bytes, 2) + self.block_b * part_bytes
        return self.stages * self.block_n * tile + 8192


@dataclass(frozen=True)
class FusedConfig:
    """Tile of the fused kernel: rows at once, queries, all of D rounded up; warps and pipeline stages of a program."""

    block_n: int
    block_b: int
    block_d: int
    warps: int
    stages: int

    def shared_bytes(self, row_bytes: int, part_bytes: int) -> int:
        """Return an upper bound of the shared memory: stages of rows, the queries, and a tile of weights."""
        rows = self.stages * self.block_n * self.block_d * max(row_bytes, 2)
        return rows + self.block_b * (self.block_d + 2 * self.block_n) * part_bytes + 8192


AnyConfig = ScoreConfig | DigitConfig | WeighConfig | FusedConfig


@dataclass(frozen=True)
class Choice:
    """A configuration and how far it reaches: for batches up to `batch`, and dimensions up to `dim`."""

    config: AnyConfig
    batch: int = ANY
    dim: int = ANY


# what a GPU must know of a dtype: half is float16 and bfloat16, byte uint8 and int8, single float32
KINDS = {
    torch.float16: "half",
    torch.bfloat16: "half",
    torch.uint8: "byte",
    torch.int8: "byte",
    torch.float32: "single",
}

# by architecture, kind and kernel, the first entry that reaches is taken; of the two ways to score 8-bit rows, the
# first that the device has a unit for
TABLES: Mapping[str, Mapping[str, Sequence[Choice]]] = {
    "sm_90": {
        "half": (
            # few queries: wide in D, so that rows stream in long pieces
            Choice(ScoreConfig(64, 16, 128, 4, 4), batch=16),
            Choice(ScoreConfig(128, 64, 64, 4, 4), batch=64),
            Choice(ScoreConfig(128, 128, 64, 8, 3)),
            Choice(WeighConfig(64, 16, 128, 4, 4), batch=16),
            Choice(WeighConfig(64, 64, 128, 4, 4), batch=64),
            # four stages, because the list of rows is read ahead of the rows; not 256 wide, because two accumulators,
            # one in the matrix unit and one outside, would spill
            Choice(WeighConfig(64, 128, 128, 8, 4)),
            Choice(FusedConfig(64, 64, 64, 4, 3), dim=64),
            Choice(FusedConfig(32, 64, 128, 4, 3), dim=128),
            # beyond, queries by the tile fill the registers; small batches only, which need the one read most
            Choice(FusedConfig(64, 32, 256, 8, 2), batch=32, dim=256),
            Choice(FusedConfig(64, 16, 512, 8, 2), batch=16, dim=512),
        ),
        "byte": (
            Choice(DigitConfig(64, 16, 128, 4, 4), batch=16),
            # three accumulators, but none outside the unit
            Choice(DigitConfig(128, 64, 128, 8, 3)),
            Choice(ScoreConfig(64, 16, 128, 4, 4), batch=16),
            Choice(ScoreConfig(128, 64, 64, 4, 4)),
            Choice(WeighConfig(64, 16, 128, 4, 4), batch=16),
            Choice(WeighConfig(64, 64, 128, 4, 4), batch=64),
            Choice(WeighConfig(64, 128, 128, 8, 4)),
            Choice(FusedConfig(64, 64, 64, 4, 3), dim=64),
            Choice(FusedConfig(32, 64, 128, 4, 3), dim=128),
        ),
        "single": (
            Choice(ScoreConfig(64, 16, 64, 4, 3), batch=16),
            Choice(ScoreConfig(128, 128, 32, 8, 3)),
            Choice(WeighConfig(32, 16, 128, 4, 4), batch=16),
            Choice(WeighConfig(32, 64, 128, 8, 4)),
            Choice(FusedConfig(32, 32, 64, 4, 2), dim=64),
        ),
    },
    # serves sm_86, sm_89 and sm_120 too: everything fits in their 99 KB
    "sm_80": {
        "half": (
            Choice(ScoreConfig(64, 16, 128, 4, 3), batch=16),
            Choice(ScoreConfig(128, 64, 32, 4, 3)),
            Choice(WeighConfig(64, 16, 128, 4, 4), batch=16),
            Choice(WeighConfig(32, 64, 128, 4, 4)),
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
            Choice(ScoreConfig(64, 64, 32, 4, 2)),
            Choice(WeighConfig(32, 16, 64, 4, 2), batch=16),
            Choice(WeighConfig(32, 64, 64, 4, 2)),
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
        for kind in ("half", "byte", "single")
    },
}

# whose table serves an architecture that has none of its own
RELATED = {"sm_100": "sm_90", "sm_103": "sm_90", "sm_86": "sm_80", "sm_89": "sm_80", "sm_120": "sm_80"}


@dataclass(frozen=True)
class LaunchConfig:
    """The configurations of one call; `fused` where one program can hold everything."""

    score: ScoreConfig | DigitConfig
    weigh: WeighConfig
    fused: FusedConfig | None
    device: Device

    @property
    def operand(self) -> str:
        """What rows are multiplied by in the score: `digits` of the query, or `parts` of it."""
        return "digits" if isinstance(self.score, DigitConfig) else "parts"

    def score_slices(self, count: int, batch: int, dim: int) -> int:
        """Return into how many slices of D the score is cut, so that few tiles still fill the GPU."""
        tiles = _ceil(count, self.score.block_n) * _ceil(batch, self.score.block_b)
        slices = self._share(tiles, dim // (LEAST_SLICE * self.score.block_d))
        return max(slices, self.score.least_slices(dim))

    def weigh_shares(self, count: int, batch: int, dim: int) -> int:
        """Return among how many programs the live rows are shared."""
        tiles = _ceil(dim, self.weigh.block_d) * _ceil(batch, self.weigh.block_b)
        return self._share(tiles, count // (LEAST_SHARE * self.weigh.block_n))

    def fused_shares(self, count: int, batch: int) -> int:
        """Return among how many programs the rows are shared."""
        if self.fused is None:
            return 1
        return self._share(_ceil(batch, self.fused.block_b), count // (LEAST_SHARE * self.fused.block_n))

    def _share(self, tiles: int, most: int) -> int:
        return max(1, min(_ceil(PROGRAMS * self.device.multiprocessors, tiles), most))


def choose(device: Device, stored: torch.dtype, batch: int, dim: int) -> LaunchConfig:
    """Return the configurations for data stored as `stored`, the tuned ones of this GPU before the tables."""
    kind = KINDS[stored]
    table = (*tuned(device.name).get(kind, ()), *TABLES[table_name(device.architecture)][kind])
    reaching = [choice.config for choice in table if batch <= choice.batch and dim <= choice.dim]
    fused, weigh = _first(FusedConfig, reaching), _first(WeighConfig, reaching)
    parts, digits = _first(ScoreConfig, reaching), _first(DigitConfig, reaching) if device.multiplies_digits else None
    if parts is None or weigh is None:
        raise AssertionError(f"the last entries of a table reach everywhere, but not for {kind}, {batch} x {dim}")
    score: ScoreConfig | DigitConfig
    if digits is None or _OPERAND.get() == "parts":
        score = parts
    elif _OPERAND.get() == "digits":
        score = digits
    else:
        # the one that is listed first
        score = digits if reaching.index(digits) < reaching.index(parts) else parts
    return LaunchConfig(score, weigh, fused, device)


# which operand meets 8-bit rows where both are possible; None leaves it to the tables
_OPERAND: ContextVar[str | None] = ContextVar("operand", default=None)


@contextmanager
def scored_with(operand: str | None) -> Iterator[None]:
    """Score 8-bit rows with `digits` or with `parts` of the queries in this context: to compare the two."""
    if operand not in (None, "digits", "parts"):
        raise invalid("operand", "must be digits or parts", repr(operand), "pass None for the one in the tables")
    token = _OPERAND.set(operand)
    try:
        yield
    finally:
        _OPERAND.reset(token)


def table_name(architecture: str) -> str:
    """Return the key in TABLES that serves an architecture."""
    name = RELATED.get(architecture, architecture)
    return name if name in TABLES else "any"


Config = TypeVar("Config", ScoreConfig, DigitConfig, WeighConfig, FusedConfig)


def _first(kind: type[Config], configs: Sequence[AnyConfig]) -> Config | None:
    return next((config for config in configs if isinstance(config, kind)), None)


def _ceil(count: int, size: int) -> int:
    return -(-count // size)


def tuned_file(name: str) -> Path:
    """Return where the tuned configurations of a GPU are kept."""
    return TUNED / f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.json"


@lru_cache
def tuned(name: str) -> dict[str, tuple[Choice, ...]]:
    """Return the tuned choices of a GPU by kind, none without a file. Raises DataFileError for a damaged file."""
    path = tuned_file(name)
    if not path.is_file():
        return {}
    try:
        kinds = json.loads(path.read_text("utf-8"))["kinds"]
        return {kind: tuple(choice_of(entry) for entry in entries) for kind, entries in kinds.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        expected = "tuned configurations as kernels.tune writes them"
        raise bad_file(path, expected, repr(error), "delete it, or run kernels.tune again") from None


CONFIGS: dict[str, type[AnyConfig]] = {
    "score": ScoreConfig,
    "digits": DigitConfig,
    "weigh": WeighConfig,
    "fused": FusedConfig,
}


def choice_of(entry: dict[str, Any]) -> Choice:
    """Return a choice from its plain values. Raises KeyError, TypeError or ValueError for anything else."""
    config = CONFIGS[entry["kernel"]](**entry["config"])
    if not all(isinstance(value, int) and value > 0 for value in asdict(config).values()):
        raise ValueError(f"not positive integers: {config}")
    return Choice(config, int(entry["batch"]), int(entry["dim"]))


def plain(choice: Choice) -> dict[str, Any]:
    """Return a choice as plain values that json can write."""
    kernel = next(name for name, config in CONFIGS.items() if isinstance(choice.config, config))
    return {"kernel": kernel, "batch": choice.batch, "dim": choice.dim, "config": asdict(choice.config)}
