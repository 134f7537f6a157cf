"""`oracle-engine plan`: what a batch of queries would do and cost, over data at hand or over sizes alone."""

from __future__ import annotations

from argparse import ArgumentTypeError, Namespace
from dataclasses import asdict

from ..options import Commands, add_command, add_data, add_search, refuse_key, whole

# options that only mean something together with --samples
SIZES = ("dim", "storage", "ranks", "card", "queries")


def add_plan(commands: Commands) -> None:
    """Add the command to `commands`."""
    parser = add_command(commands, "plan", "what a batch of queries would do and cost", run_plan)
    add_data(parser, default="patches")
    add_search(parser)
    parser.add_argument("--batch", type=whole, default=256, help="queries asked at once (256)")
    sizes = parser.add_argument_group("sizes in place of data, such as --samples 1e10 --dim 4096 --ranks 1000")
    sizes.add_argument("--samples", type=count, metavar="N", help="plan for N samples that need not exist")
    sizes.add_argument("--dim", type=count, metavar="D", help="values of a sample")
    sizes.add_argument("--storage", metavar="DTYPE", help="of the samples (float16)")
    sizes.add_argument("--ranks", type=count, metavar="S", help="processes that hold a share each (1)")
    sizes.add_argument("--card", metavar="NAME", help="of a rank: a100, h100, h200, b200, l40s, mi300x, cpu (h100)")
    sizes.add_argument("--queries", type=count, metavar="Q", help="asked in all: hours and card hours")
    refuse_key(parser)


def count(text: str) -> int:
    """Return a whole number written in digits, or as 1e10. Raises ArgumentTypeError for other texts."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        number = 0.5
    if not number.is_integer() or abs(number) > 1e18:
        raise ArgumentTypeError(f"must be a whole number such as 50000 or 1e10, not {text!r}")
    return int(number)


def run_plan(arguments: Namespace) -> None:
    """Print the plan of the engine that `arguments` describe, or that of the sizes they name."""
    from ...base.errors import invalid

    if arguments.samples is not None:
        return run_sizes(arguments)
    for name in SIZES:
        if getattr(arguments, name) is not None:
            remedy = "pass --samples and --dim, or leave it out to plan for --data"
            raise invalid(f"--{name}", "means something together with --samples only", getattr(arguments, name), remedy)
    return run_data(arguments)


def run_data(arguments: Namespace) -> None:
    """Print the plan of the engine over the data that `arguments` name."""
    from ..shared import check_memory, engine_of, say

    engine = engine_of(arguments)
    # a batch in float64, and its answer
    check_memory("--batch", arguments.batch, 16 * engine.data.dim)
    plan = engine.plan(arguments.batch)
    say(arguments, str(plan), asdict(plan))


def run_sizes(arguments: Namespace) -> None:
    """Print what data of the sizes in `arguments` would need; no data are read."""
    from ...base.errors import InputError, invalid
    from ...engine.plans.cards import card_named
    from ...engine.plans.scale_plan import ScaleProblem, plan_scale
    from ..shared import say
    from ..words import in_options

    if arguments.dim is None:
        raise invalid("--dim", "must be given with --samples", "none", "pass --dim 4096, the values of a sample")
    try:
        sizes = (arguments.samples, arguments.dim, arguments.storage or "float16", arguments.batch, arguments.queries)
        problem, card = ScaleProblem(*sizes), card_named(arguments.card or "h100")
        plan = plan_scale(problem, card, 1 if arguments.ranks is None else arguments.ranks)
    except InputError as error:
        raise in_options(error, "plan") from error
    say(arguments, str(plan), plan.facts())
