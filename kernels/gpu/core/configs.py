"""Which launch configuration a call has: tuned ones before those of the tables, and shares that fill a GPU."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch

from ....base.errors import bad_file, invalid
from .devices import Device
from .tables import ROW_KINDS, TABLES, table_name
from .tiles import AnyConfig, DigitConfig, FusedConfig, ScoreConfig, TileChoice, WeighConfig, ceil_div

# the folder that the tuner writes to and this module reads: one file for each GPU
TUNED = Path(__file__).parents[1] / "tuned"

# programs that every multiprocessor is given where there is enough work
PROGRAMS = 2

# tiles of D that a slice of the score has at least, and tiles of rows that a share of the weighted sum has at least:
# with less the additional sum costs more than it saves
LEAST_SLICE, LEAST_SHARE = 8, 4

# programs that share the rows of a weighted sum, and the share of its time that adding up one more of them takes
MOST_SHARES, SHARE_COST = 64, 0.003


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
        tiles = ceil_div(count, self.score.block_n) * ceil_div(batch, self.score.block_b)
        slices = self._programs(tiles, dim // (LEAST_SLICE * self.score.block_d))
        return max(slices, self.score.least_slices(dim))

    def weigh_shares(self, count: int, batch: int, dim: int) -> int:
        """Return among how many programs the rows with weight are shared.

        count: rows of a block. batch: queries. dim: D.
        """
        tiles = ceil_div(dim, self.weigh.block_d) * ceil_div(batch, self.weigh.block_b)
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
        return self._programs(ceil_div(batch, self.fused.block_b), count // (LEAST_SHARE * self.fused.block_n))

    def _programs(self, tiles: int, most: int) -> int:
        # programs that work on one tile, at most `most` of them
        return max(1, min(ceil_div(PROGRAMS * self.device.multiprocessors, tiles), most))


def choose(device: Device, stored: torch.dtype, batch: int, dim: int, *, folder: Path = TUNED) -> LaunchConfig:
    """Return the configurations of a call, those tuned for this GPU before those of the tables.

    device: what the kernels are launched on. stored: dtype of the rows as the kernels read them, one of ROW_KINDS.
    batch: number of queries. dim: D. folder: where tuned configurations are kept.

    Raises DataFileError where the tuned file of the GPU is damaged, AssertionError where a table has no entry for
    large work.
    """
    kind = ROW_KINDS[stored]
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


ConfigOf = TypeVar("ConfigOf", ScoreConfig, DigitConfig, WeighConfig, FusedConfig)


def _first(kind: type[ConfigOf], configs: Sequence[AnyConfig]) -> ConfigOf | None:
    return next((config for config in configs if isinstance(config, kind)), None)


def _filled(programs: int, slots: int) -> float:
    # the share of the slots that work, as slots are taken in turns
    return programs / (ceil_div(programs, slots) * slots)


def tuned_file(name: str, folder: Path = TUNED) -> Path:
    """Return the path in `folder` of the configurations tuned for the GPU called `name`."""
    return folder / f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.json"


@lru_cache
def tuned(name: str, folder: Path = TUNED) -> dict[str, tuple[TileChoice, ...]]:
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


def choice_of(entry: dict[str, Any]) -> TileChoice:
    """Return the choice that :func:`plain` wrote as `entry`.

    Raises KeyError where a value is missing, TypeError where one is of another type, ValueError where one is not a
    positive integer.
    """
    config = CONFIGS[entry["kernel"]](**entry["config"])
    if not all(isinstance(value, int) and value > 0 for value in asdict(config).values()):
        raise ValueError(f"not positive integers: {config}")
    return TileChoice(config, int(entry["batch"]), int(entry["dim"]))


def plain(choice: TileChoice) -> dict[str, Any]:
    """Return `choice` as plain values that JSON can hold: kernel, batch, dim and config."""
    kernel = next(name for name, config in CONFIGS.items() if isinstance(choice.config, config))
    return {"kernel": kernel, "batch": choice.batch, "dim": choice.dim, "config": asdict(choice.config)}
