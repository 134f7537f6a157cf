"""`oracle-engine stages`: the two stages of a data set as a table, stages.json and stages.png."""

from __future__ import annotations

import time
from argparse import Namespace

from .options import Commands, add_command, add_data, add_figure, refuse_key, whole

# what a training query needs: five statistics at about 24 times
QUERY_BYTES = 1000


def add_stages(commands: Commands) -> None:
    """Add the command to `commands`."""
    summary = "when many samples share the posterior and when one has it: a table, stages.json and stages.png"
    parser = add_command(commands, "stages", summary, run_stages)
    add_data(parser, default="patches")
    parser.add_argument("--queries", type=whole, default=256, help="training queries at every time (256)")
    parser.add_argument("--times", type=float, nargs="+", help="instead of about 24 around the expected transition")
    add_figure(parser, "stages.json and stages.png", "stages.png")
    refuse_key(parser)


def run_stages(arguments: Namespace) -> None:
    """Analyse the two stages; print the table, write stages.json and stages.png."""
    from ..base.progress import progress_bar
    from ..engine.engine import OracleEngine
    from ..science.stage_plots import stages_figure
    from ..science.stages import analyse
    from .shared import check_memory, check_report, load_there, say, write_report

    check_report(arguments, "stages")
    check_memory("--queries", arguments.queries, QUERY_BYTES)
    began = time.perf_counter()
    with progress_bar(f"stages of {arguments.data}") as progress:
        engine = OracleEngine(load_there(arguments), arguments.path)
        options = {"times": arguments.times, "queries": arguments.queries, "seed": arguments.seed}
        report = analyse(engine, **options, progress=progress)
    files = write_report(arguments, "stages", report.to_json(), lambda path: stages_figure(report, path))
    took = f"{' and '.join(files)} written; {time.perf_counter() - began:.1f} s"
    say(arguments, f"{report.format_table()}\n\n{took}", report.to_json() | {"files": files})
