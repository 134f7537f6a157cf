"""Peak memory that one call needs beyond what is allocated before it."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def peak_extra_bytes(call: Callable[[], object], device: torch.device) -> int | None:
    """Return the peak of extra memory during `call`, its result included; None where it cannot be measured.

    The caller makes one call before: memory that a first call allocates for good, such as the workspaces of libraries,
    is not counted.
    """
    if device.type == "cuda":
        return _cuda_peak(call, device)
    return _resident_peak(call) if sys.platform == "linux" else None


def _cuda_peak(call: Callable[[], object], device: torch.device) -> int:
    """Return the bytes that a call allocates on a CUDA device at most."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = call()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before
    del result
    return peak


def _resident_peak(call: Callable[[], object]) -> int | None:
    """Return by how many bytes the resident memory grows during a call, or None where Linux does not tell."""
    # Linux keeps this high-water mark: unlike a sampling thread it misses nothing and takes no time from the call, and
    # unlike torch's profiler it includes what other libraries allocate
    gc.collect()
    _return_freed_pages()
    try:
        _CLEAR.write_text("5")
    except OSError:
        return None
    before = _status_bytes("VmRSS")
    result = call()
    peak = _status_bytes("VmHWM") - before
    del result
    return max(peak, 0)


def _return_freed_pages() -> None:
    # pages that malloc keeps would be used again without being counted; musl has no such call and keeps none
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status_bytes(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", _STATUS.read_text("ascii"), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{_STATUS} has no line {field}")
    return 1024 * int(found[1])
