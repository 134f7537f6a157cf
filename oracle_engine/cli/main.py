"""The command line: `oracle-engine`, or `python -m oracle_engine`.

Exit status: 0 done, 1 unexpected error (with its traceback), 2 wrong arguments or input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from ..base.errors import OracleError
from ..base.settings import __version__
from ..data.builtin import BUILTINS
from ..paths.paths import PATHS
from ..samplers.runs import METHODS
from ..science.train_demo import TrainSettings
from .index import run_index_build, run_index_info
from .info import run_info
from .plan import run_plan
from .sample import run_sample
from .stages import run_stages
from .train_demo import run_train_demo
from .velocity import run_velocity

INPUT_ERRORS = (OracleError, FileNotFoundError, IsADirectoryError, NotADirectoryError, FileExistsError, PermissionError)

WHAT = ("velocity", "denoiser", "score", "noise", "log_density")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; argparse ends the process itself for --help and wrong arguments."""
    arguments = build_parser().parse_args(argv)
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # whoever read the output has seen enough, as `head` has; nothing is left to be flushed at exit
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
    _add_stages(commands)
    _add_velocity(commands)
    _add_sample(commands)
    _add_plan(commands)
    _add_index(commands)
    _add_train_demo(commands)
    _add_command(commands, "info", "what is installed and what this machine can do, for bug reports", run_info)
    return parser


