"""The oracle at the queries of a file: the queries as the arguments name them, and their answers block by block."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from ..base.arrays import Float64, Tensor
from ..base.errors import OracleError, bad_file, invalid
from ..base.progress import progress_bar
from ..data.checks import first_non_finite
from ..engine.engine import OracleEngine
from ..engine.point_gaussians import PointGaussians
from ..paths.paths import coefficients, resolve_times
from ..queries.stored import Queries
from .query_files import QueryFile, check_result, read_queries, result_file
from .shared import check_output, engine_of
from .words import in_options


def queries_of(arguments: Namespace) -> Queries:
    """Return the queries of the file IN, with the times and labels that the arguments choose.

    arguments: of `oracle-engine velocity` or `job`.

    Raises InputError where --batch is below 1, the file and the arguments name no times, their number does not fit the
    queries, or --labels names no tensor; and as :func:`read_queries` does.
    """
    if arguments.batch < 1:
        raise invalid("--batch", "must be at least 1", arguments.batch, "leave it out")
    file = read_queries(
        Path(arguments.input), arguments.key, t_key=arguments.t_key, labels_key=arguments.labels or "labels"
    )
    return Queries(file.x, _times(file, arguments), None if arguments.no_labels else _labels(file, arguments))


def write_answers(arguments: Namespace, queries: Queries) -> dict[str, Any]:
    """Return what was computed, as plain values, after the answers to `queries` are written to the file OUT.

    arguments: of `oracle-engine velocity`. The file is there whole or not at all; memory is that of one block.

    Raises InputError where OUT cannot hold the answers or a time leaves no noise, and as :func:`engine_of` and the
    engine do.
    """
    target, what = Path(arguments.output), arguments.what
    alone = what == "log_density"
    shape, dtype = list(queries.x.shape[:1] if alone else queries.x.shape), torch.float64 if alone else queries.x.dtype
    check_result("OUT", target, dtype)
    check_output(arguments, "OUT", target)
    with progress_bar(f"{what} of {Path(arguments.input).name}") as progress:
        engine = _oracle_of(arguments)
        if isinstance(engine, OracleEngine):
            check_query_times(engine, queries.t)
        with result_file(target, what, shape, dtype) as write:
            done = 0
            for block in queries.blocks(arguments.batch):
                check_finite(arguments.input, block, done)
                write(_answer(engine, what, block))
                done += len(block.x)
                progress(done, len(queries.x))
    return {
        "what": what,
        "in": str(Path(arguments.input)),
        "out": str(target),
        "shape": shape,
        "dtype": str(dtype).removeprefix("torch."),
        "data": repr(engine.data if isinstance(engine, OracleEngine) else engine),
        "path": repr(engine.path),
        "index": arguments.index,
        "tolerance": arguments.tolerance,
        "conditional": queries.labels is not None,
    }


def _oracle_of(arguments: Namespace) -> OracleEngine | PointGaussians:
    """Return the engine over --data or, with --gaussians, the oracle of the Gaussians that it holds.

    Raises InputError for an option that Gaussians have not, DataFileError for other data.
    """
    if not arguments.gaussians:
        return engine_of(arguments, t_max=arguments.t_max, tolerance=arguments.tolerance)
    for name in ("index", "t_max", "data_key", "folder", "range", "count", "size", "gray", "labels_file", "device"):
        if getattr(arguments, name) not in (None, False):
            option = f"--{name.replace('_', '-')}"
            raise invalid(option, "has no meaning with --gaussians", getattr(arguments, name), "leave it out")
    try:
        return PointGaussians.from_files(arguments.data, None, path=arguments.path)
    except OracleError as error:
        raise in_options(error, "--data") from error


def _times(file: QueryFile, arguments: Namespace) -> Float64[Tensor, "B"]:
    """Return the time of each query, from --t or from the file."""
    count = len(file.x)
    if arguments.t is not None:
        return torch.full((count,), arguments.t, dtype=torch.float64)
    if file.t is None:
        found = f"no tensor {arguments.t_key!r} in {arguments.input}"
        raise invalid("--t", "is needed where the file holds no times", found, "pass --t 0.5, or store the times")
    if file.t.numel() not in (1, count):
        shape = list(file.t.shape)
        raise invalid("t", f"must hold one time, or one for each of {count} queries", shape, "check the file")
    return file.t.double().reshape(-1).expand(count)


def _labels(file: QueryFile, arguments: Namespace) -> Tensor | None:
    """Return the classes of the queries, or None where the file has none."""
    if arguments.labels is not None and file.labels is None:
        found = f"no tensor {arguments.labels!r} in {arguments.input}"
        raise invalid("--labels", "must name a tensor of the file", found, "check the name")
    if file.labels is not None and file.labels.shape[:1] != file.x.shape[:1]:
        wanted = f"must hold a label for each of {len(file.x)} queries"
        raise invalid("labels", wanted, list(file.labels.shape), "check the file, or pass --no-labels")
    return file.labels


def check_query_times(engine: OracleEngine, times: Float64[Tensor, "B"]) -> None:
    """Raise InputError where one of the times of all queries leaves no noise, before the first block is answered."""
    at = coefficients(engine.path, resolve_times(times, len(times), engine.t_max, times.device))
    if not bool((at.sigma_t > 0).all()):
        remedy = "clamp with --t-max 0.999, or leave these queries out"
        raise invalid("t", "must leave some noise: sigma(t) > 0", f"t = {float(times.max())}", remedy)


def check_finite(source: str, block: Queries, done: int) -> None:
    """Refuse a block with a query that is not finite, by its row in the file; `done` rows of it came before.

    source: the file. Raises DataFileError.
    """
    row = first_non_finite(block.x)
    if row is not None:
        found = f"a NaN or an infinity in row {done + row}"
        raise bad_file(source, "finite queries", found, "look at the model or sampler that made it")


def _answer(engine: OracleEngine | PointGaussians, what: str, block: Queries) -> Tensor:
    device = engine.data.device if isinstance(engine, OracleEngine) else torch.device("cpu")
    labels = None if block.labels is None else block.labels.to(device)
    values: Tensor = getattr(engine, what)(block.x.to(device), block.t.to(device), labels=labels)
    return values
