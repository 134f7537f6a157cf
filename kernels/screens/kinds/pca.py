"""A screen of leading coordinates: short vectors whose inner product with a query bounds the logit of every sample.

Notation: z a centred row, c its leading coordinates in an orthonormal basis V, e = z - V c its residual. For any y the
product <y, z> is at most <V^T y, c> plus, block by block, the norm of y times the norm of z (Cauchy-Schwarz).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch

from ....base.arrays import Float, Float64, Int64, Shaped, Tensor
from ....base.progress import Progress
from ...common.rows import Query, Rows, Span
from ...common.screen_terms import Terms
from ...common.search import LeadingLevel
from ...native.search import BASIS_ROWS, Leading, Roundings
from ..bounds.nearest import DistanceVectors
from ..bounds.query_bounds import (
    TYPICAL_ROWS,
    Projected,
    QueryBound,
    Source,
    SourceResidual,
    product_rounding,
    walk_error,
    weight_rounding,
)
from ..bounds.screen import Screen, SomeRows, Thresholds, added_spans, chosen_rows, log_weights, no_thresholds
from .principal_coordinates import (
    block_edges,
    block_norms,
    principal_basis,
    projection_error,
    residual_norm,
    row_features,
)

# the shares of the dimension that levels have, one that all rows are bounded by and others for those that are
# left, and the fewest coordinates of a level
SHARES, LEAST_WIDTH = (48, 6, 3), 8


@dataclass(frozen=True, kw_only=True)
class PrincipalScreen(Screen):
    """Rows in `basis` at several levels of detail.

    basis: orthonormal columns, [D, M] float64, the directions of largest variance first.
    widths: rising; the last is M.
    features: for each level [N, w] float32: the coordinates, the residual norms of each block beyond them and of
        everything beyond them, |z|^2 / 2, and log w_j where samples have weights.
    """

    kind: ClassVar[str] = "pca"
    basis: Float64[Tensor, "D M"]
    features: tuple[Float[Tensor, "N _"], ...]

    def __len__(self) -> int:
        return len(self.features[0])

    @cached_property
    def narrow_basis(self) -> Float[Tensor, "D M"]:
        """The basis in float32."""
        return self.basis.float()

    @cached_property
    def _edges(self) -> tuple[Shaped[Tensor, "_"], ...]:
        edges, device = block_edges(self.widths), self.basis.device
        beyond = [edges[edges.index(width) :] for width in self.widths]
        return tuple(torch.tensor(some, dtype=torch.int32, device=device) for some in beyond)

    @cached_property
    def _typical(self) -> tuple[Float64[Tensor, "f"], ...]:
        norms = [part[:, width:] for width, part in zip(self.widths, self.features, strict=True)]
        return tuple(part[:TYPICAL_ROWS].double().mean(0) for part in norms)

    @property
    def operations(self) -> tuple[int, ...]:
        """The widths."""
        return self.widths

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.basis.nbytes + sum(part.nbytes for part in self.features)

    def to(self, device: torch.device) -> PrincipalScreen:
        """Return the screen on `device`."""
        return replace(self, basis=self.basis.to(device), features=tuple(part.to(device) for part in self.features))

    def extended(self, rows: Rows, kept: Int64[Tensor, "n"], progress: Progress | None = None) -> PrincipalScreen:
        """Return the screen of `rows`, of which those of this screen are a part; only the others are projected.

        rows: all rows, around the centre that this screen was made with; any basis gives valid bounds.
        kept: where the rows of this screen are among them, [n] int64. progress: called with how many of the other rows
        are done, and their number.
        """
        features = tuple(torch.empty(len(rows), part.shape[1], device=rows.device) for part in self.features)
        for own, part in zip(self.features, features, strict=True):
            part[kept] = own
            if rows.log_weights is not None:
                part[:, -1] = log_weights(rows, slice(None))
        for span in added_spans(len(rows), kept, progress):
            for part, added in zip(features, row_features(rows, self.basis, self.widths, span), strict=True):
                part[span.start : span.stop] = added
        return replace(self, features=features)

    def _projected(self, rows: Rows, query: Query, point: Float64[Tensor, "B D"], level: int) -> Projected:
        # sums in float32 are a walk like those of the products with rows, which they add to
        projection = (point.float() @ self.narrow_basis).double()
        rest = residual_norm(point, projection, projection_error(rows.dim))
        norms = torch.cat([block_norms(projection, block_edges(self.widths)), rest[:, None]], dim=1)
        rounding = product_rounding(rows, query, point, terms=self._terms, radius=2.0 * rows.radius)
        return Projected(projection, norms, rounding)

    @property
    def _terms(self) -> int:
        # what a product with the rows of a level sums, and what the coordinates of both sides were summed from
        return max(part.shape[1] for part in self.features) + 4 * self.widths[-1] + 4 * self.dim

    @cached_property
    def leading(self) -> Leading:
        """The screen as the native search takes it."""
        width, edges = self.widths[-1], block_edges(self.widths)
        basis = torch.zeros(-(-width // BASIS_ROWS) * BASIS_ROWS, self.dim)
        basis[:width] = self.basis.T
        first = self.widths[0]
        typical = self.features[0][:TYPICAL_ROWS, first : first + len(edges) + 1].double().mean(0)
        return Leading(basis, torch.tensor(edges), self.widths, self.features, typical)

    def roundings(self, rows: Rows) -> Roundings:
        """Return what float32 may hide of products of queries with the screen and with `rows`."""
        return Roundings(
            upper=walk_error(self._terms),
            coordinate=projection_error(rows.dim),
            row=walk_error(rows.dim),
            row_radius=rows.stored_radius + rows.radius,
            shared=walk_error(rows.dim) * rows.operand_radius,
            weights=weight_rounding(rows),
        )

    def leading_level(self, rows: Rows, level: int) -> LeadingLevel:
        """Return what kernels of a card project queries on.

        rows, level: the data, and the level.
        """
        edges = self._edges[level]
        return LeadingLevel(
            self.features[level],
            edges,
            self._typical[level],
            blocks=len(edges) - 1,
            norms=len(edges),
            coordinate=2.0 * projection_error(rows.dim),
            upper=walk_error(self._terms),
            row_size=2.0 * rows.radius,
            square_size=rows.radius**2,
            shared=walk_error(rows.dim) * rows.operand_radius,
            weights=weight_rounding(rows),
        )

    def _source_residual(self, rows: Rows, query: Query, source: Source, level: int) -> SourceResidual:
        # the first level has the norms of all blocks: they stand between the coordinates and the norm of all of it
        first, count = self.widths[0], len(block_edges(self.widths))
        own = self.features[0].index_select(0, source.row.clamp_min(0))[:, first : first + count].double()
        typical = self.features[0][:TYPICAL_ROWS].double().mean(0)
        tests = len(self) * len(self.widths)
        return SourceResidual(query.alpha[:, None] * own, typical[first : first + count], typical[first + count], tests)

    def factors(self, query_bound: QueryBound, level: int, *, weighted: bool) -> Float[Tensor, "B w"]:
        """Return what the features of a level are multiplied with, [B, w] float32; factors of norms are rounded up.

        query_bound: coefficients of the batch. level: which level, the cheapest is 0. weighted: whether the logs of
        weights are among the features.
        """
        width = self.widths[level]
        skipped = block_edges(self.widths).index(width)
        gains = query_bound.feature_gains(weighted, skipped)
        return torch.cat([query_bound.projection[:, :width], *gains], dim=1).float()

    def bound(
        self, rows: Rows, level: int, query_bound: QueryBound, place: SomeRows, *, out: Float[Tensor, "n B"]
    ) -> None:
        """Write upper logits less slack and shared products into `out`, [n, B]; arguments as in :meth:`Screen.bound`.

        rows, level, query_bound, place: the data, the level, the coefficients of the batch, and which rows.
        """
        factors = self.factors(query_bound, level, weighted=rows.log_weights is not None)
        torch.mm(chosen_rows(self.features[level], place), factors.T, out=out)

    def terms(self, rows: Rows, level: int, query_bound: QueryBound) -> Terms:
        """Return what native kernels add up; arguments as in :meth:`Screen.terms`.

        rows, level, query_bound: the data, the level, and the coefficients of the batch.
        """
        factors = self.factors(query_bound, level, weighted=rows.log_weights is not None)
        return Terms(self.features[level], factors, query_bound.slack)

    def vectors(self, rows: Rows) -> DistanceVectors:
        """Return coordinates of `rows` and norms of the rest: norms differ by no more than what they are norms of."""
        return DistanceVectors(self.features[-1][:, : self.widths[-1] + 1], None, 4.0 * rows.radius**2)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What a file keeps."""
        return {f"features{level}": part for level, part in enumerate(self.features)} | {"basis": self.basis}

    @property
    def facts(self) -> dict[str, Any]:
        """What a file says of them."""
        return {"widths": self.widths}

    @classmethod
    def restored(cls, tensors: dict[str, Tensor], facts: dict[str, Any], thresholds: Thresholds) -> PrincipalScreen:
        """Return the screen that a file keeps, on the CPU.

        tensors, facts: what :attr:`tensors` and :attr:`facts` were. thresholds: its SNR thresholds.
        """
        widths = tuple(facts["widths"])
        features = tuple(tensors[f"features{level}"] for level in range(len(widths)))
        return cls(
            thresholds=thresholds, dim=len(tensors["basis"]), basis=tensors["basis"], widths=widths, features=features
        )