def _add_stages(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    summary = "when many samples share the posterior and when one has it: a table, stages.json and stages.png"
    parser = _add_command(commands, "stages", summary, run_stages)
    _add_data(parser, default="patches")
    parser.add_argument("--key", dest="data_key", help="which array of an .npz or .safetensors file holds the data")
    parser.add_argument("--queries", type=int, default=256, help="training queries at every time (256)")
    parser.add_argument("--times", type=float, nargs="+", help="instead of about 24 around the expected transition")
    parser.add_argument("--out", default=".", metavar="DIR", help="where to write stages.json and stages.png (.)")
    parser.add_argument("--no-figure", action="store_true", help="write no stages.png; needs no matplotlib")


def _add_velocity(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    summary = "the oracle at the queries of a file, written to another, block by block"
    parser = _add_command(commands, "velocity", summary, run_velocity)
    parser.add_argument(
        "input", metavar="IN", help="queries: .npy, .safetensors (mapped) or .npz (read whole); tensors x, t, labels"
    )
    parser.add_argument("output", metavar="OUT", help=".npy, .npz or .safetensors, like x; log_density is float64")
    _add_data(parser, default=None)
    parser.add_argument("--data-key", help="which array of an .npz or .safetensors file holds the data")
    _add_search(parser)
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, help="relative velocity error that --index may cause (1e-4)"
    )
    parser.add_argument("--what", choices=WHAT, default="velocity", help="what to compute (velocity)")
    parser.add_argument("--t", type=float, help="one time for all queries, instead of those in IN")
    parser.add_argument("--t-max", type=float, help="clamp later times here; without it t = 1 is refused")
    parser.add_argument("--key", help="the tensor of the queries in IN (x)")
    parser.add_argument("--t-key", default="t", help="the tensor of the times in IN (t)")
    parser.add_argument("--labels", metavar="KEY", help="the tensor of the labels in IN (labels, used where present)")
    parser.add_argument("--no-labels", action="store_true", help="ignore labels in IN")
    parser.add_argument("--batch", type=int, default=256, help="queries computed and written at once (256)")


def _add_sample(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    summary = "draw with the oracle from noise: a sheet of pictures, and the samples in a file"
    parser = _add_command(commands, "sample", summary, run_sample)
    _add_data(parser, default="patches")
    parser.add_argument("--key", dest="data_key", help="which array of an .npz or .safetensors file holds the data")
    _add_search(parser)
    parser.add_argument("--draw", type=int, default=64, metavar="K", help="how many samples to draw (64)")
    parser.add_argument("--steps", type=int, default=50, help="steps from noise to data (50)")
    parser.add_argument("--method", choices=tuple(METHODS), default="euler", help="(euler)")
    parser.add_argument("--shift", type=float, default=1.0, help="of the times; below 1 gathers steps in the noise (1)")
    parser.add_argument("--labels", type=int, nargs="+", metavar="Y", help="classes, taken in turn; -1 for any")
    parser.add_argument("--guidance", type=float, metavar="W", help="guidance scale; needs --labels")
    parser.add_argument("--out", default="samples.png", metavar="FILE", help=".png, .pdf or .svg (samples.png)")
    parser.add_argument("--save", metavar="FILE", help="also the numbers: .npy, .npz or .safetensors")
    parser.add_argument("--no-figure", action="store_true", help="write no picture; needs no matplotlib")


def _add_plan(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add_command(commands, "plan", "what a batch of queries would do and cost", run_plan)
    _add_data(parser, default="patches")
    parser.add_argument("--key", dest="data_key", help="which array of an .npz or .safetensors file holds the data")
    _add_search(parser)
    parser.add_argument("--batch", type=int, default=256, help="queries asked at once (256)")


def _add_index(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    summary = "what late queries search with: build it once, or look at one"
    group = commands.add_parser("index", help=summary, description=summary, allow_abbrev=False)
    actions = group.add_subparsers(required=True, metavar="ACTION")
    build = _add_command(actions, "build", "build the index of a data set and write it to a file", run_index_build)
    _add_source(build, default=None, note="")
    build.add_argument("--key", dest="data_key", help="which array of an .npz or .safetensors file holds the data")
    build.add_argument(
        "--index",
        metavar="KIND",
        help="screen, the kind that saves most, if any; pca, int8 or exact8 by name; flat, pca searched by FAISS; or a "
        "FAISS factory string, not certified (screen)",
    )
    build.add_argument("--append", metavar="OLD", help="extend this index, of the first of the samples, by the others")
    build.add_argument(
        "--no-neighbours", action="store_true", help="leave out distances to nearest samples: sooner built"
    )
    build.add_argument("--out", required=True, metavar="FILE", help="where to write the index")
    build.add_argument("--overwrite", action="store_true", help="replace FILE where it exists")
    info = _add_command(actions, "info", "what an index file holds, and whether it fits a data set", run_index_info)
    info.add_argument("file", metavar="FILE", help="what index build wrote")
    _add_source(info, default=None, note="", required=False)
    info.add_argument("--key", dest="data_key", help="which array of an .npz or .safetensors file holds the data")


def _add_train_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    summary = "a small network trained on CFM, EFM and the oracle from one seed: a table, train.json and train.png"
    parser = _add_command(commands, "train-demo", summary, run_train_demo)
    _add_source(parser, default="fashion-mnist", note="; fashion-mnist unless given, or digits where that is not found")
    parser.set_defaults(data=None)
    parser.add_argument("--key", dest="data_key", help="which array of an .npz or .safetensors file holds the data")
    held = TrainSettings()
    parser.add_argument("--steps", type=int, default=held.steps, help=f"of training ({held.steps})")
    parser.add_argument("--batch", type=int, default=held.batch, help=f"queries of a step ({held.batch})")
    parser.add_argument("--width", type=int, default=held.width, help=f"hidden units of the network ({held.width})")
    parser.add_argument("--references", type=int, default=held.references, help=f"samples of EFM ({held.references})")
    parser.add_argument("--bins", type=int, default=held.bins, help=f"of t, for the variances ({held.bins})")
    parser.add_argument("--draws", type=int, default=held.draws, help=f"batches in each bin ({held.draws})")
    parser.add_argument("--out", default=".", metavar="DIR", help="where to write train.json and train.png (.)")
    parser.add_argument("--no-figure", action="store_true", help="write no train.png; needs no matplotlib")


def _add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    run: Callable[[argparse.Namespace], None],
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.set_defaults(run=run)
    return parser


def _add_data(parser: argparse.ArgumentParser, default: str | None) -> None:
    _add_source(parser, default, "" if default is None else f"; {default} unless given")
    parser.add_argument("--path", choices=tuple(PATHS), default="rectified_flow", help="(rectified_flow)")


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--index", metavar="FILE", help="what `index build` wrote for these data: late times go faster")


def _add_source(parser: argparse.ArgumentParser, default: str | None, note: str, required: bool | None = None) -> None:
    known = f"a built-in set ({', '.join(BUILTINS)}) or the path of a file or folder"
    needed = default is None if required is None else required
    parser.add_argument("--data", default=default, required=needed, help=f"{known}{note}")
    parser.add_argument("--folder", help="where the files of a built-in set are")
    parser.add_argument("--count", type=int, metavar="N", help="use N samples only")
    parser.add_argument("--seed", type=int, default=0, help="of the samples drawn and of the queries (0)")
    parser.add_argument("--device", help="where to compute, such as cuda (cpu)")


if __name__ == "__main__":
    sys.exit(main())
