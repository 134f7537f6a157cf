"""`oracle-engine velocity`: the oracle at the queries of a file, written to another file block by block."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace

from ..options import Commands, add_command, add_data, add_search, whole

WHAT = ("velocity", "denoiser", "score", "noise", "log_density")


def add_velocity(commands: Commands) -> None:
    """Add the command to `commands`."""
    summary = "the oracle at the queries of a file, written to another, block by block"
    parser = add_command(commands, "velocity", summary, run_velocity)
    parser.add_argument(
        "input", metavar="IN", help="queries: .npy, .safetensors (mapped) or .npz (read whole); tensors x, t, labels"
    )
    parser.add_argument("output", metavar="OUT", help=".npy, .npz or .safetensors, like x; log_density is float64")
    add_data(parser, default=None)
    add_search(parser)
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, help="relative velocity error that --index may cause (1e-4)"
    )
    parser.add_argument(
        "--gaussians", action="store_true", help="of latents with mean and std in --data: all of each Gaussian counts"
    )
    parser.add_argument("--what", choices=WHAT, default="velocity", help="what to compute (velocity)")
    add_queries(parser)
    parser.add_argument("--batch", type=whole, default=256, help="queries computed and written at once (256)")


def add_queries(parser: ArgumentParser) -> None:
    """Add the options that say what is asked of the file IN: --t, --t-max and the names of its tensors."""
    parser.add_argument("--t", type=float, help="one time for all queries, instead of those in IN")
    parser.add_argument("--t-max", type=float, help="clamp later times here; without it t = 1 is refused")
    parser.add_argument("--key", help="the tensor of the queries in IN (x)")
    parser.add_argument("--t-key", default="t", help="the tensor of the times in IN (t)")
    parser.add_argument("--labels", metavar="KEY", help="the tensor of the labels in IN (labels, used where present)")
    parser.add_argument("--no-labels", action="store_true", help="ignore labels in IN")


def run_velocity(arguments: Namespace) -> None:
    """Evaluate the oracle at the queries of one file and write the results to another."""
    from ..query_answers import queries_of, write_answers
    from ..shared import say

    queries = queries_of(arguments)
    began = time.perf_counter()
    facts = write_answers(arguments, queries) | {"elapsed": time.perf_counter() - began}
    condition = "" if queries.labels is None else " given their labels"
    text = f"{facts['out']}: {arguments.what} of {len(queries.x):,} queries{condition}; {facts['elapsed']:.1f} s"
    say(arguments, text, facts)
