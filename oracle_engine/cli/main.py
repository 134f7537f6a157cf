"""The command line: `oracle-engine`, or `python -m oracle_engine`.

Exit status: 0 done, 2 arguments or input that cannot be used (one line on standard error says why), 130 interrupted.
An error of the program itself keeps its traceback, with status 1.
Neither this module nor the parser imports torch; a command imports what it needs when it runs.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from ..base.errors import DistributedError, OracleError, lacks_memory
from ..base.machine.settings import __version__
from .commands.advise import add_advise
from .commands.bench import add_bench
from .commands.copies import add_copies
from .commands.export_triton import add_export_triton
from .commands.index import add_index
from .commands.info import add_info
from .commands.job import add_job
from .commands.pack import add_pack
from .commands.paper import add_paper
from .commands.plan import add_plan
from .commands.plot import add_plot
from .commands.sample import add_sample
from .commands.serve import add_serve
from .commands.stages import add_stages
from .commands.train_demo import add_train_demo
from .commands.velocity import add_velocity
from .options import Commands, Parser
from .torchrun import one_of_many, reports
from .words import in_options

# in the order in which --help lists them
COMMANDS = (
    add_stages,
    add_plot,
    add_paper,
    add_advise,
    add_bench,
    add_velocity,
    add_job,
    add_sample,
    add_copies,
    add_plan,
    add_index,
    add_pack,
    add_serve,
    add_export_triton,
    add_train_demo,
    add_info,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 2 or 130, as the module says.

    argv: the arguments without the name of the program; None takes those of the process.

    Raises SystemExit where argparse ends the process itself, for --help, --version and arguments that it cannot parse,
    and whatever unexpected error the command raises.
    """
    place = ""
    try:
        with _plain_words():
            arguments = build_parser().parse_args(argv)
            place = arguments.command
            with one_of_many(place):
                arguments.run(arguments)
            sys.stdout.flush()
    except BrokenPipeError:
        # the reader of the output has closed it, as `head` does
        _drop_output()
    except OracleError as error:
        return _refuse(str(in_options(error, place)), everywhere=isinstance(error, DistributedError))
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        return _refuse(_about_system(error))
    except (MemoryError, RuntimeError, OverflowError) as error:
        if not (isinstance(error, OverflowError) or lacks_memory(error)):
            raise
        return _refuse("the memory of this machine is too small for these arguments. Remedy: ask for less at once.")
    except KeyboardInterrupt:
        print("oracle-engine: interrupted", file=sys.stderr)
        return 130
    return 0


def build_parser() -> Parser:
    """Return the parser of all commands; the function that runs a command is its default `run`."""
    parser = Parser(
        prog="oracle-engine", description="Exact oracle velocities of flow matching over a finite data set."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands: Commands = parser.add_subparsers(required=True, metavar="COMMAND")  # type: ignore[assignment]
    for add in COMMANDS:
        add(commands)
    return parser


@contextmanager
def _plain_words() -> Iterator[None]:
    """Show warnings as one line each, once the work is done, and names that no encoding holds with escapes."""
    seen: list[str] = []

    def show(message: Warning | str, *place: object, **more: object) -> None:
        """Keep the words of a warning in place of printing it."""
        seen.append(" ".join(str(message).split()))

    with suppress(AttributeError, ValueError):
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
    for words in seen:
        print(f"oracle-engine: warning: {words}", file=sys.stderr)


def _drop_output() -> None:
    """Send what is left of standard output nowhere, so that nothing fails when it is flushed at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse(message: str, everywhere: bool = False) -> int:
    # of several processes, which refuse the same, one says so
    if reports() or everywhere:
        print(f"oracle-engine: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _about_system(error: OSError) -> str:
    """Return what the system refused, with a remedy where the message has none."""
    if error.filename is None or error.strerror is None:
        words = str(error)
    else:
        words = f"{os.fsdecode(error.filename)}: {error.strerror}"
    return words if "Remedy: " in words else f"{words}. Remedy: check the path, its permissions and the space left."
