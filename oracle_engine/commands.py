"""What each command does with its arguments: text or JSON on standard output, and the files it was asked for."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .arrays import Tensor
from .atomic import replacing
from .dataset import OracleDataset
from .engine import OracleEngine
from .env import environment_report, format_report
from .errors import DataFileError, invalid
from .index import SearchIndex
from .paths import coefficients, resolve_times
from .plots import require_matplotlib, stages_figure
from .progress import progress_bar
from .sources import load_dataset
from .stages import analyse
from .tensor_files import QueryFile, check_result, read_queries, result_file
from .train_demo import Settings, train
from .train_plots import train_figure


def run_stages(arguments: Namespace) -> None:
    """Analyse the two stages; print the table, write stages.json and stages.png."""
    if not arguments.no_figure:
        # now, not after the analysis
        require_matplotlib()
    folder = Path(arguments.out)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with progress_bar(f"stages of {arguments.data}") as progress:
        engine = OracleEngine(load(arguments), arguments.path, device=device_of(arguments.device))
        report = analyse(engine, arguments.times, arguments.queries, arguments.seed, progress)
    files = [folder / "stages.json"]
    with replacing(files[0]) as partial:
        partial.write_text(json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n", "utf-8")
    if not arguments.no_figure:
        files.append(folder / "stages.png")
        stages_figure(report, files[1])
    names = [str(file) for file in files]
    took = f"{' and '.join(names)} written; {time.perf_counter() - began:.1f} s"
    say(arguments, f"{report.format_table()}\n\n{took}", report.to_json() | {"files": names})


def run_velocity(arguments: Namespace) -> None:
    """Evaluate the oracle at the queries of one file and write the results to another."""
    source, target = Path(arguments.input), Path(arguments.output)
    x, times, labels = _queries(arguments)
    shape, dtype = list(x.shape), x.dtype
    if arguments.what == "log_density":
        shape, dtype = shape[:1], torch.float64
    check_result(target, dtype)
    began = time.perf_counter()
    with progress_bar(f"{arguments.what} of {source.name}") as progress:
        engine = engine_of(arguments, t_max=arguments.t_max, tolerance=arguments.tolerance)
        with result_file(target, arguments.what, shape, dtype) as write:
            _check_times(engine, times)
            for start in range(0, len(x), arguments.batch):
                part = slice(start, start + arguments.batch)
                write(_answer(engine, arguments.what, x[part], times[part], None if labels is None else labels[part]))
                progress(min(part.stop, len(x)), len(x))
    took = time.perf_counter() - began
    facts = {
        "what": arguments.what,
        "in": str(source),
        "out": str(target),
        "shape": shape,
        "dtype": str(dtype).removeprefix("torch."),
        "data": repr(engine.data),
        "path": repr(engine.path),
        "index": arguments.index,
        "tolerance": engine.tolerance,
        "conditional": labels is not None,
        "elapsed": took,
    }
    condition = "" if labels is None else " given their labels"
    say(arguments, f"{target}: {arguments.what} of {shape[0]:,} queries{condition}; {took:.1f} s", facts)


def run_train_demo(arguments: Namespace) -> None:
    """Train on three targets; print what it showed, write train.json and train.png."""
    if not arguments.no_figure:
        require_matplotlib()
    names = ("steps", "batch", "width", "references", "bins", "draws", "seed")
    settings = Settings(**{name: getattr(arguments, name) for name in names})
    folder = Path(arguments.out)
    folder.mkdir(parents=True, exist_ok=True)
    with progress_bar("training on three targets") as progress:
        data, notes = _load_or_digits(arguments)
        device = device_of(arguments.device)
        report = train(data if device is None else data.to(device), settings, progress, notes)
    files = [folder / "train.json"]
    with replacing(files[0]) as partial:
        partial.write_text(json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n", "utf-8")
    if not arguments.no_figure:
        files.append(folder / "train.png")
        train_figure(report, files[1])
    written = [str(file) for file in files]
    took = f"{' and '.join(written)} written; {report.elapsed:.1f} s"
    say(arguments, f"{report.format_table()}\n\n{took}", report.to_json() | {"files": written})


def run_info(arguments: Namespace) -> None:
    """Print the environment report."""
    report = environment_report()
    say(arguments, format_report(report), report)


def run_plan(arguments: Namespace) -> None:
    """Print what a batch of queries would do and cost."""
    engine = engine_of(arguments)
    plan = engine.plan(arguments.batch)
    say(arguments, str(plan), asdict(plan))


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
    engine = OracleEngine(load(arguments), arguments.path, device=device_of(arguments.device), **options)
    return engine if index is None else engine.use(index, arguments.index)


def _load_or_digits(arguments: Namespace) -> tuple[OracleDataset, list[str]]:
    """Return the data, and what has to be said about it: without --data the files of the default may not be there."""
    if arguments.data is not None:
        return load(arguments), []
    try:
        arguments.data = "fashion-mnist"
        return load(arguments), []
    except DataFileError as error:
        arguments.data, arguments.folder = "digits", None
        note = f"fashion-mnist was not found, so these are scikit-learn's digits, a much smaller set ({error})"
        return load(arguments), [note]


def device_of(name: str | None) -> torch.device | None:
    """Return the device called `name`; InputError where torch cannot use it."""
    if name is None:
        return None
    try:
        return torch.empty(0, device=name).device
    # torch built without CUDA says so by an assertion
    except (RuntimeError, AssertionError) as error:
        found = str(error).splitlines()[0]
        raise invalid("--device", "must name a device torch can use here", f"{name!r} ({found})", "use cpu") from error


def _queries(arguments: Namespace) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the queries x, their times as float64 [B], and the labels they are to be given."""
    if Path(arguments.input).resolve() == Path(arguments.output).resolve():
        raise invalid("OUT", "must be another file than IN", arguments.output, "name another file")
    if arguments.batch < 1:
        raise invalid("--batch", "must be at least 1", arguments.batch, "leave it out for 256")
    queries = read_queries(Path(arguments.input), arguments.key, arguments.t_key, arguments.labels or "labels")
    labels = None if arguments.no_labels else _labels(queries, arguments)
    return queries.x, _times(queries, arguments), labels


