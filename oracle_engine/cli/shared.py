"""What each command does with its arguments: text or JSON on standard output, and the files it was asked for."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

import torch

from ..base.errors import invalid
from ..data.dataset import OracleDataset
from ..data.load import load_dataset
from ..engine.engine import OracleEngine
from ..search.index import SearchIndex


def say(arguments: Namespace, text: str, facts: dict[str, Any]) -> None:
    """Print the text, or the facts as JSON where --json asks for it."""
    print(json.dumps(facts, indent=1, allow_nan=False) if arguments.json else text)


def load(arguments: Namespace) -> OracleDataset:
    """Return the data set that the arguments name."""
    names = {"key": arguments.data_key, "folder": arguments.folder}
    return load_dataset(arguments.data, **names, count=arguments.count, seed=arguments.seed)


def engine_of(arguments: Namespace, **options: Any) -> OracleEngine:
    """Return the engine that the arguments describe, with the index that --index names."""
    index = None if arguments.index is None else SearchIndex.read(arguments.index)
    if index is not None and not index.screened and not index.search.certified:
        found = f"{arguments.index}, an index {index.spec!r}"
        raise invalid("--index", "must certify its answers", found, "build it with --index screen or flat")
    engine = OracleEngine(load(arguments), arguments.path, device=device_named(arguments.device), **options)
    return engine if index is None else engine.use(index, arguments.index)


def device_named(name: str | None) -> torch.device | None:
    """Return the device called `name`; InputError where torch cannot use it."""
    if name is None:
        return None
    try:
        return torch.empty(0, device=name).device
    # torch built without CUDA says so by an assertion
    except (RuntimeError, AssertionError) as error:
        found = str(error).splitlines()[0]
        raise invalid("--device", "must name a device torch can use here", f"{name!r} ({found})", "use cpu") from error
