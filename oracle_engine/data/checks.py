"""What samples, weights and devices have to be before a data set is made of them."""

from __future__ import annotations

import torch

from ..base.arrays import STORAGE_DTYPES, Float64, Int64, Numbers, Shaped, Tensor, check_dense, exact
from ..base.errors import InputError, invalid, lacks_memory
from ..base.outside.rows import OutsideRows
from ..kernels import Rows, native_prepared

# values looked at together
BLOCK_VALUES = 1 << 23
# squares of larger norms are no numbers that float32 products and float64 sums can tell apart
LARGEST_RADIUS = 1e38


def checked_points(points: Tensor, storage: torch.dtype | None) -> Tensor:
    """Return samples in the dtype in which they are kept, [N, *shape].

    points: [N, *shape], a tensor of a storage dtype. storage: a floating dtype to cast to, or None to keep theirs.
    Raises InputError for anything else, and where there is no sample or no value in one.
    """
    if not isinstance(points, Tensor):
        raise invalid(
            "points", "must be a torch.Tensor", type(points).__name__, "use oracle_engine.load_dataset(points)"
        )
    if storage is not None and not (isinstance(storage, torch.dtype) and storage.is_floating_point):
        raise invalid("storage", "must be a floating dtype", storage, "leave it out to keep the data as they are")
    check_dense("points", points)
    if points.dtype not in STORAGE_DTYPES:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in STORAGE_DTYPES)
        raise invalid("points", f"must be stored as one of {names}", points.dtype, "convert them with points.float()")
    points = points.detach() if storage is None else points.detach().to(storage)
    if points.ndim == 0 or points.numel() == 0:
        raise invalid(
            "points", "must hold at least one sample of at least one value", list(points.shape), "pass [N, *shape]"
        )
    return points


def checked_weights(weights: Numbers | None, count: int) -> Float64[Tensor, "N"] | None:
    """Return weights as float64, [count], or None for None.

    weights: [count] numbers, finite, non-negative and not all zero, or None. count: the number of samples.
    Raises InputError for others.
    """
    if weights is None:
        return None
    weights = exact(weights, "weights")
    if weights.shape != (count,):
        raise invalid(
            "weights",
            f"must have shape [{count}], one for each sample",
            list(weights.shape),
            "check their order and number",
        )
    if not bool((weights.isfinite() & (weights >= 0)).all()) or float(weights.sum()) <= 0:
        worst = float(weights.min()) if bool(weights.isfinite().all()) else "a non-finite weight"
        raise invalid("weights", "must be finite, non-negative and not all zero", worst, "clean them before use")
    return weights


def prepared_rows(
    stored: Shaped[Tensor, "N D"], weights: Float64[Tensor, "N"] | None, order: Int64[Tensor, "N"] | None
) -> Rows:
    """Return rows that are ready for queries.

    stored: samples, [N, D], of a storage dtype. weights: [N] float64, non-negative and not all zero, or None.
    order: the index of each sample in the points of the user, [N] int64, or None where they agree.

    Raises InputError, which names the sample by that index, for a NaN or an infinity, and for norms of 1e38 and more.
    Reads the data once.
    """
    try:
        rows = native_prepared(stored, weights)
    except InputError:
        bad = first_non_finite(stored, order)
        if bad is None:
            raise
        found = f"a NaN or an infinity in sample {bad}"
        raise invalid("points", "must be finite", found, "remove or repair these samples") from None
    if not rows.stored_radius < LARGEST_RADIUS:
        found = f"a sample of norm {rows.stored_radius:.3g}"
        raise invalid("points", f"must have norms below {LARGEST_RADIUS:g}", found, "rescale them")
    return rows


def first_non_finite(stored: Shaped[Tensor, "N ..."], order: Int64[Tensor, "N"] | None = None) -> int | None:
    """Return the smallest index of a sample with a NaN or an infinity, or None where there is none.

    stored: samples, [N, *shape]. order: the index of each of them, [N] int64, where they are sorted otherwise.
    """
    size = max(1, BLOCK_VALUES // max(1, stored[0].numel()))
    blocks = (stored[start : start + size] for start in range(0, len(stored), size))
    bad = [~block.reshape(len(block), -1).isfinite().all(1) for block in blocks]
    found = torch.cat(bad).nonzero()[:, 0]
    return None if len(found) == 0 else int((found if order is None else order[found]).min())


def in_order(stored: Shaped[Tensor, "N D"], order: Int64[Tensor, "N"]) -> Shaped[Tensor, "N D"]:
    """Return samples in another order: a copy, or the same files where they stay in files.

    stored: samples, [N, D]. order: the index of each, [N] int64. Raises InputError where memory has no room for a copy.
    """
    if isinstance(stored, OutsideRows):
        return stored.ordered(order)
    try:
        return stored[order]
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        requirement = "must be sorted by label where memory has no room for a copy that is"
        remedy = (
            "sort them, or save them as .npy or .safetensors, which oracle_engine.load_dataset leaves in their files"
        )
        raise invalid("points", requirement, f"{stored.nbytes / 2**30:,.1f} GiB in another order", remedy) from error


def check_fits(needed: int, free: int, total: int) -> None:
    """Check that a device has room for the data.

    needed: bytes of the data. free, total: bytes that the device has free, and has at all, for the error.
    Raises InputError where more are needed than free.
    """
    if needed > free:
        sizes = f"{free / 2**30:,.1f} of {total / 2**30:,.1f} GiB free"
        remedy = "store 8-bit or 16-bit numbers, or let the engine stream them, with resident='auto'"
        raise invalid("device", f"must have {needed / 2**30:,.1f} GiB free for the data", sizes, remedy)