def default_widths(rows: Rows) -> tuple[int, ...]:
    """Return the widths of the levels for `rows`: a 48th, a 6th and a third of the dimension while they cost less.

    Empty where rows are so short that no shorter vector would help.
    """
    # rows as short as that are not worth a first level
    least = LEAST_WIDTH if rows.dim >= SHARES[0] else 1
    wished = [max(least, 2 ** round(math.log2(max(1.0, rows.dim / share)))) for share in SHARES]
    budget = rows.dim * rows.stored.dtype.itemsize / 4
    widths: list[int] = []
    for width in wished:
        cost = width + math.log2(max(2.0, rows.dim / width)) + 4
        if LEAST_WIDTH <= width <= len(rows) // 2 and cost <= max(budget, rows.dim / 5) and width not in widths:
            widths.append(width)
            budget -= cost
    return tuple(widths)


def principal_screen(
    rows: Rows, widths: Sequence[int], seed: int = 0, progress: Progress | None = None
) -> PrincipalScreen:
    """Return the screen of `rows` with levels of these `widths`, which rise.

    seed: of the subset that the basis is fitted to. progress: called with the rows done and their number.
    Costs a randomised decomposition of a subset of the rows and one pass of 2 N D M operations; memory is the
    screen and blocks of at most 128 MB.
    """
    basis = principal_basis(rows, widths[-1], seed)
    features = row_features(rows, basis, widths, Span(0, len(rows)), progress=progress)
    return PrincipalScreen(
        thresholds=no_thresholds(len(widths)), dim=rows.dim, basis=basis, widths=tuple(widths), features=features
    )
