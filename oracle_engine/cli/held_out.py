"""Samples that are held out of the data, from the file that --held-out names."""

from __future__ import annotations

from argparse import Namespace

import torch

from ..base.arrays import Float, Int64, Tensor
from ..data.dataset import OracleDataset
from .alike import samples_alike


def held_out_of(
    arguments: Namespace, data: OracleDataset
) -> tuple[Float[Tensor, "Q ..."] | None, Int64[Tensor, "Q"] | None]:
    """Return the samples of --held-out in value space, and their labels; None without the option.

    arguments: with `held_out`, and as of :func:`samples_alike`. data: whose samples they have to be like.

    Raises as that does.
    """
    if arguments.held_out is None:
        return None, None
    unseen = samples_alike("--held-out", arguments.held_out, arguments, data)
    return unseen[torch.arange(len(unseen))], unseen.labels
