"""`oracle-engine stages`: the two stages of a data set as a table, stages.json and a figure."""

from __future__ import annotations

import time
from argparse import Namespace

from ..options import Commands, add_command, add_data, add_figure, add_layout, class_option, refuse_key, whole

# what a training query needs: ten statistics at about 24 times
QUERY_BYTES = 2000


def add_stages(commands: Commands) -> None:
    """Add the command to `commands`."""
    summary = "when many samples share the posterior and when one has it: a table, stages.json and stages.png"
    parser = add_command(commands, "stages", summary, run_stages)
    add_data(parser, default="patches")
    parser.add_argument("--queries", type=whole, default=256, help="training queries at every time (256)")
    parser.add_argument("--times", type=float, nargs="+", help="instead of about 24 where the posterior narrows")
    parser.add_argument("--per-class", action="store_true", help="compare each query with its own class alone")
    parser.add_argument(
        "--labels", type=class_option, nargs="+", metavar="Y", help="only these classes count, by number or name"
    )
    parser.add_argument(
        "--held-out", metavar="FILE", help="queries of the samples in this file instead of training ones"
    )
    parser.add_argument(
        "--precision", type=float, metavar="E", help="add queries until the transition is known to +- E"
    )
    add_layout(parser)
    add_figure(parser, "stages.json and stages.png", "stages.png")
    refuse_key(parser)


def run_stages(arguments: Namespace) -> None:
    """Analyse the two stages; print the table, write stages.json and the figure."""
    from ...base.progress import progress_bar
    from ...science.plot_style import save_figure
    from ...science.stages.analysis import analyse
    from ..class_names import class_numbers
    from ..held_out import held_out_of
    from ..shared import check_memory, check_report, load, placed, say, write_report
    from ..torchrun import engine_of_process

    check_report(arguments, "stages")
    check_memory("--queries", arguments.queries, QUERY_BYTES)
    began = time.perf_counter()
    with progress_bar(f"stages of {arguments.data}") as progress:
        place = placed(arguments)
        engine = engine_of_process(load(arguments), arguments.path, **place)
        held_out, held_out_labels = held_out_of(arguments, engine.data)
        report = analyse(
            engine,
            times=arguments.times,
            queries=arguments.queries,
            seed=arguments.seed,
            progress=progress,
            per_class=arguments.per_class,
            labels=class_numbers(arguments.labels, engine.data),
            held_out=held_out,
            held_out_labels=held_out_labels,
            precision=arguments.precision,
        )
    figure = None if arguments.no_figure else report.figure(arguments.layout, linear=arguments.linear)
    files = write_report(
        arguments, "stages", report.to_json(), lambda path: None if figure is None else save_figure(figure, path)
    )
    took = f"{' and '.join(files)} written; {time.perf_counter() - began:.1f} s"
    say(arguments, f"{report.format_table()}\n\n{took}", report.to_json() | {"files": files})
