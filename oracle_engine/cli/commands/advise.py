"""`oracle-engine advise`: what a data set asks of training and sampling, one screen with a reason for each number."""

from __future__ import annotations

from argparse import Namespace

from ..options import Commands, add_command, add_data, refuse_key, whole


def add_advise(commands: Commands) -> None:
    """Add the command to `commands`."""
    summary = "timestep shift, guidance interval, references and cost for a data set, with the reasons"
    parser = add_command(commands, "advise", summary, run_advise)
    add_data(parser, default="patches")
    parser.add_argument("--queries", type=whole, default=256, help="training queries at every time (256)")
    parser.add_argument("--batch", type=whole, default=256, help="queries of a training step (256)")
    parser.add_argument(
        "--variance", type=float, default=0.1, metavar="V", help="wished variance of EFM, as a part of CFM's (0.1)"
    )
    parser.add_argument("--per-class", action="store_true", help="compare each query with its own class alone")
    refuse_key(parser)


def run_advise(arguments: Namespace) -> None:
    """Analyse the data and print every choice with its reason."""
    from ...base.progress import progress_bar
    from ...engine.engine import OracleEngine
    from ...science.advice import advise
    from ..shared import check_memory, load, placed, say
    from .stages import QUERY_BYTES

    check_memory("--queries", arguments.queries, QUERY_BYTES)
    with progress_bar(f"advice for {arguments.data}") as progress:
        place = placed(arguments)
        engine = OracleEngine(load(arguments), arguments.path, **place)
        check_memory("--batch", arguments.batch, 16 * engine.data.dim)
        report = advise(
            engine,
            batch=arguments.batch,
            variance=arguments.variance,
            queries=arguments.queries,
            seed=arguments.seed,
            per_class=arguments.per_class,
            progress=progress,
        )
    say(arguments, report.format_table(), report.to_json())
