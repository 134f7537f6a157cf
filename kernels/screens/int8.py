"""A screen of 8-bit codes: every coordinate to a few bits, for rows that no few coordinates tell apart.

Notation: z a centred row, k its codes, s the scale of each coordinate, e = z - s k what they leave out. For any y the
product <y, z> is <y s, k> plus at most, block by block, the norm of y times the norm of e (Cauchy-Schwarz).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from ...base.arrays import Float, Float64, Int64, Shaped, Tensor
from ...base.progress import Progress
from ..common.rows import Query, Rows, Span
from .int8_products import integers_pay, product_cost, products, two_digits
from .nearest import DistanceVectors
from .query_bounds import (
    TYPICAL_ROWS,
    UPWARD,
    Known,
    QueryBound,
    Source,
    Split,
    make_query_bound,
    product_slack,
    shared_slack,
    with_source,
)
from .screen import Place, Screen, Thresholds, chosen_rows, gaps, log_weights, no_thresholds
from .shared_products import SharedProducts

# what codes leave out is bounded in blocks of this many coordinates: a 64th of the memory of the codes
CODE_BLOCK = 256

# the largest code, and the deviations of a coordinate beyond which it is cut: outliers would coarsen all other rows
TOP, CUT = 127, 6.0

# values encoded at once: 16 MB in float64
ENCODE_VALUES = 1 << 21


@dataclass(frozen=True, kw_only=True)
class CodeScreen(Screen):
    """Rows in 8 bits a coordinate.

    scale: of each coordinate, [D] float64. codes: [N, D] int8.
    features: [N, e + 2] float32: norms of what the codes leave out of each block and of all of it, and |z|^2 / 2; a
        column more, log w_j, where samples have weights.
    radius: norm of the largest row of codes.
    """

    kind: ClassVar[str] = "int8"
    scale: Float64[Tensor, "D"]
    codes: Shaped[Tensor, "N D"]
    features: Float[Tensor, "N _"]
    radius: float

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def costs(self) -> tuple[int, ...]:
        """The dimension times what a product with 8-bit numbers costs on this device."""
        return (round(self.dim * code_cost(self.codes.device, self.dim)),)

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.scale.nbytes + self.codes.nbytes + self.features.nbytes

    def to(self, device: torch.device) -> CodeScreen:
        """Return the screen on `device`."""
        moved = {name: getattr(self, name).to(device) for name in ("scale", "codes", "features")}
        return replace(self, **moved)

    def extended(self, rows: Rows, kept: Int64[Tensor, "n"], progress: Progress | None = None) -> CodeScreen:
        """Return the screen of `rows`, where the rows of this one stand at `kept`: only the others are encoded.

        Any scale gives valid bounds; the centre has to be the same.
        """
        codes = self.codes.new_empty(len(rows), self.dim).index_copy_(0, kept, self.codes)
        features = self.features.new_empty(len(rows), self.features.shape[1]).index_copy_(0, kept, self.features)
        if rows.log_weights is not None:
            features[:, -1] = log_weights(rows, slice(None))
        radius = self.radius
        for span, done in gaps(len(rows), kept):
            radius = max(radius, _encode(rows, self.scale, span, codes, features))
            if progress is not None:
                progress(done, len(rows) - len(kept))
        return replace(self, codes=codes, features=features, radius=radius)

    def query_bound(
        self, rows: Rows, query: Query, source: Source | None = None, shared_products: SharedProducts | None = None
    ) -> QueryBound:
        """Return the coefficients of a batch of queries, see :class:`QueryBound`."""
        shared, point = (None, query.point) if shared_products is None else shared_products.split(query.point)
        head, terms = point * self.scale, self.dim + self.features.shape[1]
        # a decoded row is at most twice as long as the row, and its bounds add once more
        rounding = product_slack(rows, query, point, terms, 3.0 * rows.radius)
        if integers_pay(self.codes.device, self.dim):
            exact, head = head, two_digits(head)
            rounding = rounding + torch.linalg.vector_norm(exact - head, dim=1) * self.radius * UPWARD
        if shared_products is not None and shared is not None:
            rounding = rounding + shared_slack(rows, shared_products, shared)
        split = Split(point, shared, head, _block_norms(point))
        query_bound = make_query_bound(rows, query, split, rounding, shared_products is not None)
        if source is None or shared_products is not None:
            return query_bound
        return with_source(query_bound, query, source, self._known(rows, query, source))

    def _known(self, rows: Rows, query: Query, source: Source) -> Known:
        # what codes leave out of other rows is not orthogonal to the source: all of it counts
        whole = rows.gather(source.row.clamp_min(0)) - rows.centre
        typical = self.features[:TYPICAL_ROWS].double().mean(0)
        count = -(-self.dim // CODE_BLOCK)
        return Known(query.alpha[:, None] * _block_norms(whole), typical[:count], typical[count], len(self))

    def bound(self, rows: Rows, level: int, query_bound: QueryBound, place: Place, out: Float[Tensor, "n b"]) -> None:
        """Write the products of codes and norms of the rows at `place` into `out`."""
        products(chosen_rows(self.codes, place), query_bound.head, out)
        weighted = rows.log_weights is not None
        factors = torch.cat([query_bound.bounds(), *query_bound.tail(weighted)], dim=1).float()
        out.addmm_(chosen_rows(self.features, place), factors.T)

    def vectors(self, rows: Rows) -> DistanceVectors:
        """Return the rows themselves: their distances cost as much as those of codes."""
        return DistanceVectors.of(rows)

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
        """Return the screen that a file keeps."""
        dim = tensors["codes"].shape[1]
        kept = {name: tensors[name] for name in ("scale", "codes", "features")}
        return cls(thresholds=thresholds, dim=dim, widths=(dim,), radius=facts["radius"], **kept)


def code_cost(device: torch.device, dim: int) -> float:
    """Return the time of a product with rows of `dim` 8-bit values over that of float32 rows."""
    return product_cost(device) if integers_pay(device, dim) else 1.0


def code_screen(rows: Rows, progress: Progress | None = None) -> CodeScreen:
    """Return the screen of 8-bit codes of `rows`. Reads the data twice, 16 MB at a time; memory is the screen.

    The scale of a coordinate is its largest value over 127, or six times its root mean square where outliers go
    further: these are cut, and the norms of what is left out say so.
    """
    size = -(-rows.dim // CODE_BLOCK) + (2 if rows.log_weights is None else 3)
    codes = torch.empty(len(rows), rows.dim, dtype=torch.int8, device=rows.device)
    features = torch.empty(len(rows), size, device=rows.device)
    scale, radius = _scale(rows), 0.0
    for part in _parts(Span(0, len(rows)), rows.dim):
        radius = max(radius, _encode(rows, scale, part, codes, features))
        if progress is not None:
            progress(part.stop, len(rows))
    return CodeScreen(
        thresholds=no_thresholds(1),
        dim=rows.dim,
        widths=(rows.dim,),
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
    scale: Tensor = torch.minimum(largest, CUT * (squares / len(rows)).sqrt()) / TOP
    # a coordinate that never varies has no codes but zero
    return scale.clamp_min(1e-300)


def _encode(
    rows: Rows,
    scale: Float64[Tensor, "D"],
    span: Span,
    codes: Shaped[Tensor, "N D"],
    features: Float[Tensor, "N _"],
) -> float:
    """Write codes and features of the rows in `span`; return the norm of the longest row of codes."""
    longest = 0.0
    for part in _parts(span, rows.dim):
        some = slice(part.start, part.stop)
        block = rows.stored[some].double() - rows.centre
        code = (block / scale).round().clamp_(-TOP, TOP)
        codes[some] = code.to(torch.int8)
        longest = max(longest, float(code.square().sum(1).max().sqrt()))
        left = block.addcmul_(code, scale, value=-1.0)
        columns = [_block_norms(left), torch.linalg.vector_norm(left, dim=1, keepdim=True)]
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
