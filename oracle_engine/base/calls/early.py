"""A number that a device knows soon, read by the host while the device works on."""

from __future__ import annotations

import torch

from ..arrays import Int64, Tensor


class EarlyNumber:
    """A whole number of a device that the host can learn without a wait for what the device is asked afterwards."""

    def __init__(self, value: Int64[Tensor, "1"]) -> None:
        """Have `value`, [1] on any device, brought to the host as soon as it is known; no synchronisation."""
        self._known: torch.cuda.Event | None = None
        self._value = value
        if value.is_cuda:
            self._value = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
            self._value.copy_(value, non_blocking=True)
            self._known = torch.cuda.Event()
            self._known.record(torch.cuda.current_stream(value.device))

    def read(self) -> int:
        """Return the number; the host waits for what the device was asked before it, if that is not done yet."""
        if self._known is not None:
            self._known.synchronize()
        return int(self._value)
