"""A screen of 8-bit codes: every coordinate to a few bits, for rows that no few coordinates tell apart.

Notation: z a centred row, k its codes, s the scale of each coordinate, e = z - s k its residual. For any y the product
<y, z> is <y s, k> plus at most, block by block, the norm of y times the norm of e (Cauchy-Schwarz).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch

from ....base.arrays import Float, Float64, Int64, Shaped, Tensor
from ....base.progress import Progress
from ...common.rounding import UNIT_ROUNDOFF
from ...common.rows import Query, Rows, Span
from ...common.screen_terms import CARD_CODES, UPWARD, Terms
from ...common.search import LeadingLevel
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
from .int8_products import given_or_timed, integers_pay, products, relative_cost, two_digits

# residuals are bounded in blocks of this many coordinates: a 64th of the memory of the codes
CODE_BLOCK = 256

# the largest code, and the deviations of a coordinate beyond which it is cut: outliers would coarsen all other rows
LARGEST_CODE, CUT_DEVIATIONS = 127, 6.0

# what a point is multiplied with, in norms of a row: decoded it is at most twice as long, and its bounds add once more
DECODED = 3.0

# values encoded at once: 16 MB in float64
ENCODE_VALUES = 1 << 21


@dataclass(frozen=True, kw_only=True)
class EightBitScreen(Screen):
    """A screen of all coordinates that multiplies rows of 8-bit numbers.

    product_cost: time of a product with such rows over that with float32 rows, in (0, 1]; below 1 products are taken in
        integers where the dimension allows it.
    """

    product_cost: float

    @property
    def integers(self) -> bool:
        """Whether rows are multiplied as integers."""
        return integers_pay(self.product_cost, self.dim)

    @property
    def on_card(self) -> bool:
        """Whether kernels of a card multiply rows as integers: their sums stay within 32 bits."""
        return self.integers and self.dim <= CARD_CODES

    @property
    def operations(self) -> tuple[int, ...]:
        """The dimension times what a product with 8-bit numbers costs."""
        return (round(self.dim * relative_cost(self.product_cost, self.dim)),)

    def vectors(self, rows: Rows) -> DistanceVectors:
        """Return `rows` themselves: their distances cost as much as those of 8-bit rows."""
        return DistanceVectors.of(rows)

    def _factors(
        self, values: Float64[Tensor, "B K"], rounding: Float64[Tensor, "B"], longest: float
    ) -> tuple[Float64[Tensor, "B K"], Float64[Tensor, "B"]]:
        """Return what rows are multiplied with in place of `values`, and `rounding` with what that may change."""
        if not self.integers:
            return values, rounding
        digits = two_digits(values)
        return digits, rounding + torch.linalg.vector_norm(values - digits, dim=1) * longest * UPWARD


@dataclass(frozen=True, kw_only=True)
class CodeScreen(EightBitScreen):
    """Rows in 8 bits a coordinate.

    scale: of each coordinate, [D] float64.
    codes: [N, D] int8.
    features: [N, e + 2] float32: residual norms of each block and of all of the row, and |z|^2 / 2; a column more,
        log w_j, where samples have weights.
    radius: norm of the longest row of codes.
    """

    kind: ClassVar[str] = "int8"
    scale: Float64[Tensor, "D"]
    codes: Shaped[Tensor, "N D"]
    features: Float[Tensor, "N _"]
    radius: float

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.scale.nbytes + self.codes.nbytes + self.features.nbytes

    def to(self, device: torch.device) -> CodeScreen:
        """Return the screen on `device`, where products are timed if it is another one."""
        moved = {name: getattr(self, name).to(device) for name in ("scale", "codes", "features")}
        there = moved["codes"].device
        cost = self.product_cost if there == self.codes.device else given_or_timed(None, there)
        return replace(self, product_cost=cost, **moved)

    def extended(self, rows: Rows, kept: Int64[Tensor, "n"], progress: Progress | None = None) -> CodeScreen:
        """Return the screen of `rows`, of which those of this screen are a part; only the others are encoded.

        rows: all rows, around the centre that this screen was made with; any scale gives valid bounds.
        kept: where the rows of this screen are among them, [n] int64. progress: called with how many of the other rows
        are done, and their number.
        """
        codes = self.codes.new_empty(len(rows), self.dim).index_copy_(0, kept, self.codes)
        features = self.features.new_empty(len(rows), self.features.shape[1]).index_copy_(0, kept, self.features)
        if rows.log_weights is not None:
            features[:, -1] = log_weights(rows, slice(None))
        radius = self.radius
        for span in added_spans(len(rows), kept, progress):
            radius = max(radius, _encode(rows, self.scale, span, codes=codes, features=features))
        return replace(self, codes=codes, features=features, radius=radius)

    def _projected(self, rows: Rows, query: Query, point: Float64[Tensor, "B D"], level: int) -> Projected:
        terms = self.dim + self.features.shape[1]
        rounding = product_rounding(rows, query, point, terms=terms, radius=DECODED * rows.radius)
        projection, rounding = self._factors(point * self.scale, rounding, self.radius)
        return Projected(projection, _block_norms(point), rounding)

    @cached_property
    def _edges(self) -> Shaped[Tensor, "_"]:
        edges = [*range(0, self.dim, CODE_BLOCK), self.dim]
        return torch.tensor(edges, dtype=torch.int32, device=self.codes.device)

    @cached_property
    def _typical(self) -> Float64[Tensor, "_"]:
        return self.features[:TYPICAL_ROWS, : len(self._edges)].double().mean(0)

    def leading_level(self, rows: Rows, level: int) -> LeadingLevel | None:
        """Return what kernels of a card multiply values of queries with, None where codes are not read as integers.

        rows, level: the data, and 0.
        """
        if not self.on_card:
            return None
        blocks = len(self._edges) - 1
        return LeadingLevel(
            self.features,
            self._edges,
            self._typical,
            blocks=blocks,
            norms=blocks,
            coordinate=0.0,
            upper=walk_error(self.dim + self.features.shape[1]) + UNIT_ROUNDOFF[torch.float32],
            row_size=DECODED * rows.radius,
            square_size=rows.radius**2,
            shared=walk_error(rows.dim) * rows.operand_radius,
            weights=weight_rounding(rows),
            codes=self.codes,
            scale=self.scale,
            radius=self.radius,
            digits=2,
        )

    def _source_residual(self, rows: Rows, query: Query, source: Source, level: int) -> SourceResidual:
        # residuals of other rows are not orthogonal to the source: all of it counts
        whole = rows.gather(source.row.clamp_min(0)) - rows.centre
        typical = self.features[:TYPICAL_ROWS].double().mean(0)
        count = -(-self.dim // CODE_BLOCK)
        own = query.alpha[:, None] * _block_norms(whole)
        return SourceResidual(own, typical[:count], typical[count], tests=len(self))

    def bound(
        self, rows: Rows, level: int, query_bound: QueryBound, place: SomeRows, *, out: Float[Tensor, "n B"]
    ) -> None:
        """Write upper logits less slack and shared products into `out`, [n, B]; arguments as in :meth:`Screen.bound`.

        rows, level, query_bound, place: the data, 0, the coefficients of the batch, and which rows.
        """
        products(chosen_rows(self.codes, place), query_bound.projection, out, integers=self.integers)
        gains = torch.cat(query_bound.feature_gains(rows.log_weights is not None), dim=1).float()
        out.addmm_(chosen_rows(self.features, place), gains.T)

    def terms(self, rows: Rows, level: int, query_bound: QueryBound) -> Terms | None:
        """Return what native kernels add up, None where codes are not multiplied as integers.

        rows, level, query_bound: the data, 0, and the coefficients of the batch.
        """
        gains = torch.cat(query_bound.feature_gains(rows.log_weights is not None), dim=1)
        terms = Terms(self.codes, query_bound.projection, query_bound.slack, self.features, gains, radius=self.radius)
        return terms if self.integers else None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What a file keeps."""
        return {"scale": self.scale, "codes": self.codes, "features": self.features}

    @property
    def facts(self) -> dict[str, Any]:
        """What a file says of them."""
        return {"radius": self.radius}

    @classmethod
    def restored(cls, tensors: dict[str, Tensor], facts: dict[str, Any], thresholds: Thresholds) -> CodeScreen:
        """Return the screen that a file keeps, on the CPU, where products are timed.

        tensors, facts: what :attr:`tensors` and :attr:`facts` were. thresholds: its SNR thresholds.
        """
        dim = tensors["codes"].shape[1]
        return cls(
            thresholds=thresholds,
            dim=dim,
            widths=(dim,),
            product_cost=given_or_timed(None, tensors["codes"].device),
            scale=tensors["scale"],
            codes=tensors["codes"],
            features=tensors["features"],
            radius=facts["radius"],
        )


