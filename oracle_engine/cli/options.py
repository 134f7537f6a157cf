"""Options that several commands share; this module imports no torch, so that --help is quick."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from ..base.errors import invalid
from ..base.names import BUILTIN_NAMES, PATH_NAMES

# quoted: the class takes no parameters when the program runs
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(
    commands: Commands, name: str, summary: str, run: Callable[[argparse.Namespace], None]
) -> argparse.ArgumentParser:
    """Add a command with the option --json, and return its parser.

    commands: what it is added to, from `add_subparsers`. name: as typed. summary: for both help texts, without a full
    stop. run: the function that runs the command, called with the parsed arguments.
    """
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.set_defaults(run=run)
    return parser


def add_source(
    parser: argparse.ArgumentParser, default: str | None, *, note: str = "", required: bool | None = None
) -> None:
    """Add the options that name a data set: --data, --data-key, --folder, --count, --seed and --device.

    parser: of the command. default: of --data. note: added to the help text of --data.
    required: whether --data has to be given; None requires it where there is no default.
    """
    known = f"a built-in set ({', '.join(BUILTIN_NAMES)}) or the path of a file or folder"
    needed = default is None if required is None else required
    parser.add_argument("--data", default=default, required=needed, help=f"{known}{note}")
    parser.add_argument(
        "--data-key", metavar="KEY", help="which array of an .npz or .safetensors file holds the samples"
    )
    parser.add_argument("--folder", help="where the files of a built-in set are")
    parser.add_argument("--count", type=int, metavar="N", help="use N samples only")
    parser.add_argument("--seed", type=int, default=0, help="of the samples drawn and of the queries (0)")
    parser.add_argument("--device", help="where to compute, such as cuda (cpu)")


def add_data(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Add the options of :func:`add_source` and --path.

    parser: of the command. default: of --data, named in its help text; None requires --data.
    """
    add_source(parser, default, note="" if default is None else f"; {default} unless given")
    parser.add_argument("--path", choices=PATH_NAMES, default="rectified_flow", help="(rectified_flow)")


def add_search(parser: argparse.ArgumentParser) -> None:
    """Add --index, the file of an index for late times."""
    parser.add_argument("--index", metavar="FILE", help="what `index build` wrote for these data: late times go faster")


def add_figure(parser: argparse.ArgumentParser, names: str, figure: str) -> None:
    """Add --out, a folder, and --no-figure.

    parser: of the command. names: the files it writes, for the help text. figure: the one that --no-figure leaves out.
    """
    parser.add_argument("--out", default=".", metavar="DIR", help=f"where to write {names} (.)")
    parser.add_argument("--no-figure", action="store_true", help=f"write no {figure}; needs no matplotlib")


def refuse_key(parser: argparse.ArgumentParser) -> None:
    """Refuse --key, which only `velocity` has, with an error that names --data-key."""
    parser.add_argument("--key", action=_RefusedKey, help=argparse.SUPPRESS)


class _RefusedKey(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        requirement = "is an option of `oracle-engine velocity` only, for the array of the queries"
        raise invalid("--key", requirement, values, f"name the array of the samples by --data-key {values}")
