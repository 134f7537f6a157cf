"""The first samples of a data set: what it was before others were appended."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..base.arrays import Int64, Tensor
from ..base.files import hash_tensors
from .dataset import OracleDataset

# values hashed at once where samples may have to be gathered in another order
HASH_VALUES = 1 << 23


def prefix_fingerprint(data: OracleDataset, count: int) -> str:
    """Return a hash of the first samples of `data`, their labels, shape and value map, but not of their weights.

    count: how many samples, 0..N. A data set to which samples were appended has the hash of what it was before.
    32 hexadecimal digits. These samples are read once. Raises InputError where they were changed in place.
    """
    data.check_unchanged()
    facts = (count, data.sample_shape, str(data.storage), data.value_map)
    labels = data.labels
    return hash_tensors(repr(facts), [None if labels is None else labels[:count], *_blocks(data, count)])


def prefix_rows(data: OracleDataset, count: int) -> Int64[Tensor, "n"]:
    """Return the rows of `data` of the samples that a data set of the first ones alone would hold, [count] int64.

    count: how many samples, 0..N. The result is in the order of the rows of that data set.
    """
    labels = data.labels
    if labels is None:
        return data.row_of(torch.arange(count, device=data.device))
    return data.row_of(labels[:count].sort(stable=True).indices)


def _blocks(data: OracleDataset, count: int) -> Iterator[Tensor]:
    size = max(1, HASH_VALUES // data.dim)
    for start in range(0, count, size):
        some = torch.arange(start, min(start + size, count), device=data.device)
        yield data.rows.stored.index_select(0, data.row_of(some))
