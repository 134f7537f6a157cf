"""`oracle-engine copies`: whether generated samples are copies of samples of the data."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..options import Commands, add_command, add_figure, add_source, refuse_key

if TYPE_CHECKING:
    from ...base.arrays import Tensor
    from ...data.dataset import OracleDataset
    from ...science.memorisation import CopyRate, Nearest


def add_copies(commands: Commands) -> None:
    """Add the command to `commands`."""
    summary = "nearest samples of generated ones, and how many are copies: copies.json and copies.png"
    parser = add_command(commands, "copies", summary, run_copies)
    parser.add_argument(
        "input",
        metavar="IN",
        help="generated samples: numbers in value space (.npy, .npz, .safetensors), or pictures (a folder, .zip, .tar)",
    )
    add_source(parser, None)
    help_key = 'the name of their array in IN ("samples" of `sample --save`, else "x")'
    parser.add_argument("--samples-key", metavar="KEY", help=help_key)
    parser.add_argument("--threshold", type=float, default=1 / 3, help="largest distance ratio of a copy (1/3)")
    add_figure(parser, "copies.json and copies.png", "copies.png")
    refuse_key(parser)


def run_copies(arguments: Namespace) -> None:
    """Search the samples nearest to those of IN; print the copy rate, write copies.json and copies.png."""
    from ...base.errors import invalid
    from ...engine.engine import OracleEngine
    from ...science.copy_plots import copies_figure
    from ...science.memorisation import copy_rate, nearest_samples
    from ..shared import check_report, say, write_report

    check_report(arguments, "copies")
    if not 0.0 < arguments.threshold <= 1.0:
        raise invalid("--threshold", "must lie in (0, 1]", arguments.threshold, "leave it out for 1/3")
    x, data = _generated(arguments)
    found = nearest_samples(OracleEngine(data), x)
    rate = copy_rate(found.ratio, threshold=arguments.threshold, seed=arguments.seed)
    facts = _facts(data, found, rate)
    files = write_report(arguments, "copies", facts, lambda path: copies_figure(x, found, data, path))
    say(arguments, f"{_words(data, rate, facts)}\n\n{' and '.join(files)} written", facts | {"files": files})


def _generated(arguments: Namespace) -> tuple[Tensor, OracleDataset]:
    """Return the samples of IN, on the device of the data, and the data. Raises InputError where they are unlike."""
    from ...base.errors import invalid
    from ..query_files import QUERY_SUFFIXES, read_queries
    from ..shared import load_there

    data, path = load_there(arguments), Path(arguments.input)
    if path.is_dir() or path.suffix not in QUERY_SUFFIXES:
        return _pictures(arguments, data).to(data.device), data
    x = read_queries(path, arguments.samples_key or _key(arguments.input)).x
    if tuple(x.shape[1:]) != data.sample_shape or len(x) < 1:
        requirement = f"must hold samples like those of --data, [K, {', '.join(map(str, data.sample_shape))}]"
        raise invalid("IN", requirement, list(x.shape), "name another file, or --samples-key")
    return x.to(data.device), data


def _pictures(arguments: Namespace, data: OracleDataset) -> Tensor:
    """Return the pictures of IN in value space. Raises InputError where they are unlike the data."""
    import torch

    from ...base.errors import invalid
    from ..alike import samples_alike

    if arguments.samples_key is not None:
        raise invalid("--samples-key", "must name an array of a file of numbers", arguments.input, "leave it out")
    generated = samples_alike("IN", arguments.input, arguments, data)
    return generated[torch.arange(len(generated))]


def _facts(data: OracleDataset, found: Nearest, rate: CopyRate) -> dict[str, Any]:
    """Return what copies.json holds."""
    distance = found.distance[:, 0] / data.dim**0.5
    return {
        "data": data.name,
        "samples": len(data),
        "generated": len(distance),
        "threshold": rate.threshold,
        "copy_rate": rate.rate,
        "error": rate.error,
        "interval": [rate.low, rate.high],
        "nearest": found.index[:, 0].tolist(),
        "distance": distance.tolist(),
        "ratio": found.ratio.tolist(),
        "median_ratio": float(found.ratio.median()),
        "median_distance": float(distance.median()),
        "equal": int((found.distance[:, 0] == 0.0).sum()),
        "hidden": int((found.distance == 0.0).all(1).sum()),
    }


def _words(data: OracleDataset, rate: CopyRate, facts: Mapping[str, Any]) -> str:
    """Return what is printed, without the files."""
    hidden = f"{facts['hidden']:,} equal several samples of the data, and their distance ratio cannot tell"
    return (
        f"{facts['generated']:,} samples beside the {len(data):,} of {data.name}, {data.describe_values()}\n"
        f"copies (distance ratio below {rate.threshold:.3g}): {100 * rate.rate:.1f} % +- {100 * rate.error:.1f} %, "
        f"95 % interval {100 * rate.low:.1f} .. {100 * rate.high:.1f} %\n"
        f"median distance to the nearest sample {facts['median_distance']:.3g} a coordinate (root mean square), "
        f"{facts['median_ratio']:.3g} of that to the second\n"
        f"equal to a sample of the data: {facts['equal']:,}" + (f"; {hidden}" if facts["hidden"] else "")
    )


def _key(name: str) -> str | None:
    """Return the name that `sample --save` gives the array, where the file has it."""
    from ...base.errors import OracleError
    from ..query_files import read_queries

    try:
        read_queries(Path(name), "samples")
    except (OracleError, OSError):
        return None
    return "samples"
