"""`oracle-engine job`: answers to more queries than one process should compute, in units that are done once."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..options import Commands, Parser, add_command, add_data, whole
from .velocity import WHAT, add_queries


def add_job(commands: Commands) -> None:
    """Add the command, with its actions `run`, which need not be named, `status` and `finish`, to `commands`."""
    summary = "the oracle at very many queries: goes on where it was killed, with any number of processes"
    group = commands.add_parser(
        "job", help=summary, description=f"{summary}; `job IN OUT.d` is `job run IN OUT.d`", allow_abbrev=False
    )
    actions = group.add_subparsers(required=True, metavar="ACTION")
    if isinstance(group, Parser):
        group.actions = ("run", "status", "finish")
    _add_run(actions)
    _add_other(add_command(actions, "status", "how far a job is, and how long it will take", run_status))
    _add_other(add_command(actions, "finish", "write the file of all answers, where all are there", run_finish))


def _add_other(action: ArgumentParser) -> None:
    action.add_argument("job", metavar="OUT.d", help="the folder of the job")
    action.set_defaults(command="job")


def _add_run(actions: Commands) -> None:
    """Add `job run` and its options."""
    run = add_command(actions, "run", "begin a job, or go on with it, and finish it", run_job)
    run.set_defaults(command="job")
    run.add_argument("input", metavar="IN", help="queries: .npy, .safetensors (mapped) or .npz (read whole)")
    run.add_argument("job", metavar="OUT.d", help="folder of the job: of its units, and at the end of the answers")
    add_data(run, default=None)
    run.add_argument("--what", choices=WHAT, default="velocity", help="what to compute (velocity)")
    add_queries(run)
    run.add_argument("--guidance", type=float, metavar="W", help="scale of the guidance towards the labels")
    _add_units(run)


def _add_units(run: ArgumentParser) -> None:
    """Add the options that say into what units a job is cut, and who works on them."""
    run.add_argument("--batch", type=whole, default=1024, help="queries of a unit (1024)")
    run.add_argument(
        "--shards",
        type=whole,
        help="parts of the data, each a unit of every batch (as many as leave 32,768 samples to each, 16 at most)",
    )
    run.add_argument("--threads", type=whole, help="of each worker; answers depend on them in their last bits")
    run.add_argument(
        "--engine", choices=("local", "torchrun", "ray"), help="where workers run (torchrun under it, else local)"
    )
    run.add_argument("--workers", type=whole, metavar="N", help="processes, each of which opens the data (1)")


def run_job(arguments: Namespace) -> None:
    """Begin the job that the arguments describe, or go on with it, and write the file of its answers."""
    from ..job_runs import run

    run(arguments)


def run_status(arguments: Namespace) -> None:
    """Print how far the job in a folder is."""
    from ..job_runs import status

    status(arguments)


def run_finish(arguments: Namespace) -> None:
    """Write the file of all answers of a job whose units are done."""
    from ..job_runs import finish

    finish(arguments)
