"""The rows that a run writes: measured sides, in one JSON file per machine."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from oracle_engine.base.environment import environment_report
from oracle_engine.base.files import replacing

from .truth import BAR

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# the engine, the engine without rescoring, and the engine replayed from a CUDA graph
OURS, OURS_COARSE, OURS_RECORDED = "ours", "ours-coarse", "ours-recorded"


@dataclass(frozen=True)
class Side:
    """The measurements of one side.

    *_ms: over the rounds, milliseconds for the whole batch; error: largest relative velocity error against float64;
    peak_mib: peak of extra memory during a call; paired: median over rounds of its time / ours.
    """

    median_ms: float
    fastest_ms: float
    first_quartile_ms: float
    third_quartile_ms: float
    rounds: int
    error: float
    peak_mib: float | None
    paired: float | None

    @property
    def exact(self) -> bool:
        """Whether the error meets the bar; false for NaN."""
        return self.error <= BAR


@dataclass(frozen=True)
class Row:
    """One workload and the sides that ran on it; others: number of processors that other programs kept busy."""

    data: str
    count: int
    dim: int
    storage: str
    batch: int
    t: str
    others: float | None
    sides: dict[str, Side]

    @property
    def ours(self) -> Side | None:
        """The engine, if it ran."""
        return self.sides.get(OURS)

    def best_peer(self, *, exact: bool) -> str | None:
        """Return the name of the fastest peer; with `exact`, of those that meet the bar."""
        own = (OURS, OURS_COARSE, OURS_RECORDED)
        peers = {name: side for name, side in self.sides.items() if name not in own and (side.exact or not exact)}
        return min(peers, key=lambda name: peers[name].median_ms, default=None)


def document_of(rows: Iterable[DataclassInstance], options: dict[str, Any]) -> dict[str, Any]:
    """Return the rows with the date, commit, options and environment of the run, as plain values."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "options": options,
        "bar": BAR,
        "pykeops": _version("pykeops"),
        "environment": environment_report(),
        "rows": [asdict(row) for row in rows],
    }


def rows_of(document: dict[str, Any]) -> list[Row]:
    """Return the rows of a document."""
    return [
        Row(**{**entry, "sides": {name: Side(**side) for name, side in entry["sides"].items()}})
        for entry in document["rows"]
    ]


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write `document`; the file appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Return what `write_json` wrote."""
    document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return document


def machine_name(device: torch.device) -> str:
    """Return a file name for results on this device: the processor and its threads, or the GPU."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{environment_report()['cpu']['model']} {torch.get_num_threads()} threads"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
