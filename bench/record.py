"""The rows that a run writes: measured sides, in one JSON file per machine."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from oracle_engine import OracleDataset
from oracle_engine.base.environment import environment_report
from oracle_engine.base.files import replacing

from .data import FLOAT32
from .floors import Floor, Rates
from .truth import BAR
from .workloads import TRAINING

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


S = TypeVar("S", bound="DataclassInstance")


@dataclass(frozen=True)
class Measured(Generic[S]):
    """One workload and the sides that ran on it.

    t: the time, "mixed", or the number of steps of a run. others: number of processors that other programs kept busy.
    queries: what they were made from, see `Workload`, or "ode" for a run from noise. floor: of an exact answer, where
    the rates of the machine were measured.
    """

    data: str
    count: int
    dim: int
    storage: str
    batch: int
    t: str
    others: float | None
    sides: Mapping[str, S]
    queries: str = TRAINING
    floor: Floor | None = None

    @property
    def label(self) -> str:
        """The data set and its size, as tables write it."""
        return f"{self.data.removesuffix(FLOAT32)}, {self.count:,} x {self.dim:,} {self.storage}"


class Row(Measured[Side]):
    """A workload of the engine and its peers."""

    @property
    def ours(self) -> Side | None:
        """The engine, if it ran."""
        return self.sides.get(OURS)

    def best_peer(self, *, exact: bool) -> str | None:
        """Return the name of the fastest peer; with `exact`, of those that meet the bar."""
        own = (OURS, OURS_COARSE, OURS_RECORDED)
        peers = {name: side for name, side in self.sides.items() if name not in own and (side.exact or not exact)}
        return min(peers, key=lambda name: peers[name].median_ms, default=None)


def sizes_of(data: OracleDataset) -> tuple[str, int, int, str]:
    """Return the first fields of a row: name, samples, values of a sample, storage dtype."""
    return data.name, len(data), data.dim, str(data.storage).removeprefix("torch.")


def document_of(
    rows: Iterable[DataclassInstance], options: dict[str, Any], rates: Rates | None = None
) -> dict[str, Any]:
    """Return the rows with the date, commit, options, rates and environment of the run, as plain values."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "options": options,
        "bar": BAR,
        "pykeops": _version("pykeops"),
        "rates": None if rates is None else asdict(rates),
        "environment": environment_report(),
        "rows": [asdict(row) for row in rows],
    }


def rows_of(document: Mapping[str, Any]) -> list[Row]:
    """Return the rows of a document."""
    return [Row(**measured_fields(entry, Side)) for entry in document["rows"]]


def measured_fields(entry: Mapping[str, Any], side: Callable[..., S]) -> dict[str, Any]:
    """Return the fields of a row as a document holds it; rows of older documents have no floor."""
    sides = {name: side(**fields) for name, fields in entry["sides"].items()}
    floor = entry.get("floor")
    return {**entry, "sides": sides, "floor": None if floor is None else Floor(**floor)}


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
    """Return a file name for results on this device: the processor, its vectors and threads, or the GPU."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        cpu = environment_report()["cpu"]
        name = f"{cpu['model']} {cpu['capability']} {cpu['threads']} threads"
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
