"""A screen of 8-bit codes of leading coordinates: many coordinates for the price of few, the first of them in float32.

Notation: z a centred row, c its leading coordinates in an orthonormal basis V; the first LEADING of them are kept as
they are, the others as codes k with a scale s each; e = c - s k their residual, r what V leaves of z. For any y the
product <y, z> is at most <V^T y, (c, s k)> + |V^T y| |e| + |y - V V^T y| |r| (Cauchy-Schwarz).
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
from ...common.screen_terms import UPWARD, Terms
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
from ..bounds.screen import SomeRows, Thresholds, added_spans, chosen_rows, log_weights, no_thresholds
from .int8 import CUT_DEVIATIONS, DECODED, LARGEST_CODE, EightBitScreen
from .int8_products import SCREENING_DIGITS, given_or_timed, integers_pay, products, relative_cost
from .principal_coordinates import (
    PROJECT_BYTES,
    norm_beyond,
    principal_basis,
    projection_error,
    residual_norm,
    row_features,
)

# coordinates in float32: they vary most, and would coarsen the single digit that codes are multiplied with
LEADING = 16

# the shares of the dimension that levels have, and the fewest codes of a level
SHARES, FEWEST_CODES = (12, 6, 3), 16


@dataclass(frozen=True, kw_only=True)
class LeadingCodeScreen(EightBitScreen):
    """Leading coordinates of rows in 8 bits, at several levels of detail.

    basis: orthonormal columns, [D, M] float64, the directions of largest variance first.
    widths: rising; the last is M.
    scale: of each coordinate but the first, [M - LEADING] float64.
    codes: [N, M - LEADING] int8; a level multiplies the first of them.
    features: for each level [N, _] float32: the leading coordinates, the norms of the residual of its codes, of what
        its coordinates leave out, and of both, |z|^2 / 2, and log w_j where samples have weights.
    radii: norm of the longest row of codes of each level.
    """

    kind: ClassVar[str] = "pca8"
    bounds_by_level: ClassVar[bool] = True
    basis: Float64[Tensor, "D M"]
    scale: Float64[Tensor, "K"]
    codes: Shaped[Tensor, "N K"]
    features: tuple[Float[Tensor, "N _"], ...]
    radii: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.codes)

    @cached_property
    def narrow_basis(self) -> Float[Tensor, "D M"]:
        """The basis in float32."""
        return self.basis.float()

    @cached_property
    def _edges(self) -> tuple[Shaped[Tensor, "2"], ...]:
        device = self.codes.device
        return tuple(torch.tensor([LEADING, width], dtype=torch.int32, device=device) for width in self.widths)

    @cached_property
    def _typical(self) -> tuple[Float64[Tensor, "3"], ...]:
        return tuple(part[:TYPICAL_ROWS, LEADING : LEADING + 3].double().mean(0) for part in self.features)

    @property
    def integers(self) -> bool:
        """Whether codes are multiplied as integers."""
        return all(integers_pay(self.product_cost, width - LEADING) for width in self.widths)

    @property
    def operations(self) -> tuple[int, ...]:
        """The leading coordinates and features, and the codes times what a product with them costs."""
        share = relative_cost(self.product_cost, self.widths[0] - LEADING)
        beside = self.features[0].shape[1]
        return tuple(round(beside + (width - LEADING) * share) for width in self.widths)

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        parts = (self.basis, self.scale, self.codes, *self.features)
        return sum(part.nbytes for part in parts)

    def to(self, device: torch.device) -> LeadingCodeScreen:
        """Return the screen on `device`, where products are timed if it is another one."""
        cost = self.product_cost if device == self.codes.device else given_or_timed(None, device, SCREENING_DIGITS)
        features = tuple(part.to(device) for part in self.features)
        basis, scale, codes = self.basis.to(device), self.scale.to(device), self.codes.to(device)
        return replace(self, product_cost=cost, basis=basis, scale=scale, codes=codes, features=features)

    def extended(self, rows: Rows, kept: Int64[Tensor, "n"], progress: Progress | None = None) -> LeadingCodeScreen:
        """Return the screen of `rows`, of which those of this screen are a part; only the others are encoded.

        rows: all rows, around the centre that this screen was made with; any basis and scale give valid bounds.
        kept: where the rows of this screen are among them, [n] int64. progress: called with how many of the other rows
        are done, and their number.
        """
        made = _Encoder(rows, self.basis, self.scale, self.widths)
        made.codes[kept], made.radii = self.codes, list(self.radii)
        for part, own in zip(made.features, self.features, strict=True):
            part[kept] = own
            if rows.log_weights is not None:
                part[:, -1] = log_weights(rows, slice(None))
        for span in added_spans(len(rows), kept, progress):
            made.encode(span)
        return replace(self, codes=made.codes, features=tuple(made.features), radii=tuple(made.radii))

    def _projected(self, rows: Rows, query: Query, point: Float64[Tensor, "B D"], level: int) -> Projected:
        width = self.widths[level]
        # sums in float32 are a walk like those of the products with rows, which they add to
        coordinates = (point.float() @ self.narrow_basis[:, :width]).double()
        rest = residual_norm(point, coordinates, projection_error(rows.dim))
        coded = coordinates[:, LEADING:]
        rounding = product_rounding(rows, query, point, terms=self._terms(level), radius=DECODED * rows.radius)
        factors, rounding = self._factors(coded * self.scale[: width - LEADING], rounding, self.radii[level])
        norms = torch.stack([torch.linalg.vector_norm(coded, dim=1), rest], dim=1)
        return Projected(torch.cat([coordinates[:, :LEADING], factors], dim=1), norms, rounding)

    def _terms(self, level: int) -> int:
        return self.features[level].shape[1] + 4 * self.widths[level] + 4 * self.dim

    def leading_level(self, rows: Rows, level: int) -> LeadingLevel | None:
        """Return what kernels of a card project queries on, None where codes are not multiplied as integers.

        rows, level: the data, and the level.
        """
        if not self.on_card:
            return None
        count = self.widths[level] - LEADING
        return LeadingLevel(
            self.features[level],
            self._edges[level],
            self._typical[level],
            blocks=1,
            norms=2,
            coordinate=2.0 * projection_error(rows.dim),
            upper=walk_error(self._terms(level)),
            row_size=DECODED * rows.radius,
            square_size=rows.radius**2,
            shared=walk_error(rows.dim) * rows.operand_radius,
            weights=weight_rounding(rows),
            codes=self.codes[:, :count],
            scale=self.scale[:count],
            radius=self.radii[level],
            digits=SCREENING_DIGITS,
        )

    def _source_residual(self, rows: Rows, query: Query, source: Source, level: int) -> SourceResidual:
        # residuals of codes are not orthogonal to the source: all of its coordinates count
        row, count = source.row.clamp_min(0), self.widths[level] - LEADING
        decoded = self.codes.index_select(0, row)[:, :count].double() * self.scale[:count]
        code, rest = self.features[level].index_select(0, row)[:, LEADING : LEADING + 2].double().unbind(1)
        own = torch.stack([torch.linalg.vector_norm(decoded, dim=1) + code, rest], dim=1)
        typical = self.features[level][:TYPICAL_ROWS].double().mean(0)
        tests = len(self) * len(self.widths)
        return SourceResidual(
            query.alpha[:, None] * own, typical[LEADING : LEADING + 2], typical[LEADING + 2], tests=tests
        )

    def _gains(self, rows: Rows, query_bound: QueryBound) -> Float[Tensor, "B _"]:
        gains = query_bound.feature_gains(rows.log_weights is not None)
        return torch.cat([query_bound.projection[:, :LEADING], *gains], dim=1).float()

    def bound(
        self, rows: Rows, level: int, query_bound: QueryBound, place: SomeRows, *, out: Float[Tensor, "n B"]
    ) -> None:
        """Write upper logits less slack and shared products into `out`, [n, B]; arguments as in :meth:`Screen.bound`.

        rows, level, query_bound, place: the data, the level, the coefficients of the batch, and which rows.
        """
        codes = chosen_rows(self.codes, place)[:, : self.widths[level] - LEADING].contiguous()
        products(codes, query_bound.projection[:, LEADING:].contiguous(), out, integers=self.integers)
        out.addmm_(chosen_rows(self.features[level], place), self._gains(rows, query_bound).T)

    def terms(self, rows: Rows, level: int, query_bound: QueryBound) -> Terms | None:
        """Return what native kernels add up, None where codes are not multiplied as integers.

        rows, level, query_bound: the data, the level, and the coefficients of the batch.
        """
        terms = Terms(
            self.codes[:, : self.widths[level] - LEADING],
            query_bound.projection[:, LEADING:],
            query_bound.slack,
            self.features[level],
            self._gains(rows, query_bound),
            radius=self.radii[level],
            digits=SCREENING_DIGITS,
        )
        return terms if self.integers else None

    def vectors(self, rows: Rows) -> DistanceVectors:
        """Return coordinates of `rows` and norms of the rest: norms differ by no more than what they are norms of."""
        width = self.widths[-1]
        (made,) = row_features(rows, self.basis[:, :width], (width,), Span(0, len(rows)))
        return DistanceVectors(made[:, : width + 1], None, 4.0 * rows.radius**2)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What a file keeps."""
        features = {f"features{level}": part for level, part in enumerate(self.features)}
        return features | {"basis": self.basis, "scale": self.scale, "codes": self.codes}

    @property
    def facts(self) -> dict[str, Any]:
        """What a file says of them."""
        return {"widths": self.widths, "radii": self.radii}

    @classmethod
    def restored(cls, tensors: dict[str, Tensor], facts: dict[str, Any], thresholds: Thresholds) -> LeadingCodeScreen:
        """Return the screen that a file keeps, on the CPU, where products are timed.

        tensors, facts: what :attr:`tensors` and :attr:`facts` were. thresholds: its SNR thresholds.
        """
        widths = tuple(facts["widths"])
        return cls(
            thresholds=thresholds,
            dim=len(tensors["basis"]),
            widths=widths,
            product_cost=given_or_timed(None, tensors["codes"].device, SCREENING_DIGITS),
            basis=tensors["basis"],
            scale=tensors["scale"],
            codes=tensors["codes"],
            features=tuple(tensors[f"features{level}"] for level in range(len(widths))),
            radii=tuple(facts["radii"]),
        )


