"""States and sums as rows of plain numbers, which can be sent to another process, and how two of them merge."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch

from ..base.arrays import Float64, Tensor
from ..kernels import PosteriorState, Wanted, merge


@dataclass(frozen=True)
class Layout:
    """Where the parts of a state stand in a row of float64 numbers: only what is wanted is sent.

    dim: values of a mean. wanted: of the states. device: of these; rows are on the CPU.
    """

    dim: int
    wanted: Wanted
    device: torch.device

    @cached_property
    def _names(self) -> list[str]:
        names = ["lse", "lse_rest"]
        names += ["mean"] if self.wanted.mean else []
        names += ["concentration", "entropy", "variance"] if self.wanted.moments else []
        return names + (["top_logits", "top_rest", "top_rows"] if self.wanted.top_k else [])

    def pack(self, state: PosteriorState) -> Float64[Tensor, "B C"]:
        """Return the states of B queries as rows."""
        batch = len(state.lse)
        columns = [getattr(state, name).reshape(batch, self._width(name)) for name in self._names]
        # the bits of a number of a row are those of a float64
        return torch.cat([part.view(torch.float64) for part in columns], dim=1).cpu()

    def unpack(self, rows: Float64[Tensor, "B C"]) -> PosteriorState:
        """Return what :meth:`pack` was given."""
        # a mean that is sent needs no room
        dim = 0 if self.wanted.mean else self.dim
        nothing = PosteriorState.empty(len(rows), dim, self.wanted.top_k, self.device)
        widths = [self._width(name) for name in self._names]
        columns = dict(zip(self._names, rows.to(self.device).split(widths, dim=1), strict=True))
        found = {}
        for name, part in columns.items():
            value = part.contiguous().view(torch.int64) if name == "top_rows" else part
            found[name] = value if name == "mean" else value.reshape(getattr(nothing, name).shape)
        return replace(nothing, **found)

    def merge(self, first: PosteriorState, second: PosteriorState) -> PosteriorState:
        """Return the states over two disjoint subsets of the samples as one."""
        return merge(first, second, self.wanted)

    def _width(self, name: str) -> int:
        if name == "mean":
            return self.dim
        return self.wanted.top_k if name.startswith("top") else 1


@dataclass(frozen=True)
class Sums:
    """Sums over samples, [B, C] float64, which are rows already; see :class:`Layout`."""

    device: torch.device

    def pack(self, values: Float64[Tensor, "B C"]) -> Float64[Tensor, "B C"]:
        """Return the sums of B queries as rows."""
        return values.cpu()

    def unpack(self, rows: Float64[Tensor, "B C"]) -> Float64[Tensor, "B C"]:
        """Return what :meth:`pack` was given."""
        return rows.to(self.device)

    def merge(self, first: Float64[Tensor, "B C"], second: Float64[Tensor, "B C"]) -> Float64[Tensor, "B C"]:
        """Return the sums over two disjoint subsets of the samples as one."""
        return first + second
