"""`oracle-engine train-demo`: a small network trained on three targets, as a table, train.json and train.png."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import fields
from typing import TYPE_CHECKING

from ...science.demo.settings import TrainSettings
from ..options import Commands, add_command, add_figure, add_source, refuse_key, whole

if TYPE_CHECKING:
    from ...data.dataset import OracleDataset


def add_train_demo(commands: Commands) -> None:
    """Add the command to `commands`; its defaults are those of TrainSettings."""
    summary = "a small network trained on CFM, EFM and the oracle from one seed: a table, train.json and train.png"
    parser = add_command(commands, "train-demo", summary, run_train_demo)
    add_source(parser, None, note="; fashion-mnist unless given, or digits where that is not found", required=False)
    held = TrainSettings()
    parser.add_argument("--steps", type=whole, default=held.steps, help=f"of training ({held.steps})")
    parser.add_argument("--batch", type=whole, default=held.batch, help=f"queries of a step ({held.batch})")
    parser.add_argument("--width", type=whole, default=held.width, help=f"hidden units of the network ({held.width})")
    parser.add_argument("--references", type=whole, default=held.references, help=f"samples of EFM ({held.references})")
    parser.add_argument("--bins", type=whole, default=held.bins, help=f"of t, for the variances ({held.bins})")
    parser.add_argument("--draws", type=whole, default=held.draws, help=f"batches in each bin ({held.draws})")
    add_figure(parser, "train.json and train.png", "train.png")
    refuse_key(parser)


def run_train_demo(arguments: Namespace) -> None:
    """Train on three targets; print the results, write train.json and train.png."""
    from ...base.progress import progress_bar
    from ...science.demo.plots import train_figure
    from ...science.demo.train import train
    from ..fallback import load_or_digits
    from ..shared import check_report, device_named, say, write_report

    settings = TrainSettings(**{field.name: getattr(arguments, field.name) for field in fields(TrainSettings)})
    check_report(arguments, "train")
    device = device_named(arguments.device)
    with progress_bar("training on three targets") as progress:
        data, notes = load_or_digits(arguments)
        _check_sizes(arguments, data)
        report = train(data if device is None else data.to(device), settings, progress=progress, notes=notes)
    files = write_report(arguments, "train", report.to_json(), lambda path: train_figure(report, path))
    took = f"{' and '.join(files)} written; {report.elapsed:.1f} s"
    say(arguments, f"{report.format_table()}\n\n{took}", report.to_json() | {"files": files})


def _check_sizes(arguments: Namespace, data: OracleDataset) -> None:
    """Refuse networks and batches that no memory holds: three networks, their gradients and Adam's two averages."""
    from ..shared import check_memory

    check_memory("--width", arguments.width, 12 * 4 * (5 * max(arguments.width, 1) + 2 * data.dim))
    check_memory("--batch", arguments.batch, 16 * (data.dim + arguments.width))
    check_memory("--bins", arguments.bins, 2000)
    check_memory("--references", arguments.references, 8 * max(arguments.batch, 1))
