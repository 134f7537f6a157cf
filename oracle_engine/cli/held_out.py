"""Samples that are held out of the data, from the file that --held-out names."""

from __future__ import annotations

from argparse import Namespace

import torch

from ..base.arrays import Float, Int64, Tensor
from ..base.errors import OracleError, invalid
from ..data.dataset import OracleDataset
from ..data.load import load_dataset
from .shared import read_alike
from .words import in_options


def held_out_of(
    arguments: Namespace, data: OracleDataset
) -> tuple[Float[Tensor, "Q ..."] | None, Int64[Tensor, "Q"] | None]:
    """Return the samples of --held-out in value space, and their labels; None without the option.

    arguments: with `held_out`, `range` and `seed`. data: whose samples they have to be like.

    Raises InputError where they have another shape or another map to values, and as `load_dataset` does.
    """
    if arguments.held_out is None:
        return None, None
    try:
        unseen = load_dataset(arguments.held_out, **read_alike(arguments))
    except OracleError as error:
        raise in_options(error, "--held-out") from error
    if unseen.sample_shape != data.sample_shape:
        found, wanted = list(unseen.sample_shape), list(data.sample_shape)
        raise invalid("--held-out", f"must hold samples like those of --data, {wanted}", found, "name another file")
    if unseen.storage == data.storage and unseen.value_map != data.value_map:
        raise invalid("--held-out", "must have values like those of --data", unseen.value_map, "pass --range for both")
    index = torch.arange(len(unseen))
    labels = unseen.labels
    return unseen[index], labels
