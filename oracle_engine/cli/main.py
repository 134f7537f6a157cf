"""The command line: `oracle-engine`, or `python -m oracle_engine`.

Exit status: 0 done, 1 unexpected error (with its traceback), 2 wrong arguments or input, 130 interrupted.
Neither this module nor the parser imports torch; a command imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from ..base.errors import OracleError
from ..base.settings import __version__
from .index import add_index
from .info import add_info
from .plan import add_plan
from .sample import add_sample
from .stages import add_stages
from .train_demo import add_train_demo
from .velocity import add_velocity

INPUT_ERRORS = (OracleError, FileNotFoundError, IsADirectoryError, NotADirectoryError, FileExistsError, PermissionError)

# in the order in which --help lists them
COMMANDS = (add_stages, add_velocity, add_sample, add_plan, add_index, add_train_demo, add_info)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 2 or 130, as the module says.

    argv: the arguments without the name of the program; None takes those of the process.

    Raises SystemExit where argparse ends the process itself, for --help, --version and arguments that it cannot parse,
    and whatever unexpected error the command raises.
    """
    try:
        arguments = build_parser().parse_args(argv)
        arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # the reader of the output has closed it, as `head` does; nothing may be left to be flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except INPUT_ERRORS as error:
        print(f"oracle-engine: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("oracle-engine: interrupted", file=sys.stderr)
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; the function that runs a command is its default `run`."""
    parser = argparse.ArgumentParser(
        prog="oracle-engine", description="Exact oracle velocities of flow matching over a finite data set."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    return parser
