"""What several commands do: read the data, make the engine, print the results and write a report."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..base.errors import invalid
from ..base.files import replacing
from ..data.dataset import OracleDataset
from ..data.load import load_dataset
from ..engine.engine import OracleEngine
from ..science.stage_plots import require_matplotlib
from ..search.index import SearchIndex


def say(arguments: Namespace, text: str, facts: dict[str, Any]) -> None:
    """Print one of two forms of a result on standard output.

    arguments: with `json`, which chooses. text: printed unless --json is given. facts: plain finite values, printed as
    JSON where it is.

    Raises ValueError where a number in `facts` is not finite and JSON is asked for.
    """
    print(json.dumps(facts, indent=1, allow_nan=False) if arguments.json else text)


def load(arguments: Namespace) -> OracleDataset:
    """Return the data set that --data, --data-key, --folder, --count and --seed name."""
    names = {"key": arguments.data_key, "folder": arguments.folder}
    return load_dataset(arguments.data, **names, count=arguments.count, seed=arguments.seed)


def engine_of(arguments: Namespace, **options: Any) -> OracleEngine:
    """Return the engine over the data of :func:`load` along --path on --device, with the index that --index names.

    arguments: of a command with all of these options. options: further keyword arguments of OracleEngine.

    Raises InputError where the index cannot certify its answers, and as `load_dataset`, `SearchIndex.read` and
    OracleEngine do.
    """
    index = None if arguments.index is None else SearchIndex.read(arguments.index)
    if index is not None and not index.screened and not index.search.certified:
        found = f"{arguments.index}, an index {index.spec!r}"
        raise invalid("--index", "must certify its answers", found, "build it with --index screen or flat")
    engine = OracleEngine(load(arguments), arguments.path, device=device_named(arguments.device), **options)
    return engine if index is None else engine.use(index, arguments.index)


def device_named(name: str | None) -> torch.device | None:
    """Return the device called `name`, or None for None.

    Raises InputError where torch cannot use a device of that name here.
    """
    if name is None:
        return None
    try:
        return torch.empty(0, device=name).device
    # torch built without CUDA says so by an assertion
    except (RuntimeError, AssertionError) as error:
        found = str(error).splitlines()[0]
        raise invalid("--device", "must name a device torch can use here", f"{name!r} ({found})", "use cpu") from error


def prepare_report(arguments: Namespace) -> None:
    """Create the folder --out, after a check that the figure can be drawn, so that the work is not done in vain.

    arguments: with `out` and `no_figure`.

    Raises MissingDependencyError where a figure is asked for without matplotlib, OSError where the folder cannot be
    created.
    """
    if not arguments.no_figure:
        require_matplotlib()
    Path(arguments.out).mkdir(parents=True, exist_ok=True)


def write_report(arguments: Namespace, name: str, facts: dict[str, Any], draw: Callable[[Path], None]) -> list[str]:
    """Return the names of the files of a report after they are written into the folder --out.

    arguments: with `out` and `no_figure`. name: of the files, without a suffix. facts: what `name`.json gets.
    draw: draws `name`.png to the path it is given; not called with --no-figure.

    Raises OSError where a file cannot be written.
    """
    files = [Path(arguments.out) / f"{name}.json"]
    with replacing(files[0]) as partial:
        partial.write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n", "utf-8")
    if not arguments.no_figure:
        files.append(Path(arguments.out) / f"{name}.png")
        draw(files[-1])
    return [str(file) for file in files]