def code_screen(rows: Rows, progress: Progress | None = None, *, product_cost: float | None = None) -> CodeScreen:
    """Return the screen of 8-bit codes of `rows`. Reads the data twice, 16 MB at a time; memory is the screen.

    progress: called with the rows done and their number. product_cost: time of a product with 8-bit rows over that with
    float32 rows, in (0, 1], or None to time it.
    The scale of a coordinate is its largest value over 127, or six times its root mean square where outliers go
    further: these are cut, and the residual norms say so.
    """
    size = -(-rows.dim // CODE_BLOCK) + (2 if rows.log_weights is None else 3)
    codes = torch.empty(len(rows), rows.dim, dtype=torch.int8, device=rows.device)
    features = torch.empty(len(rows), size, device=rows.device)
    scale, radius = _scale(rows), 0.0
    for part in _parts(Span(0, len(rows)), rows.dim):
        radius = max(radius, _encode(rows, scale, part, codes=codes, features=features))
        if progress is not None:
            progress(part.stop, len(rows))
    return CodeScreen(
        thresholds=no_thresholds(1),
        dim=rows.dim,
        widths=(rows.dim,),
        product_cost=given_or_timed(product_cost, rows.device),
        scale=scale,
        codes=codes,
        features=features,
        radius=radius,
    )


def _scale(rows: Rows) -> Float64[Tensor, "D"]:
    largest, squares = torch.zeros_like(rows.centre), torch.zeros_like(rows.centre)
    for part in _parts(Span(0, len(rows)), rows.dim):
        block = rows.stored[part.start : part.stop].double() - rows.centre
        largest = torch.maximum(largest, block.abs().amax(0))
        squares += block.square().sum(0)
    scale: Tensor = torch.minimum(largest, CUT_DEVIATIONS * (squares / len(rows)).sqrt()) / LARGEST_CODE
    # a coordinate that never varies has no codes but zero
    return scale.clamp_min(1e-300)


def _encode(
    rows: Rows,
    scale: Float64[Tensor, "D"],
    span: Span,
    *,
    codes: Shaped[Tensor, "N D"],
    features: Float[Tensor, "N _"],
) -> float:
    """Write codes and features of the rows in `span`; return the norm of the longest row of codes."""
    longest = 0.0
    for part in _parts(span, rows.dim):
        some = slice(part.start, part.stop)
        block = rows.stored[some].double() - rows.centre
        code = (block / scale).round().clamp_(-LARGEST_CODE, LARGEST_CODE)
        codes[some] = code.to(torch.int8)
        longest = max(longest, float(code.square().sum(1).max().sqrt()))
        residual = block.addcmul_(code, scale, value=-1.0)
        columns = [_block_norms(residual), torch.linalg.vector_norm(residual, dim=1, keepdim=True)]
        norms = torch.cat(columns, dim=1) * UPWARD
        features[some, : norms.shape[1]] = norms.float()
        features[some, norms.shape[1]] = rows.half_norms[some].float()
        if rows.log_weights is not None:
            features[some, -1] = log_weights(rows, some)
    return longest


def _block_norms(values: Float64[Tensor, "n D"]) -> Float64[Tensor, "n e"]:
    return torch.stack([torch.linalg.vector_norm(part, dim=1) for part in values.split(CODE_BLOCK, dim=1)], dim=1)


def _parts(span: Span, dim: int) -> Iterator[Span]:
    size = max(1, ENCODE_VALUES // dim)
    for start in range(span.start, span.stop, size):
        yield Span(start, min(start + size, span.stop))
