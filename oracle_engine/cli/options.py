"""Options that several commands share; this module imports no torch, so that --help is quick."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TypeAlias

from ..base.errors import invalid
from ..base.names import BUILTIN_NAMES, PATH_NAMES

# quoted: the class takes no parameters when the program runs
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and in which the value of --range may begin with a minus.

    actions: of a command with actions of which the first one is meant where none is named; empty for others.
    """

    actions: Sequence[str] = ()

    def error(self, message: str) -> NoReturn:
        """End the process with status 2, after one line on standard error: `message`, and where to look."""
        self.exit(2, f"oracle-engine: error: {' '.join(message.split())}. Remedy: see `{self.prog} --help`.\n")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Return the parsed and the unknown arguments, as argparse does.

        args: the arguments, None for those of the process. namespace: to which they are added, None for an empty one.
        """
        given = None if args is None else self._with_action(_joined(args))
        found, unknown = super().parse_known_args(given, namespace)
        if unknown and " " in self.prog:
            # by the command, whose --help has those that it takes
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def _with_action(self, arguments: list[str]) -> list[str]:
        named = not arguments or arguments[0] in ("-h", "--help", *self.actions)
        return arguments if named or not self.actions else [self.actions[0], *arguments]


def _joined(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the value of --range joined to it: argparse takes -1,1 alone for an option."""
    found = list(arguments)
    for place in range(len(found) - 1, 0, -1):
        if found[place - 1] == "--range" and not found[place].startswith("--"):
            found[place - 1 : place + 1] = [f"--range={found[place]}"]
    return found


def whole(text: str) -> int:
    """Return a whole number of at most 64 bits with its sign, written in decimal digits.

    Raises ArgumentTypeError, of which argparse makes its error, for other texts.
    """
    try:
        number = int(text)
    except ValueError:
        number = 2**63
    if not -(2**63) <= number < 2**63:
        raise argparse.ArgumentTypeError(f"must be a whole number of at most 64 bits, not {text!r}")
    return number


def class_option(text: str) -> int | str:
    """Return a class as --labels takes it: a number where the text is one, else a name."""
    with suppress(argparse.ArgumentTypeError):
        return whole(text)
    return text


def two_numbers(text: str) -> tuple[float, float]:
    """Return LOW and HIGH of a text "LOW,HIGH", finite, the lower one first.

    Raises ArgumentTypeError, of which argparse makes its error, for other texts.
    """
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = math.nan
    if not (low < high and math.isfinite(high - low)):
        raise argparse.ArgumentTypeError(f"must be two numbers LOW,HIGH such as -1,1, not {text!r}")
    return low, high


def sides(text: str) -> int | tuple[int, int]:
    """Return the side of a square written "64", or height and width of a text "48x64".

    Raises ArgumentTypeError, of which argparse makes its error, for other texts.
    """
    try:
        found = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        found = ()
    if len(found) not in (1, 2) or min(found) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, or HEIGHTxWIDTH, not {text!r}")
    return found[0] if len(found) == 1 else (found[0], found[1])


def add_command(
    commands: Commands, name: str, summary: str, run: Callable[[argparse.Namespace], None]
) -> argparse.ArgumentParser:
    """Add a command with the option --json, and return its parser.

    commands: what it is added to, from `add_subparsers`. name: as typed. summary: for both help texts, without a full
    stop. run: the function that runs the command, called with the parsed arguments.
    """
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.set_defaults(run=run, command=name)
    return parser


def add_source(
    parser: argparse.ArgumentParser, default: str | None, *, note: str = "", required: bool | None = None
) -> None:
    """Add the options that name a data set: --data, --data-key, --folder, --range, --count, --seed and --device.

    In a group of their own: --size, --gray and --labels-file, which say how pictures and labels are read.

    parser: of the command. default: of --data. note: added to the help text of --data.
    required: whether --data has to be given; None requires it where there is no default.
    """
    known = f"a built-in set ({', '.join(BUILTIN_NAMES)}) or the path of a file, or of a folder of pictures or shards"
    needed = default is None if required is None else required
    parser.add_argument("--data", default=default, required=needed, help=f"{known}{note}")
    parser.add_argument(
        "--data-key", metavar="KEY", help="which array of an .npz, .safetensors, .h5 or .parquet file holds the samples"
    )
    parser.add_argument("--folder", help="where the files of a built-in set are")
    parser.add_argument(
        "--range",
        type=two_numbers,
        metavar="LOW,HIGH",
        help="values that the ends of the stored range get; uint8: -1,1",
    )
    parser.add_argument("--count", type=whole, metavar="N", help="use N samples only")
    parser.add_argument("--seed", type=whole, default=0, help="of the samples drawn and of the queries (0)")
    parser.add_argument("--device", help="where to compute, such as cuda (cpu)")
    pictures = parser.add_argument_group("pictures and labels of --data")
    pictures.add_argument(
        "--size", type=sides, metavar="N", help="crop pictures about their centre and scale them to N x N, or HxW"
    )
    pictures.add_argument("--gray", action="store_true", help="one channel for pictures in colour")
    pictures.add_argument(
        "--labels-file",
        metavar="FILE",
        help="labels by sample or by name of a picture: .npy, .txt, .csv, .json",
    )


def add_data(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Add the options of :func:`add_source` and :func:`add_place`, and --path.

    parser: of the command. default: of --data, named in its help text; None requires --data.
    """
    add_source(parser, default, note="" if default is None else f"; {default} unless given")
    add_place(parser)
    parser.add_argument("--path", choices=PATH_NAMES, default="rectified_flow", help="(rectified_flow)")


def add_place(parser: argparse.ArgumentParser) -> None:
    """Add --resident and --memory, which say where samples are while they are scanned."""
    parser.add_argument(
        "--resident",
        choices=("auto", "all", "stream"),
        default="auto",
        help="all samples on the device, or streamed from files or the host; auto streams what does not fit (auto)",
    )
    parser.add_argument("--memory", metavar="SIZE", help="of the device that samples may take, such as 8GiB")


def add_search(parser: argparse.ArgumentParser) -> None:
    """Add --index, the file of an index for late times."""
    parser.add_argument("--index", metavar="FILE", help="what `index build` wrote for these data: late times go faster")


def add_figure(parser: argparse.ArgumentParser, names: str, figure: str) -> None:
    """Add --out, a folder, and --no-figure.

    parser: of the command. names: the files it writes, for the help text. figure: the one that --no-figure leaves out.
    """
    parser.add_argument("--out", default=".", metavar="DIR", help=f"where to write {names} (.)")
    parser.add_argument("--no-figure", action="store_true", help=f"write no {figure}; needs no matplotlib")


def add_layout(parser: argparse.ArgumentParser) -> None:
    """Add --layout, --linear and --format, which choose the figure."""
    parser.add_argument(
        "--layout",
        choices=("poster", "paper"),
        default="poster",
        help="poster, or paper: three curves over two columns",
    )
    parser.add_argument("--linear", action="store_true", help="t on a linear axis, as published, instead of logit(t)")
    parser.add_argument("--format", choices=("png", "pdf", "svg"), default="png", help="of the figure (png)")


def refuse_key(parser: argparse.ArgumentParser) -> None:
    """Refuse --key, which only `velocity` has, with an error that names --data-key."""
    parser.add_argument("--key", action=_RefusedKey, help=argparse.SUPPRESS)


class _RefusedKey(argparse.Action):
    """Refuses --key and names --data-key, which is meant by it."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        requirement = "is an option of `oracle-engine velocity` only, for the array of the queries"
        raise invalid("--key", requirement, values, f"name the array of the samples by --data-key {values}")
