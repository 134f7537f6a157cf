"""OracleDataset: the finite data set an oracle is computed from, in its storage dtype, prepared once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..base.arrays import STORAGE_DTYPES, Float64, Int64, Shaped, Tensor
from ..base.errors import invalid
from ..base.files import hash_tensors, is_kind, read_tensors, write_tensors
from ..kernels import Rows, Span, prepare_rows, recentred, total_variance

# values hashed at once where samples may have to be gathered in another order
HASH_VALUES = 1 << 23

# the kind of a saved file, and the names of the tensors of its rows
DATASET_KIND = "oracle-dataset-1"
ROW_TENSORS = ("stored", "centre", "half_norms", "log_weights")


@dataclass(frozen=True)
class ValueMap:
    """The affine map from stored numbers to values: value = scale * stored + offset.

    scale: finite and > 0. offset: finite. Raises InputError for others.
    """

    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not (self.scale > 0.0 and self.scale < float("inf") and abs(self.offset) < float("inf")):
            raise invalid(
                "value_map", "must have a positive finite scale and a finite offset", self, "pass ValueMap(2 / 255, -1)"
            )

    @classmethod
    def default(cls, dtype: torch.dtype) -> ValueMap:
        """Return the map that numbers of `dtype` usually have: uint8 to [-1, 1], int8 / 127, floats unchanged."""
        return {torch.uint8: cls(2 / 255, -1.0), torch.int8: cls(1 / 127)}.get(dtype, cls())


class OracleDataset:
    """A finite data set: samples in their storage dtype, labels, weights, and the products that every query needs.

    points: [N, *shape], uint8, int8, float16, bfloat16, float32 or float64, finite. Every result is computed from
        exactly these numbers. They are shared, not copied, unless `storage` or the order of the labels needs a copy.
    labels: [N] integers, or None. Samples are kept sorted by label, so that a class is one contiguous range;
        the indices that users see are always those of `points`.
    weights: [N] non-negative, finite, not all zero, or None for equal weights; only their ratios matter.
    storage: a floating dtype to cast the numbers to. 8-bit numbers are exact in all of them: float32 costs four times
        the memory and answers small batches faster. From wider floats the cast rounds.
    value_map: from stored numbers to values; the default maps uint8 to [-1, 1], divides int8 by 127 and leaves floats.
    name: names the data set in reports.

    Attributes: name; sample_shape, a tuple; value_map; rows, the prepared rows; order, [N] int64, the index in `points`
    of each row, or None where they agree; sorted_labels, [N] int64, the label of each row, or None.

    Raises InputError for empty or non-finite data, unknown dtypes, wrong label counts and negative weights.
    Preparation takes O(N D) operations, reads the data twice in blocks and adds a few numbers per sample to the memory.

    >>> import torch
    >>> from oracle_engine import OracleDataset
    >>> data = OracleDataset(torch.tensor([[0, 255], [255, 255], [0, 0]], dtype=torch.uint8), torch.tensor([1, 0, 1]))
    >>> len(data), data.dim, data.storage
    (3, 2, torch.uint8)
    >>> data[0].tolist()
    [-1.0, 1.0]
    >>> data.segments[1]
    Span(start=1, stop=3)
    """

    def __init__(
        self,
        points: Tensor,
        labels: Tensor | None = None,
        weights: Tensor | None = None,
        *,
        storage: torch.dtype | None = None,
        value_map: ValueMap | None = None,
        name: str = "data",
    ) -> None:
        default_map = ValueMap.default(points.dtype) if isinstance(points, Tensor) else None
        points = _checked_points(points, storage)
        labels = _checked_labels(labels, len(points))
        weights = _checked_weights(weights, len(points))
        self.name = name
        self.sample_shape = tuple(points.shape[1:])
        self.value_map = value_map or default_map or ValueMap()
        self.order, self.sorted_labels = _by_label(labels)
        stored = points.reshape(len(points), -1)
        if self.order is not None:
            stored = stored[self.order]
            weights = None if weights is None else weights[self.order]
        self.rows = prepare_rows(stored, weights)

    @classmethod
    def _of_rows(
        cls, rows: Rows, *, name: str, sample_shape: Sequence[int], value_map: ValueMap, rest: Mapping[str, Any]
    ) -> OracleDataset:
        self = cls.__new__(cls)
        self.name, self.sample_shape, self.value_map, self.rows = name, tuple(sample_shape), value_map, rows
        self.order, self.sorted_labels = rest.get("order"), rest.get("sorted_labels")
        return self

    def _with_rows(self, rows: Rows, rest: Mapping[str, Any]) -> OracleDataset:
        shape, value_map = self.sample_shape, self.value_map
        return self._of_rows(rows, name=self.name, sample_shape=shape, value_map=value_map, rest=rest)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        classes = "" if self.labels is None else f", {len(self.segments)} classes"
        size = self.rows.stored.nbytes / 2**20
        what = f"{len(self):,} x {list(self.sample_shape)} {self.storage}{classes}"
        return f"OracleDataset({self.name!r}, {what}, {size:,.1f} MiB on {self.device})"

    def __getitem__(self, index: int | slice | Tensor) -> Shaped[Tensor, "..."]:
        """Return samples in value space, [*shape] for an int and [n, *shape] for a slice or an index tensor.

        index: position in the points that the data set was made from; negative ones count from the end.
        """
        chosen = torch.arange(len(self))[index].to(self.device)
        return self.sample_values(self.row_of(chosen.reshape(-1))).reshape((*chosen.shape, *self.sample_shape))

    @property
    def storage(self) -> torch.dtype:
        """The dtype in which the samples are stored."""
        return self.rows.stored.dtype

    @property
    def value_dtype(self) -> torch.dtype:
        """The dtype in which values are returned: float64 for float64 storage, else float32."""
        return torch.float64 if self.storage == torch.float64 else torch.float32

    @property
    def device(self) -> torch.device:
        """The device that holds the samples."""
        return self.rows.device

    @property
    def dim(self) -> int:
        """Number of values in one sample, D >= 1."""
        return self.rows.dim

    @cached_property
    def labels(self) -> Int64[Tensor, "N"] | None:
        """Labels in the order of the points that the data set was made from, [N] int64, or None."""
        if self.sorted_labels is None or self.order is None:
            return self.sorted_labels
        return torch.empty_like(self.sorted_labels).index_copy_(0, self.order, self.sorted_labels)

    @cached_property
    def segments(self) -> Mapping[int, Span]:
        """The range of rows of each class, by label; the mapping is empty without labels."""
        if self.sorted_labels is None:
            return {}
        names, counts = self.sorted_labels.unique_consecutive(return_counts=True)
        ends = counts.cumsum(0).tolist()
        starts = [0, *ends[:-1]]
        return {int(name): Span(start, end) for name, start, end in zip(names.tolist(), starts, ends, strict=True)}

    @cached_property
    def base(self) -> Float64[Tensor, "D"]:
        """The centre of the rows in value space."""
        return self.value_map.scale * self.rows.centre + self.value_map.offset

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all that an answer depends on: samples, shape, value map, labels and weights.

        32 hexadecimal digits. The first access reads the data once.
        """
        facts = (len(self), self.sample_shape, str(self.storage), self.value_map)
        return hash_tensors(repr(facts), [self.rows.stored, self.sorted_labels, self.order, self.rows.log_weights])

    def prefix_fingerprint(self, count: int) -> str:
        """Return a hash of the first samples, their labels, shape and value map, but not of their weights.

        count: how many samples, 0..N. A data set to which samples were appended has the hash of what it was before.
        32 hexadecimal digits. These samples are read once.
        """
        facts = (count, self.sample_shape, str(self.storage), self.value_map)
        labels = None if self.labels is None else self.labels[:count]
        return hash_tensors(repr(facts), [labels, *self._blocks(count)])

    def prefix_rows(self, count: int) -> Int64[Tensor, "n"]:
        """Return the rows here of the samples that a data set of the first samples alone would hold, [count] int64.

        count: how many samples, 0..N. The result is in the order of the rows of that data set.
        """
        order = torch.arange(count, device=self.device)
        if self.labels is not None:
            order = self.labels[:count].sort(stable=True).indices
        return self.row_of(order)

    def _blocks(self, count: int) -> Iterator[Tensor]:
        size = max(1, HASH_VALUES // self.dim)
        for start in range(0, count, size):
            some = torch.arange(start, min(start + size, count), device=self.device)
            yield self.rows.stored.index_select(0, self.row_of(some))

    @cached_property
    def variance_per_dim(self) -> float:
        """Variance of the weighted samples in value space, averaged over the D coordinates."""
        return self.value_map.scale**2 * total_variance(self.rows) / self.dim

    def row_of(self, index: Int64[Tensor, "n"]) -> Int64[Tensor, "n"]:
        """Return the rows of samples, [n] int64 in 0..N - 1.

        index: [n] int64, positions in the points that the data set was made from, 0..N - 1.
        """
        return index if self._position is None else self._position[index]

    def index_of(self, row: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
        """Return the indices of samples in the points that the data set was made from, int64 in the shape of `row`.

        row: rows, any shape, int64 in 0..N - 1; -1 stands for no sample and stays -1.
        """
        return row if self.order is None else torch.where(row < 0, -1, self.order[row.clamp_min(0)])

    @cached_property
    def _position(self) -> Int64[Tensor, "N"] | None:
        if self.order is None:
            return None
        return torch.empty_like(self.order).index_copy_(0, self.order, torch.arange(len(self), device=self.device))

    def sample_values(self, row: Int64[Tensor, "n"]) -> Shaped[Tensor, "n ..."]:
        """Return samples in value space, [n, *shape] of `value_dtype`, computed in float64 and rounded once.

        row: [n] int64, rows in 0..N - 1. The result is a copy.
        """
        stored = self.rows.stored.index_select(0, row).double()
        values = stored.mul_(self.value_map.scale).add_(self.value_map.offset)
        return values.to(self.value_dtype).reshape((len(row), *self.sample_shape))

    def to(self, device: torch.device | str) -> OracleDataset:
        """Return the data set on another device, or itself where it is there already.

        device: where the samples are to be; the result holds a copy there. Raises InputError where a CUDA device has
        less memory free than the stored samples need.
        """
        target = torch.device(device)
        if target == self.device:
            return self
        if target.type == "cuda":
            _check_fits(self.rows.stored.nbytes, *torch.cuda.mem_get_info(target))
        rows = self.rows.to(target)
        rest = {"order": _moved(self.order, target), "sorted_labels": _moved(self.sorted_labels, target)}
        return self._with_rows(rows, rest)

    def centred_at(self, centre: Float64[Tensor, "D"]) -> OracleDataset:
        """Return the data set with its rows prepared around another centre, or itself where they are; answers agree.

        centre: [D] float64, in stored numbers; an index needs the centre that it was built with. The data are read
        once and shared, not copied.
        """
        if torch.equal(centre, self.rows.centre):
            return self
        rest = {"order": self.order, "sorted_labels": self.sorted_labels}
        moved = self._with_rows(recentred(self.rows, centre), rest)
        moved.__dict__["fingerprint"] = self.fingerprint
        return moved

    def save(self, path: str | Path) -> None:
        """Write the prepared data set to one checksummed `.safetensors` file; a failure leaves no file behind.

        path: the file to write or replace. Raises OSError where it cannot be written. The data are read twice.
        """
        tensors = {name: getattr(self.rows, name) for name in ROW_TENSORS}
        tensors |= {"order": self.order, "sorted_labels": self.sorted_labels}
        facts = {
            "name": self.name,
            "sample_shape": list(self.sample_shape),
            "value_map": [self.value_map.scale, self.value_map.offset],
            "radius": self.rows.radius,
            "stored_radius": self.rows.stored_radius,
            "fingerprint": self.fingerprint,
        }
        write_tensors(
            Path(path), DATASET_KIND, {name: value for name, value in tensors.items() if value is not None}, facts
        )

    @classmethod
    def load(cls, path: str | Path, *, verify: bool = True) -> OracleDataset:
        """Return the data set that :meth:`save` wrote; its samples are memory-mapped, not copied.

        path: the file. verify: True reads everything once and compares it with the checksum; False reads only the
            header, for trusted files.

        Raises FileNotFoundError where there is no file and DataFileError for one that is damaged or of another kind.
        """
        tensors, facts = read_tensors(Path(path), DATASET_KIND, verify=verify)
        rows = Rows(
            **{name: tensors.get(name) for name in ROW_TENSORS},  # type: ignore[arg-type]
            radius=facts["radius"],
            stored_radius=facts["stored_radius"],
        )
        value_map, shape = ValueMap(*facts["value_map"]), facts["sample_shape"]
        loaded = cls._of_rows(rows, name=facts["name"], sample_shape=shape, value_map=value_map, rest=tensors)
        loaded.__dict__["fingerprint"] = facts["fingerprint"]
        return loaded

    @staticmethod
    def is_saved(path: str | Path) -> bool:
        """Return whether :meth:`save` wrote the file at `path`; only its header is read."""
        return is_kind(Path(path), DATASET_KIND)


def _by_label(labels: Tensor | None) -> tuple[Int64[Tensor, "N"] | None, Int64[Tensor, "N"] | None]:
    """Return the order that sorts the labels, None where they are sorted, and the sorted labels."""
    if labels is None or not bool((labels[1:] < labels[:-1]).any()):
        return None, labels
    ordered, order = labels.sort(stable=True)
    return order, ordered


def _checked_points(points: Tensor, storage: torch.dtype | None) -> Tensor:
    if not isinstance(points, Tensor):
        raise invalid(
            "points", "must be a torch.Tensor", type(points).__name__, "use oracle_engine.load_dataset(points)"
        )
    if storage is not None and not storage.is_floating_point:
        raise invalid("storage", "must be a floating dtype", storage, "leave it out to keep the data as they are")
    points = points.detach() if storage is None else points.detach().to(storage)
    if points.dtype not in STORAGE_DTYPES:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in STORAGE_DTYPES)
        raise invalid("points", f"must be stored as one of {names}", points.dtype, "convert them with points.float()")
    if points.ndim == 0 or points.numel() == 0:
        raise invalid(
            "points", "must hold at least one sample of at least one value", list(points.shape), "pass [N, *shape]"
        )
    return points


def _checked_labels(labels: Tensor | None, count: int) -> Tensor | None:
    if labels is None:
        return None
    labels = torch.as_tensor(labels).detach()
    if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
        raise invalid("labels", "must be integers", labels.dtype, "pass labels.long()")
    if labels.shape != (count,):
        raise invalid(
            "labels",
            f"must have shape [{count}], one for each sample",
            list(labels.shape),
            "check their order and number",
        )
    return labels.long()


def _checked_weights(weights: Tensor | None, count: int) -> Tensor | None:
    if weights is None:
        return None
    weights = torch.as_tensor(weights).detach().double()
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


def _check_fits(needed: int, free: int, total: int) -> None:
    if needed > free:
        sizes = f"{free / 2**30:,.1f} of {total / 2**30:,.1f} GiB free"
        remedy = "store 8-bit or 16-bit numbers, take fewer samples, or keep the data on the CPU"
        raise invalid("device", f"must have {needed / 2**30:,.1f} GiB free for the data", sizes, remedy)


def _moved(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device)
