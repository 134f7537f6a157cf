"""`oracle-engine plan`: what a batch of queries would do and cost."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict

from .options import Commands, add_command, add_data, add_search, refuse_key, whole


def add_plan(commands: Commands) -> None:
    """Add the command to `commands`."""
    parser = add_command(commands, "plan", "what a batch of queries would do and cost", run_plan)
    add_data(parser, default="patches")
    add_search(parser)
    parser.add_argument("--batch", type=whole, default=256, help="queries asked at once (256)")
    refuse_key(parser)


def run_plan(arguments: Namespace) -> None:
    """Print the plan of the engine that `arguments` describe."""
    from .shared import check_memory, engine_of, say

    engine = engine_of(arguments)
    # a batch in float64, and its answer
    check_memory("--batch", arguments.batch, 16 * engine.data.dim)
    plan = engine.plan(arguments.batch)
    say(arguments, str(plan), asdict(plan))