def _times(queries: QueryFile, arguments: Namespace) -> Tensor:
    count = len(queries.x)
    if arguments.t is not None:
        return torch.full((count,), arguments.t, dtype=torch.float64)
    if queries.t is None:
        found = f"no tensor {arguments.t_key!r} in {arguments.input}"
        raise invalid("--t", "is needed where the file holds no times", found, "pass --t 0.5, or store the times")
    if queries.t.numel() not in (1, count):
        shape = list(queries.t.shape)
        raise invalid("t", f"must hold one time, or one for each of {count} queries", shape, "check the file")
    return queries.t.double().reshape(-1).expand(count)


def _labels(queries: QueryFile, arguments: Namespace) -> Tensor | None:
    if arguments.labels is not None and queries.labels is None:
        found = f"no tensor {arguments.labels!r} in {arguments.input}"
        raise invalid("--labels", "must name a tensor of the file", found, "check the name")
    if queries.labels is not None and queries.labels.shape[:1] != queries.x.shape[:1]:
        wanted = f"must hold a label for each of {len(queries.x)} queries"
        raise invalid("labels", wanted, list(queries.labels.shape), "check the file, or pass --no-labels")
    return queries.labels


def _check_times(engine: OracleEngine, times: Tensor) -> None:
    # the engine refuses these too, but only when it comes to them
    at = coefficients(engine.path, resolve_times(times, len(times), engine.t_max, times.device))
    if not bool((at.sigma_t > 0).all()):
        remedy = "clamp with --t-max 0.999, or leave these queries out"
        raise invalid("t", "must leave some noise: sigma(t) > 0", f"t = {float(times.max())}", remedy)


def _answer(engine: OracleEngine, what: str, x: Tensor, times: Tensor, labels: Tensor | None) -> Tensor:
    device = engine.data.device
    chosen = None if labels is None else labels.to(device)
    values: Tensor = getattr(engine, what)(x.to(device), times.to(device), labels=chosen)
    return values
