"""Where the samples of an engine are while it scans: all on its device, or streamed to it block after block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from ..base.arrays import Tensor
from ..base.errors import InputError, invalid, lacks_memory
from ..base.machine.devices import usable_device
from ..base.machine.environment import memory_bytes
from ..base.outside.lanes import BLOCKS, LANES
from ..base.outside.rows import BLOCK_BYTES, OutsideRows
from ..base.sizes import bytes_of, in_words
from ..data.dataset import OracleDataset
from ..data.outside import read, streamed
from ..data.samples import READ_BYTES

Resident = Literal["auto", "all", "stream"]

# a block on its way to a card: large beside the launches of the kernels that scan it
CARD_BLOCK_BYTES = 256 << 20
# the share of a card's free memory that samples may take: queries and logits need some, too
CARD_SHARE = 0.9
# samples of the smallest block, and bytes of the number of each
LEAST_ROWS, NUMBER_BYTES = 64, 8


@dataclass(frozen=True)
class Residency:
    """Where samples are while they are scanned.

    streams: whether they come to the device block after block. reason: why, in words. block_bytes: of a block.
    """

    streams: bool
    reason: str
    block_bytes: int = BLOCK_BYTES

    def __str__(self) -> str:
        """Return the decision and its reason in words."""
        if not self.streams:
            return f"all, {self.reason}"
        return f"stream, {self.reason}; in blocks of {in_words(self.block_bytes)}"


@dataclass(frozen=True)
class Wish:
    """What a caller asks for: `resident`, and how many bytes of the device samples may take, or None.

    share: into how many processes the samples are dealt. Raises InputError for other values.
    """

    resident: Resident = "auto"
    memory: int | None = None
    share: int = 1

    @classmethod
    def of(cls, resident: str, memory: int | str | None) -> Wish:
        """Return the wish that the arguments of an engine name."""
        if resident not in get_args(Resident):
            raise invalid("resident", "must be auto, all or stream", repr(resident), "use 'auto'")
        return cls(resident, None if memory is None else bytes_of("memory", memory))  # type: ignore[arg-type]

    def granted(self, data: OracleDataset, device: torch.device | str | None) -> tuple[OracleDataset, Residency]:
        """Return the data set where it is to be scanned, and why it is there.

        device: where to compute, or None for that of the data. Raises InputError where the memory has no room for the
        samples, or for two blocks of them. Costs a copy of samples that have to be moved, else nothing.
        """
        there = data.device if device is None else usable_device(device)
        found = self.decided(data, there)
        if found.streams:
            # the default of the CPU leaves the choice to who reads, so that engines over one data set share passes
            chosen = found.block_bytes if there.type != "cpu" or self.memory is not None else _block_bytes_of(data)
            return streamed(data, there, chosen), found
        return self._in_memory(data, there), found

    def decided(self, data: OracleDataset, device: torch.device) -> Residency:
        """Return where the samples are to be while `device` scans them, and why. Raises as :meth:`granted`."""
        streams, reason = self._streams(data, device)
        return Residency(True, reason, self._block_bytes(data, device)) if streams else Residency(False, reason)

    def _streams(self, data: OracleDataset, device: torch.device) -> tuple[bool, str]:
        """Return whether samples are streamed, and why."""
        if self.resident != "auto":
            return self.resident == "stream", f"as resident={self.resident!r} asks"
        stored = data.rows.stored
        outside = isinstance(stored, OutsideRows)
        if data.device == device and not outside:
            return False, "the samples lie in the memory of the device already"
        if data.device == device and self.memory is None and _block_bytes_of(data) is not None:
            return True, "the samples are streamed already"
        budget = self._budget(device)
        if budget is None:
            return outside, "large samples stay in their files" if outside else "the device has no limit that is known"
        needed, whose = self._held(data), "allowed" if self.memory is not None else f"free on {device}"
        reason = f"the samples need {in_words(needed)}, {in_words(budget)} are {whose}"
        return needed > budget, reason

    def _held(self, data: OracleDataset) -> int:
        return -(-data.rows.stored.nbytes // self.share) + beside(data)

    def _budget(self, device: torch.device) -> int | None:
        if self.memory is not None or device.type != "cuda":
            return self.memory
        return int(CARD_SHARE * torch.cuda.mem_get_info(device)[0])

    def _block_bytes(self, data: OracleDataset, device: torch.device) -> int:
        """Return the bytes of a block, of which several fit into the memory beside what is known of each sample."""
        if device.type not in LANES:
            raise invalid("resident", "can be stream on the CPU and CUDA only", device, "pass resident='all'")
        stored = data.rows.stored
        row_bytes = max(1, stored.nbytes // len(data))
        # on the CPU rows that are not in the order of their files are sorted in a block of their own
        unsorted = isinstance(stored, OutsideRows) and stored.order is not None and device.type == "cpu"
        blocks, known = BLOCKS + unsorted, beside(data)
        least = known + blocks * min(len(data), LEAST_ROWS) * (row_bytes + NUMBER_BYTES)
        budget = self._budget(device)
        wished = CARD_BLOCK_BYTES if device.type == "cuda" else BLOCK_BYTES
        if budget is None:
            return _block_bytes_of(data) or wished
        if budget < least:
            requirement = (
                f"must have room for {blocks} blocks of samples and what is known of each one, {least:,} bytes"
            )
            raise invalid("memory", requirement, f"{budget:,}", f"pass memory={least}")
        rows = (budget - known) // (blocks * (row_bytes + NUMBER_BYTES))
        return min(wished, rows * row_bytes)

    def _in_memory(self, data: OracleDataset, device: torch.device) -> OracleDataset:
        """Return the data in the memory of `device`. Raises InputError where there is no room."""
        if self.resident == "all" and self.memory is not None and self._held(data) > self.memory:
            requirement = f"must hold all samples, {self._held(data):,} bytes, where resident is 'all'"
            raise invalid("memory", requirement, f"{self.memory:,}", "pass resident='stream', or leave memory out")
        if device.type != "cpu" or not isinstance(data.rows.stored, OutsideRows):
            return data.to(device)
        if data.rows.stored.nbytes > (memory_bytes() or data.rows.stored.nbytes):
            raise too_large(data)
        try:
            return read(data)
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
            raise too_large(data) from error


def _block_bytes_of(data: OracleDataset) -> int | None:
    return data.rows.stored.block_bytes if isinstance(data.rows.stored, OutsideRows) else None


def streaming_in_words() -> str:
    """Return which samples are streamed here unless someone asks: those in large files, and too large for cards."""
    files = f"files above {in_words(READ_BYTES)} on the CPU"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    free = [in_words(CARD_SHARE * torch.cuda.mem_get_info(number)[0]) for number in range(count)]
    return ", ".join([files, *(f"above {room} on cuda:{number}" for number, room in enumerate(free))])


def beside(data: OracleDataset) -> int:
    """Return the bytes of what is known of each sample beside its values: norms, weights, labels and their order."""
    known = (data.rows.half_norms, data.rows.log_weights, data.sorted_labels, data.order)
    return sum(part.nbytes for part in known if isinstance(part, Tensor))


def too_large(data: OracleDataset) -> InputError:
    """Return the error for samples in files that memory has no room for, which the caller raises."""
    found = f"{in_words(data.rows.stored.nbytes)} of samples"
    return invalid("resident", "can be all where the samples fit into memory", found, "pass resident='stream'")
