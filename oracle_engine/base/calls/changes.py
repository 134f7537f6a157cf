"""What tells that tensors were changed in place after something was computed from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from ..arrays import Shaped, Tensor
from ..outside.rows import in_one_piece
from .cuda_graphs import capturing
from .transforms import traced, untransformed

# values that are compared beside the versions: some of them change with any change of the whole
PROBES = 32


# rows and columns, [P] each
Positions = tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.int64]]]


class Probes(NamedTuple):
    """Values of a tensor that some changes in place show in.

    at: where they are, in bytes from the first value, [P] int64. size: bytes of each. values: what they were, P * size
    bytes.
    """

    at: np.ndarray[Any, np.dtype[np.int64]]
    size: int
    values: bytes


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The versions of tensors, and a few values of the first where other programs may share its memory.

    versions: what torch counts changes in place by, one for each tensor and all its views; None for inference tensors,
        which have no such count.
    place, values: rows and columns of the probes, [P] each, and the bytes that they held; None on a device other than
        the CPU where versions are counted. Probes show what torch does not count: changes through NumPy, `.data` or a
        mapped file.
    """

    versions: tuple[int | None, ...]
    place: Positions | None
    values: bytes | None

    @classmethod
    def of(cls, first: Shaped[Tensor, "N D"], *others: Tensor) -> Snapshot:
        """Return the snapshot of tensors; costs a read of PROBES values.

        first: [N, D], with at least one value. others: of any shape; only their versions are kept.
        """
        versions = tuple(None if part.is_inference() else part._version for part in (first, *others))
        counted = first.device.type != "cpu" and (versions[0] is not None or first.device.type == "meta")
        # rows that stay outside are compared with what their files were each time they are read
        if counted or not in_one_piece(first):
            return cls(versions, None, None)
        # the same places for every tensor of this size, spread over rows and columns
        drawn = torch.rand(2, PROBES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        rows, columns = (drawn * torch.tensor(first.shape)[:, None]).long().numpy()
        return cls(versions, (rows, columns), _probed(first, (rows, columns)))

    def differs(self, first: Shaped[Tensor, "N D"], *others: Tensor) -> bool:
        """Return whether one of the tensors whose snapshot this is was changed in place since.

        first, others: the tensors, as :meth:`of` had them.
        Costs a comparison of numbers on the host, and of PROBES values where there are any; these are left out while a
        CUDA graph is captured. A change that torch does not count is found where it touches one of the probes. Where
        the call is traced nothing can be asked, and nothing differs.
        """
        if traced():
            return False
        if self.counted(first, *others):
            return True
        if self.place is None or self.values is None or capturing():
            return False
        return _probed(first, self.place) != self.values

    def counted(self, *parts: Tensor) -> bool:
        """Return whether torch has counted a change of one of the tensors, which no value is read for.

        parts: the tensors, in the order of :meth:`of`.
        """
        for part, version in zip(parts, self.versions, strict=True):
            if version is not None and part._version != version:
                return True
        return False

    def probes(self, first: Shaped[Tensor, "N D"]) -> Probes | None:
        """Return what to look at in `first` beside what is counted, or None where nothing is."""
        if self.place is None or self.values is None:
            return None
        (rows, columns), (down, across), size = self.place, first.stride(), first.element_size()
        return Probes((rows * down + columns * across) * size, size, self.values)


def _probed(first: Shaped[Tensor, "N D"], place: Positions) -> bytes:
    """Return the bytes of the values at some places."""
    # NumPy reads a few values in half the time, and knows no bfloat16
    if not first.is_cpu:
        rows, columns = (torch.from_numpy(part).to(first.device) for part in place)
        return _probed(first[rows, columns][None].cpu(), (np.zeros_like(place[0]), np.arange(len(place[0]))))
    with untransformed():
        plain = first.view(torch.int16) if first.dtype == torch.bfloat16 else first
        read: bytes = plain.numpy()[place].tobytes()
    return read
