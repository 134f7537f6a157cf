"""Samples that a command takes beside its data, and that have to be like these."""

from __future__ import annotations

from argparse import Namespace

from ..base.errors import OracleError, invalid
from ..data.dataset import OracleDataset
from ..data.load import load_dataset
from .shared import read_alike
from .words import in_options


def samples_alike(option: str, source: str, arguments: Namespace, data: OracleDataset) -> OracleDataset:
    """Return the data set of a file or folder, read with the options of --data.

    option: that names it, for errors. source: its path. arguments: with `range`, `size`, `gray` and `seed`. data:
    whose samples its own have to be like.

    Raises InputError where they have another shape or another map to values, and as `load_dataset` does.
    """
    try:
        found = load_dataset(source, **read_alike(arguments))
    except OracleError as error:
        raise in_options(error, option) from error
    if found.sample_shape != data.sample_shape:
        shape, wanted = list(found.sample_shape), list(data.sample_shape)
        raise invalid(option, f"must hold samples like those of --data, {wanted}", shape, "name another file")
    if found.storage == data.storage and found.value_map != data.value_map:
        raise invalid(option, "must have values like those of --data", found.value_map, "pass --range for both")
    return found
