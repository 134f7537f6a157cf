"""Data sets whose samples stay in their files, or on the host, and come to a device block by block; and back."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..base.errors import invalid
from ..base.outside.rows import OutsideRows, in_memory
from .dataset import OracleDataset


def streamed(data: OracleDataset, device: torch.device, block_bytes: int | None) -> OracleDataset:
    """Return the data set whose samples come to a device in blocks, while all else that is known of them is there.

    device: where they come to. block_bytes: of a block, or None, which leaves the choice to who reads. Nothing is read
    or copied. Raises InputError where the samples are on a device already, and where they were changed in place.
    """
    stored = data.rows.stored
    if isinstance(stored, OutsideRows) and (stored.device, stored.block_bytes) == (device, block_bytes):
        return data
    data.check_unchanged()
    if not isinstance(stored, OutsideRows) and stored.device.type != "cpu":
        found, remedy = f"samples on {stored.device}", "load them on the CPU, and name the device to the engine"
        raise invalid("data", "must be in files or on the CPU to be streamed from there", found, remedy)
    return data.with_rows(data.rows.streamed(device, block_bytes))


def read(data: OracleDataset) -> OracleDataset:
    """Return the data set with its samples in memory, or itself where they are. Costs one read of them."""
    if not isinstance(data.rows.stored, OutsideRows):
        return data
    data.check_unchanged()
    return data.with_rows(replace(data.rows, stored=in_memory(data.rows.stored)))
