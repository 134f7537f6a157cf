"""`oracle-engine paper`: the figures and tables of arXiv 2512.02826 for one's own data and models."""

from __future__ import annotations

import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.errors import OracleError, invalid
from ...base.names import PATH_NAMES
from ..options import Commands, add_command, add_source, refuse_key
from ..words import in_options

if TYPE_CHECKING:
    from ...data.dataset import OracleDataset
    from ...science.paper import Inputs, PaperResult

NAMES = ("fig2", "fig3", "fig4", "fig5", "fig6", "fig7", "fig8", "table1", "table2", "table3")


def add_paper(commands: Commands) -> None:
    """Add the command to `commands`."""
    summary = "figures and tables of arXiv 2512.02826 for your data: a table, FIG.json and FIG.png each"
    parser = add_command(commands, "paper", summary, run_paper)
    parser.add_argument("name", metavar="FIG", choices=(*NAMES, "all"), help=f"{', '.join(NAMES)}, or all")
    add_source(parser, None, note="; fashion-mnist unless given, or digits where that is not found", required=False)
    parser.add_argument("--path", choices=PATH_NAMES, default="rectified_flow", help="(rectified_flow)")
    parser.add_argument("--also", nargs="+", default=[], metavar="DATA", help="further data sets in fig2")
    parser.add_argument("--per-class", action="store_true", help="fig2: compare each query with its own class alone")
    parser.add_argument("--as-published", action="store_true", help="fig3: log-weights rounded to bfloat16")
    parser.add_argument(
        "--model", nargs="+", default=[], metavar="MODEL", help=".pt or .pt2 file, or package.module:object; code runs"
    )
    parser.add_argument(
        "--convention",
        default="sit",
        metavar="NAME",
        help="how the models are called: sit, repa, diffusers, edm, ... (sit)",
    )
    parser.add_argument("--metric", metavar="OBJECT", help="tables: package.module:function of samples and data")
    parser.add_argument("--held-out", metavar="FILE", help="fig6: samples that the models did not see")
    parser.add_argument("--quick", action="store_true", help="fewer queries, runs and steps; minutes on two cores")
    parser.add_argument("--out", default=".", metavar="DIR", help="where to write the files (.)")
    parser.add_argument("--format", choices=("png", "pdf", "svg"), default="png", help="of the figures (png)")
    parser.add_argument("--no-figure", action="store_true", help="write no figures; needs no matplotlib")
    refuse_key(parser)


def run_paper(arguments: Namespace) -> None:
    """Make one figure or table, or all; print the tables, write JSON and figures."""
    from ...base.progress import progress_bars
    from ...science.paper import RECIPES
    from ..shared import say

    began = time.perf_counter()
    names = NAMES if arguments.name == "all" else (arguments.name,)
    _check(arguments, names)
    files: list[str] = []
    texts: list[str] = []
    facts: dict[str, Any] = {}
    with progress_bars() as progress:
        inputs = _inputs(arguments, progress, texts)
        for place, name in enumerate(names):
            progress("paper", place, len(names))
            skipped = _skipped(name, inputs) if arguments.name == "all" else None
            if skipped is not None:
                texts.append(f"{name}: left out, {skipped}")
                continue
            result = RECIPES[name](inputs)
            files += _write(arguments, result)
            texts.append(result.format_table())
            facts[name] = result.to_json()
    elapsed = time.perf_counter() - began
    texts.append(f"{', '.join(files)} written; {elapsed:.1f} s")
    say(arguments, "\n\n".join(texts), facts | {"files": files, "elapsed": elapsed})


def _check(arguments: Namespace, names: tuple[str, ...]) -> None:
    """Raise an error for what would fail only after the work."""
    from ...science.plot_style import require_matplotlib
    from ..shared import check_output

    if not arguments.no_figure:
        require_matplotlib()
    for name in names:
        for suffix in (".json",) if arguments.no_figure else (".json", f".{arguments.format}"):
            check_output(arguments, "--out", Path(arguments.out) / f"{name}{suffix}")
    if "fig6" in names and arguments.model and arguments.held_out is None and arguments.name != "all":
        requirement = "must be given for fig6 with models of your own"
        raise invalid("--held-out", requirement, "none", "name samples that the models did not see")


def _inputs(arguments: Namespace, progress: Any, texts: list[str]) -> Inputs:
    """Return what the figures are made from; notes about the data are added to `texts`."""
    from ...science.paper import QUICK, Effort, Inputs, energy_distance
    from ..fallback import load_or_digits
    from ..held_out import held_out_of
    from ..shared import device_named

    device = device_named(arguments.device)
    data, notes = load_or_digits(arguments)
    data = data if device is None else data.to(device)
    texts += [f"note: {note}" for note in notes]
    return Inputs(
        data,
        arguments.path,
        also=_also(arguments),
        models=_models(arguments, data),
        held_out=held_out_of(arguments, data)[0],
        metric=energy_distance if arguments.metric is None else _metric(arguments.metric),
        effort=QUICK if arguments.quick else Effort(),
        seed=arguments.seed,
        as_published=arguments.as_published,
        per_class=arguments.per_class,
        progress=progress,
    )


def _also(arguments: Namespace) -> dict[str, OracleDataset]:
    """Return the data sets of --also by their names."""
    from ...data.load import load_dataset
    from ..shared import read_alike

    found = {}
    for name in arguments.also:
        try:
            data = load_dataset(name, **read_alike(arguments), count=arguments.count)
        except OracleError as error:
            raise in_options(error, "--also") from error
        found[data.name if data.name not in found else str(name)] = data
    return found


def _models(arguments: Namespace, data: OracleDataset) -> dict[str, Any]:
    """Return the models of --model as velocities, by the names of their files."""
    from ...engine.engine import OracleEngine
    from ...science.paper import as_velocity, load_model

    if not arguments.model:
        return {}
    engine = OracleEngine(data, arguments.path)
    return {Path(name).stem: as_velocity(load_model(name), engine, arguments.convention) for name in arguments.model}


def _metric(name: str) -> Any:
    """Return the function that --metric names."""
    from ...science.paper import load_model

    try:
        return load_model(name)
    except OracleError as error:
        raise error.about("--metric", "name package.module:function") from error


def _skipped(name: str, inputs: Inputs) -> str | None:
    """Return why one of all figures cannot be made from these inputs, or None."""
    if name == "fig6" and inputs.models and inputs.held_out is None:
        return "it needs --held-out FILE beside --model"
    if name == "table3" and not inputs.data.segments:
        return "it needs data with labels"
    if name == "fig2" and inputs.per_class and not inputs.data.segments:
        return "--per-class needs data with labels"
    return None


def _write(arguments: Namespace, result: PaperResult) -> list[str]:
    """Write a result and its figure, and return the names of the files."""
    from ...base.files import replacing
    from ...science.plot_style import save_figure
    from ..shared import json_text

    path = Path(arguments.out) / f"{result.name}.json"
    with replacing(path) as partial:
        partial.write_text(json_text(result.to_json()) + "\n", "utf-8")
    figure = None if arguments.no_figure else result.figure()
    if figure is None:
        return [str(path)]
    save_figure(figure, path.with_suffix(f".{arguments.format}"))
    return [str(path), str(path.with_suffix(f".{arguments.format}"))]
