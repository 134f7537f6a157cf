"""`oracle-engine train-demo`: a small network trained on three targets, as a table, train.json and train.png."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

from ..base.errors import DataFileError
from ..base.files import replacing
from ..base.progress import progress_bar
from ..data.dataset import OracleDataset
from ..science.stage_plots import require_matplotlib
from ..science.train_demo import TrainSettings, train
from ..science.train_plots import train_figure
from .shared import device_named, load, say


def run_train_demo(arguments: Namespace) -> None:
    """Train on three targets; print what it showed, write train.json and train.png."""
    if not arguments.no_figure:
        require_matplotlib()
    names = ("steps", "batch", "width", "references", "bins", "draws", "seed")
    settings = TrainSettings(**{name: getattr(arguments, name) for name in names})
    folder = Path(arguments.out)
    folder.mkdir(parents=True, exist_ok=True)
    with progress_bar("training on three targets") as progress:
        data, notes = _load_or_digits(arguments)
        device = device_named(arguments.device)
        report = train(data if device is None else data.to(device), settings, progress, notes)
    files = [folder / "train.json"]
    with replacing(files[0]) as partial:
        partial.write_text(json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n", "utf-8")
    if not arguments.no_figure:
        files.append(folder / "train.png")
        train_figure(report, files[1])
    written = [str(file) for file in files]
    took = f"{' and '.join(written)} written; {report.elapsed:.1f} s"
    say(arguments, f"{report.format_table()}\n\n{took}", report.to_json() | {"files": written})


def _load_or_digits(arguments: Namespace) -> tuple[OracleDataset, list[str]]:
    """Return the data, and what has to be said about it: without --data the files of the default may not be there."""
    if arguments.data is not None:
        return load(arguments), []
    try:
        arguments.data = "fashion-mnist"
        return load(arguments), []
    except DataFileError as error:
        arguments.data, arguments.folder = "digits", None
        note = f"fashion-mnist was not found, so these are scikit-learn's digits, a much smaller set ({error})"
        return load(arguments), [note]
