"""The data of a command that names none: Fashion-MNIST where it is installed, else digits."""

from __future__ import annotations

from argparse import Namespace

from ..base.errors import DataFileError
from ..data.dataset import OracleDataset
from .shared import load


def load_or_digits(arguments: Namespace) -> tuple[OracleDataset, list[str]]:
    """Return the data set, and a note where digits replace the files of the default, which were not found."""
    if arguments.data is not None:
        return load(arguments), []
    try:
        arguments.data = "fashion-mnist"
        return load(arguments), []
    except DataFileError as error:
        arguments.data, arguments.folder = "digits", None
        note = f"fashion-mnist was not found, so these are scikit-learn's digits, a much smaller set ({error})"
        return load(arguments), [note]
