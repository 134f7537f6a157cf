"""The rows that a run writes: measured sides, in one JSON file per machine."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from oracle_engine.base.files import replacing
from oracle_engine.base.machine.environment import environment_report, units_of
from oracle_engine.compare.floors import Floor, Rates
from oracle_engine.compare.record import Row, Side
from oracle_engine.compare.truth import BAR

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")


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
        name = f"{cpu['model']} {units_of(cpu)} {cpu['threads']} threads"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _commit() -> str | None:
    """Return the commit of the sources, "-dirty" where they were changed since; results are none of them."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(exclude,top)bench/results")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty" if changed else commit


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
