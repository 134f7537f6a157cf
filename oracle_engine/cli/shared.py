"""What several commands do: read the data, make the engine, print the results and write a report."""

from __future__ import annotations

import json
import math
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..base.errors import OracleError, invalid
from ..base.files import check_writable, replacing
from ..base.machine.devices import usable_device
from ..base.machine.environment import memory_bytes
from ..data.dataset import OracleDataset
from ..data.load import load_dataset
from ..engine.engine import OracleEngine
from ..science.plot_style import require_matplotlib
from ..search.index import SearchIndex
from .torchrun import engine_of_process, reports, together
from .words import in_options

FIGURE_SUFFIXES = (".png", ".pdf", ".svg")


def say(arguments: Namespace, text: str, facts: dict[str, Any]) -> None:
    """Print one of two forms of a result on standard output.

    arguments: with `json`, which chooses. text: printed unless --json is given. facts: plain values, printed as JSON
    where it is, with null for numbers that are not finite.
    """
    print(json_text(facts) if arguments.json else text)


def json_text(facts: dict[str, Any]) -> str:
    """Return plain values as JSON, with null for numbers that are not finite, which JSON lacks."""
    return json.dumps(_finite(facts), indent=1, allow_nan=False)


def load(arguments: Namespace) -> OracleDataset:
    """Return the data set that --data names, as the other options of :func:`.options.add_source` say.

    Raises OracleError, in the words of these options, as `load_dataset` does.
    """
    names = {"key": arguments.data_key, "folder": arguments.folder, "labels": arguments.labels_file}
    try:
        return load_dataset(arguments.data, **names, **read_alike(arguments), count=arguments.count)
    except OracleError as error:
        raise in_options(error, "--data") from error


def read_alike(arguments: Namespace) -> dict[str, Any]:
    """Return the arguments of `load_dataset` that all data sets of a command share, from --range to --seed."""
    names = {"size": arguments.size, "gray": arguments.gray, "seed": arguments.seed}
    return {"value_map": arguments.range, **names}


def load_there(arguments: Namespace) -> OracleDataset:
    """Return the data set of :func:`load` on --device, a name that is checked first; raises as both do."""
    device = device_named(arguments.device)
    data = load(arguments)
    return data if device is None else data.to(device)


def engine_of(arguments: Namespace, **options: Any) -> OracleEngine:
    """Return the engine over the data of :func:`load` along --path, :func:`placed`, with the index of --index.

    arguments: of a command with all of these options. options: further keyword arguments of OracleEngine.

    Raises InputError where the index cannot certify its answers, and as `load_dataset`, `SearchIndex.read` and
    OracleEngine do.
    """
    index = None if arguments.index is None else SearchIndex.read(arguments.index)
    if index is not None and not index.screened and not index.search.certified:
        found = f"{arguments.index}, an index {index.spec!r}"
        raise invalid("--index", "must certify its answers", found, "build it with --index screen or flat")
    if index is not None and together():
        raise invalid(
            "--index", "must be left out under torchrun", arguments.index, "leave it out: every sample counts"
        )
    place = placed(arguments)
    engine = engine_of_process(load(arguments), arguments.path, **place, **options)
    return engine if index is None else engine.use(index, arguments.index)


def placed(arguments: Namespace) -> dict[str, Any]:
    """Return the arguments of an engine that --device, --resident and --memory name; raises as `device_named` does."""
    device = device_named(arguments.device)
    return {"device": device, "resident": arguments.resident or "auto", "memory": arguments.memory}


def device_named(name: str | None) -> torch.device | None:
    """Return the device called `name`, or None for None.

    Raises InputError where torch cannot use a device of that name here.
    """
    if name is None:
        return None
    try:
        device = usable_device(name)
    except OracleError as error:
        raise in_options(error, "--device") from error
    if device.type == "meta":
        raise invalid("--device", "must name a device that holds numbers", repr(name), "use cpu")
    return device


def check_output(arguments: Namespace, name: str, path: Path) -> None:
    """Check that results can be written to a file, before any work is done.

    arguments: of the command. name: of the option or argument that names the file, for errors. path: the file.

    Raises InputError where the file is one that the command reads, and as `check_writable` does.
    """
    read = {
        "IN": "input",
        "--data": "data",
        "--labels-file": "labels_file",
        "--index": "index",
        "--append": "append",
        "--held-out": "held_out",
    }
    for option, held in read.items():
        given = getattr(arguments, held, None)
        if given is not None and option != name and path.resolve() == Path(given).resolve():
            raise invalid(name, f"must be another file than {option}", path, "name another file")
    check_writable(path, name)


def check_memory(name: str, count: int, size: int) -> None:
    """Check that what an option asks for fits into the memory of this machine.

    name: of the option. count: the number that it gives. size: bytes that each of these needs.

    Raises InputError where the memory is known and smaller.
    """
    held = memory_bytes()
    if held is not None and count * size > held:
        requirement = f"must need less memory than the {held / 2**30:,.1f} GiB of this machine"
        found = f"{count:,}, which need {count * size / 2**30:,.1f} GiB"
        raise invalid(name, requirement, found, f"ask for at most {held // (2 * size):,}")


def check_report(arguments: Namespace, name: str) -> None:
    """Check that a report can be written into the folder --out, so that the work is not done in vain.

    arguments: with `out` and `no_figure`. name: of its files, without a suffix.

    Raises MissingDependencyError where a figure is asked for without matplotlib, InputError where a file cannot be
    written.
    """
    if not arguments.no_figure:
        require_matplotlib()
    for suffix in (".json",) if arguments.no_figure else (".json", _figure_suffix(arguments)):
        check_output(arguments, "--out", Path(arguments.out) / f"{name}{suffix}")


def write_report(arguments: Namespace, name: str, facts: dict[str, Any], draw: Callable[[Path], None]) -> list[str]:
    """Return the names of the files of a report after they are written into the folder --out.

    arguments: with `out` and `no_figure`. name: of the files, without a suffix. facts: what `name`.json gets.
    draw: draws the figure to the path it is given, `name`.png unless --format is given; not called with --no-figure.

    Raises OSError where a file cannot be written.
    """
    files = [Path(arguments.out) / f"{name}.json"]
    if not arguments.no_figure:
        files.append(Path(arguments.out) / f"{name}{_figure_suffix(arguments)}")
    if reports():
        with replacing(files[0]) as partial:
            partial.write_text(json_text(facts) + "\n", "utf-8")
        for file in files[1:]:
            draw(file)
    return [str(file) for file in files]


def check_figure(option: str, path: Path, remedy: str) -> None:
    """Raise InputError where `path`, the value of `option`, does not end as a figure does; `remedy` says what to do."""
    if path.suffix not in FIGURE_SUFFIXES:
        raise invalid(option, f"must end in {', '.join(FIGURE_SUFFIXES)}", path, remedy)


def _figure_suffix(arguments: Namespace) -> str:
    return f".{getattr(arguments, 'format', 'png')}"


def _finite(value: Any) -> Any:
    """Return plain values with None in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {name: _finite(held) for name, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(held) for held in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