def code_widths(rows: Rows) -> tuple[int, ...]:
    """Return the widths of the levels for `rows`: a 12th, a 6th and a third of the dimension, as powers of two.

    Empty where rows are so short or few that no shorter vector would help.
    """
    wished = [2 ** round(math.log2(max(1.0, rows.dim / share))) for share in SHARES]
    return tuple(width for width in wished if LEADING + FEWEST_CODES <= width <= len(rows) // 2)


def leading_code_screen(
    rows: Rows,
    widths: Sequence[int],
    seed: int = 0,
    progress: Progress | None = None,
    *,
    product_cost: float | None = None,
) -> LeadingCodeScreen:
    """Return the screen of `rows` with levels of these `widths`, which rise and are larger than LEADING.

    seed: of the subset that the basis is fitted to. progress: called with the rows done and their number.
    product_cost: time of a product with 8-bit rows over that with float32 rows, in (0, 1], or None to time it.
    The scale of a coordinate is its largest value over 127, or six times its deviation where outliers go further.
    Costs a randomised decomposition of a subset of the rows and two passes of 2 N D M operations.
    """
    basis = principal_basis(rows, widths[-1], seed)
    made = _Encoder(rows, basis, _scale(rows, basis), tuple(widths))
    made.encode(Span(0, len(rows)), progress)
    return LeadingCodeScreen(
        thresholds=no_thresholds(len(widths)),
        dim=rows.dim,
        widths=tuple(widths),
        product_cost=given_or_timed(product_cost, rows.device, SCREENING_DIGITS),
        basis=basis,
        scale=made.scale,
        codes=made.codes,
        features=tuple(made.features),
        radii=tuple(made.radii),
    )


def _scale(rows: Rows, basis: Float64[Tensor, "D M"]) -> Float64[Tensor, "K"]:
    narrow = basis[:, LEADING:].float()
    largest, squares = basis.new_zeros(2, narrow.shape[1]).unbind(0)
    for part in _parts(rows, Span(0, len(rows))):
        coordinates = (rows.centred(rows.stored[part]) @ narrow).double()
        largest = torch.maximum(largest, coordinates.abs().amax(0))
        squares = squares + coordinates.square().sum(0)
    scale: Tensor = torch.minimum(largest, CUT_DEVIATIONS * (squares / len(rows)).sqrt()) / LARGEST_CODE
    # a coordinate that never varies has no codes but zero
    return scale.clamp_min(1e-300)


class _Encoder:
    """What codes of `rows` and the features beside them are written into, part by part."""

    def __init__(
        self, rows: Rows, basis: Float64[Tensor, "D M"], scale: Float64[Tensor, "K"], widths: tuple[int, ...]
    ) -> None:
        self.rows, self.narrow, self.scale, self.widths = rows, basis.float(), scale, widths
        size = LEADING + 4 + (rows.log_weights is not None)
        self.codes = torch.empty(len(rows), len(scale), dtype=torch.int8, device=rows.device)
        self.features = [torch.empty(len(rows), size, device=rows.device) for _ in widths]
        self.radii = [0.0 for _ in widths]

    def encode(self, span: Span, progress: Progress | None = None) -> None:
        """Write what belongs to the rows in `span`, 32 MB of rows at a time."""
        for part in _parts(self.rows, span):
            coordinates = self.rows.centred(self.rows.stored[part]) @ self.narrow
            coded = coordinates[:, LEADING:].double()
            code = (coded / self.scale).round().clamp_(-LARGEST_CODE, LARGEST_CODE)
            self.codes[part] = code.to(torch.int8)
            residual = coded.addcmul_(code, self.scale, value=-1.0)
            for level, width in enumerate(self.widths):
                self.features[level][part] = self._features(part, coordinates, residual, width)
                longest = float(code[:, : width - LEADING].square().sum(1).max().sqrt())
                self.radii[level] = max(self.radii[level], longest)
            if progress is not None:
                progress(part.stop - span.start, len(span))

    def _features(
        self, part: slice, coordinates: Float[Tensor, "n M"], residual: Float64[Tensor, "n K"], width: int
    ) -> Float[Tensor, "n _"]:
        halves = self.rows.half_norms[part]
        code = torch.linalg.vector_norm(residual[:, : width - LEADING], dim=1)
        rest = norm_beyond(halves, coordinates[:, :width], projection_error(len(self.narrow))).double()
        norms = torch.stack([code, rest, torch.hypot(code, rest)], dim=1) * UPWARD
        logs = [] if self.rows.log_weights is None else [log_weights(self.rows, part)[:, None]]
        return torch.cat([coordinates[:, :LEADING], norms.float(), halves.float()[:, None], *logs], dim=1)


def _parts(rows: Rows, span: Span) -> list[slice]:
    step = max(1, PROJECT_BYTES // (4 * rows.dim))
    return [slice(start, min(start + step, span.stop)) for start in range(span.start, span.stop, step)]
