"""Devices that can be computed on."""

from __future__ import annotations

import torch

from ..errors import invalid

LONGEST_REASON = 60


def usable_device(device: torch.device | str) -> torch.device:
    """Return a device that torch can compute on here, with its index.

    device: as torch names it, such as "cpu", "cuda" or "cuda:1"; "meta" holds shapes only, for those who ask for them.

    Raises InputError where there is no such device, or where it lacks float64.
    """
    try:
        held = torch.ones(1, dtype=torch.float64, device=device)
    # torch built without CUDA says so by an assertion, and a device without float64 by a type error
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ValueError, ImportError) as error:
        reason = (str(error).splitlines() or [""])[0]
        # longer ones list what torch was built of
        found = f"{str(device)!r}{f' ({reason})' if 0 < len(reason) <= LONGEST_REASON else ''}"
        raise invalid("device", "must name a device torch can compute on here", found, "use cpu") from error
    return held.device
