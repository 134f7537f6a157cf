"""What the kernels see of a data set and of a batch of queries: plain tensors, nothing about flow matching."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, TypeVar

import torch

from ...base.arrays import Float, Float64, Int64, Shaped, Tensor
from ...base.calls.cuda_graphs import capturing
from ...base.calls.transforms import cached_tensor
from ...base.outside.rows import OutsideRows

# a raw operand costs no pass over the data; one whose radius is this much larger loses too many digits
RAW_RADIUS_LIMIT = 3.0

# radii whose squares, and products with queries a million times as far or over noise a millionth as large, are float32
# numbers
LEAST_RADIUS, MOST_RADIUS = 1e-12, 1e15

Derived = TypeVar("Derived")


@dataclass(frozen=True)
class Rows:
    """Samples r_j = stored_j - centre, flattened, in their storage dtype.

    stored: [N, D], any of STORAGE_DTYPES; never copied.
    centre: [D] float64, exactly representable in float32, so that a centred float32 block is as exact as the data;
    for 8-bit storage integers that the storage could hold.
    half_norms: |r_j|^2 / 2, summed in float64.
    log_weights: log w_j with the weights summing to one, or None for equal weights 1/N.
    radius, stored_radius: the largest |r_j| and the largest |stored_j|.
    copies: how many rows, at most, nearly equal each other; 1 where no two do.
    centre_off: whether matrix products take the centre off however small it is, as kernels do where that costs nothing.
    """

    stored: Shaped[Tensor, "N D"]
    centre: Float64[Tensor, "D"]
    half_norms: Float64[Tensor, "N"]
    log_weights: Float64[Tensor, "N"] | None
    radius: float
    stored_radius: float
    copies: int = 1
    centre_off: bool = False

    def __len__(self) -> int:
        return self.stored.shape[0]

    @property
    def dim(self) -> int:
        return self.stored.shape[1]

    @property
    def device(self) -> torch.device:
        return self.stored.device

    def to(self, device: torch.device) -> Rows:
        """Return the rows in the memory of `device`; on the CPU those that stay outside stay there."""
        if isinstance(self.stored, OutsideRows) and device.type == "cpu":
            return self.streamed(device, None)
        return self._with(self.stored.to(device), device)

    def streamed(self, device: torch.device, block_bytes: int | None) -> Rows:
        """Return the rows in their files, or on the host, from where they come to `device` in blocks of so many bytes.

        block_bytes: None leaves the choice to who reads. Nothing is read.
        """
        held = self.stored if isinstance(self.stored, OutsideRows) else OutsideRows.held(self.stored)
        made = self._with(held.streamed(device, block_bytes), device)
        # what would cost a read of everything
        made._derived.update({name: self._derived[name] for name in ("range", "total") if name in self._derived})
        return made

    def _with(self, stored: Tensor, device: torch.device) -> Rows:
        log_weights = None if self.log_weights is None else self.log_weights.to(device)
        centre, half_norms = self.centre.to(device), self.half_norms.to(device)
        return replace(self, stored=stored, centre=centre, half_norms=half_norms, log_weights=log_weights)

    @cached_property
    def squares_in_single(self) -> bool:
        """Whether float32 holds the squares of the rows, and what queries multiply them with."""
        return LEAST_RADIUS < self.radius < MOST_RADIUS

    @cached_property
    def centre_norm(self) -> float:
        """Norm of the centre."""
        return float(self.centre.norm())

    @cached_property
    def raw_operand(self) -> bool:
        """Whether matrix products may read the rows as they are stored, without subtracting the centre first."""
        small = self.stored_radius <= RAW_RADIUS_LIMIT * self.radius or self.stored_radius == 0.0
        return small and not self.centre_off

    def with_centre_off(self) -> Rows:
        """Return these rows as products read them without their centre, however small it is."""
        made: Rows = self.derived("centre off", replace, centre_off=True)
        return made

    @cached_tensor
    def operand_centre(self) -> Float64[Tensor, "D"]:
        """The part of the centre that is still in the operand of the matrix products: [D] float64."""
        return self.centre if self.raw_operand else torch.zeros_like(self.centre)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle holds: what was derived holds addresses, and is derived again."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def derived(self, name: str, make: Callable[..., Derived], *, anew: bool = False, **options: Any) -> Derived:
        """Return `make(self, **options)`, which is kept under `name` with these rows, for as long as they are.

        anew: make it once more. While a CUDA graph is captured nothing is kept: its memory belongs to the graph.
        """
        if anew or name not in self._derived:
            made = make(self, **options)
            if capturing():
                return made
            self._derived[name] = made
        kept: Derived = self._derived[name]
        return kept

    @cached_property
    def _derived(self) -> dict[str, Any]:
        return {}

    @property
    def operand_radius(self) -> float:
        """The largest norm of a row as the matrix products see it."""
        return self.stored_radius if self.raw_operand else self.radius

    def block(self, start: int, stop: int, buffer: Shaped[Tensor, "m D"]) -> Shaped[Tensor, "n D"]:
        """Return rows [start, stop) as an operand in the dtype of `buffer`: a view where nothing must change."""
        stored = self.stored[start:stop]
        if self.raw_operand and stored.dtype == buffer.dtype:
            return stored
        out = buffer[: stop - start].copy_(stored)
        return out if self.raw_operand else out.sub_(self.centre.to(out.dtype))

    def centred(self, stored: Shaped[Tensor, "n D"]) -> Float[Tensor, "n D"]:
        """Return some of the stored rows without the centre, rounded once to float32."""
        wide = torch.promote_types(stored.dtype, torch.float32)
        return stored.to(wide, copy=True).sub_(self.centre.to(wide)).float()

    def gather(self, index: Int64[Tensor, "..."]) -> Float64[Tensor, "... D"]:
        """Return the rows named by `index` in float64, as stored: the centre is still in them."""
        return self.stored.index_select(0, index.reshape(-1)).double().reshape(*index.shape, self.dim)


@dataclass(frozen=True)
class GivenPoints:
    """Queries in the space of values, where a sample is scale * stored + offset.

    x: as they were given, [B, D] float64.
    """

    x: Float64[Tensor, "B D"]
    scale: float
    offset: float

    def take(self, index: Int64[Tensor, "b"]) -> GivenPoints:
        """Return those of the queries in `index`, [b]."""
        return GivenPoints(self.x[index], self.scale, self.offset)


@dataclass(frozen=True)
class Query:
    """A batch of queries in the coordinates of the rows.

    point: q = x - alpha * centre, [B, D] float64.
    alpha: scale of the samples, [B].
    inverse_variance: 1 / sigma^2, [B].
    excluded: row ranges [start, stop) that do not count for a query, [B, H, 2]; H may be 0.
    given: the queries as they were given, whose digits `point` may have lost, or None where it is exact.
    """

    point: Float64[Tensor, "B D"]
    alpha: Float64[Tensor, "B"]
    inverse_variance: Float64[Tensor, "B"]
    excluded: Int64[Tensor, "B H 2"]
    given: GivenPoints | None = None

    def __len__(self) -> int:
        return self.point.shape[0]

    @property
    def gain(self) -> Float64[Tensor, "B"]:
        """Factor of <q, r_j> in the logit: alpha / sigma^2."""
        return self.alpha * self.inverse_variance

    @cached_property
    def norm(self) -> Float64[Tensor, "B"]:
        """|q|, [B]."""
        norm: Tensor = torch.linalg.vector_norm(self.point, dim=1)
        return norm

    @property
    def moved(self) -> float:
        """Norm of what was taken off the points beside the centre, for each unit of alpha; they may lack its digits."""
        return 0.0

    def in_stored_coordinates(self, rows: Rows) -> Float64[Tensor, "B D"]:
        """The point against rows that still carry their centre: q + alpha * centre."""
        return torch.addcmul(self.point, self.alpha[:, None], rows.centre)

    def take(self, index: Int64[Tensor, "b"]) -> Query:
        """Return the queries in `index`."""
        given = None if self.given is None else self.given.take(index)
        return Query(self.point[index], self.alpha[index], self.inverse_variance[index], self.excluded[index], given)

    def excluding(self, excluded: Int64[Tensor, "B H 2"]) -> Query:
        """Return the queries with other row ranges that do not count, [B, H, 2]."""
        return replace(self, excluded=excluded)


class ValueQuery(Query):
    """Queries in the space of values, brought to the coordinates of the rows where these are asked for."""

    variance: Float64[Tensor, "B"]
    base: Float64[Tensor, "D"]
    given: GivenPoints

    def __init__(
        self,
        given: GivenPoints,
        alpha: Float64[Tensor, "B"],
        variance: Float64[Tensor, "B"],
        excluded: Int64[Tensor, "B H 2"],
        base: Float64[Tensor, "D"],
    ) -> None:
        """Hold the queries `given`.

        variance: of x around alpha X_j in value space, [B]. base: the centre of the rows there, [D]. alpha, excluded:
        as in Query.
        """
        vars(self).update(given=given, alpha=alpha, variance=variance, excluded=excluded, base=base)

    def __len__(self) -> int:
        return self.alpha.shape[0]

    @cached_property
    def point(self) -> Float64[Tensor, "B D"]:
        """The queries in the coordinates of the rows, [B, D]."""
        moved = torch.addcmul(self.given.x, self.alpha[:, None], self.base, value=-1.0)
        return moved if self.given.scale == 1.0 else moved / self.given.scale

    @property
    def moved(self) -> float:
        """Norm of the offset that was taken off the points for each unit of alpha, in row units."""
        return float(abs(self.given.offset) * self.given.x.shape[-1] ** 0.5 / abs(self.given.scale))

    @cached_property
    def inverse_variance(self) -> Float64[Tensor, "B"]:
        """1 / sigma^2 in row units, [B]."""
        return self.variance.reciprocal() * self.given.scale**2

    def take(self, index: Int64[Tensor, "b"]) -> ValueQuery:
        """Return the queries in `index`."""
        parts = self.alpha[index], self.variance[index], self.excluded[index]
        return ValueQuery(self.given.take(index), *parts, self.base)

    def excluding(self, excluded: Int64[Tensor, "B H 2"]) -> ValueQuery:
        """Return the queries with other row ranges that do not count, [B, H, 2]."""
        other = ValueQuery(self.given, self.alpha, self.variance, excluded, self.base)
        # what was asked for does not depend on ranges
        known = ("point", "inverse_variance", "norm")
        vars(other).update({name: vars(self)[name] for name in known if name in vars(self)})
        return other


@dataclass(frozen=True)
class Span:
    """A contiguous range [start, stop) of rows."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start
