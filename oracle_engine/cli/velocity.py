"""`oracle-engine velocity`: the oracle at the queries of a file, written to another file block by block."""

from __future__ import annotations

import time
from argparse import Namespace
from pathlib import Path

import torch

from ..base.arrays import Tensor
from ..base.errors import invalid
from ..base.progress import progress_bar
from ..engine.engine import OracleEngine
from ..paths.paths import coefficients, resolve_times
from .query_files import QueryFile, check_result, read_queries, result_file
from .shared import engine_of, say


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
