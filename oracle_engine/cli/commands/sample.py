"""`oracle-engine sample`: runs of the oracle from noise to data, as a picture and as numbers."""

from __future__ import annotations

import time
from argparse import Namespace

from ...base.names import METHOD_NAMES
from ..options import Commands, add_command, add_data, add_search, class_option, refuse_key, whole


def add_sample(commands: Commands) -> None:
    """Add the command to `commands`."""
    summary = "draw with the oracle from noise: a sheet of pictures, and the samples in a file"
    parser = add_command(commands, "sample", summary, run_sample)
    add_data(parser, default="patches")
    add_search(parser)
    parser.add_argument("--draw", type=whole, default=64, metavar="K", help="how many samples to draw (64)")
    parser.add_argument("--steps", type=whole, default=50, help="steps from noise to data (50)")
    parser.add_argument("--method", choices=METHOD_NAMES, default="euler", help="(euler)")
    parser.add_argument("--shift", type=float, default=1.0, help="of the times; below 1 gathers steps in the noise (1)")
    parser.add_argument(
        "--labels", type=class_option, nargs="+", metavar="Y", help="classes by number or name, in turn; -1 for any"
    )
    parser.add_argument("--guidance", type=float, metavar="W", help="guidance scale; needs --labels")
    parser.add_argument("--out", default="samples.png", metavar="FILE", help=".png, .pdf or .svg (samples.png)")
    parser.add_argument("--save", metavar="FILE", help="also the numbers: .npy, .npz or .safetensors")
    parser.add_argument("--no-figure", action="store_true", help="write no picture; needs no matplotlib")
    refuse_key(parser)


def run_sample(arguments: Namespace) -> None:
    """Draw samples with the oracle, write a picture and, where asked, the numbers, and print where the runs ended."""
    from ..oracle_runs import check_arguments, chosen_labels, draw_run, land, run_facts, write_run
    from ..shared import say

    check_arguments(arguments)
    began = time.perf_counter()
    engine, run = draw_run(arguments)
    landing = land(engine, run)
    files = write_run(arguments, engine, run)
    elapsed = time.perf_counter() - began
    facts = run_facts(engine, run, landing)
    facts |= {"seed": arguments.seed, "labels": chosen_labels(arguments, engine.data), "guidance": arguments.guidance}
    facts |= {"files": files, "elapsed": elapsed}
    say(arguments, f"{landing.describe()}\n{' and '.join(files) or 'nothing'} written; {elapsed:.1f} s", facts)
