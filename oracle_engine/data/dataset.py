"""OracleDataset: the finite data set an oracle is computed from, in its storage dtype, prepared once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..base.arrays import Float64, Int64, Numbers, Shaped, Tensor
from ..base.calls.changes import Probes, Snapshot
from ..base.calls.transforms import cached_tensor
from ..base.errors import bad_file, invalid
from ..base.files import hash_tensors, is_kind, read_tensors, write_tensors
from ..base.machine.devices import usable_device
from ..base.outside.rows import OutsideRows
from ..kernels import Rows, Span, counted_copies, recentred, stored_range, total_variance
from .checks import check_fits, checked_points, checked_weights, in_order, prepared_rows
from .labels import by_label, checked_labels, class_spans, class_table
from .samples import NO_CLASS
from .values import ValueMap, layout_note, range_note

# the kind of a saved file, and the names of the tensors of its rows
DATASET_KIND = "oracle-dataset-1"
ROW_TENSORS = ("stored", "centre", "half_norms", "log_weights")


class OracleDataset:
    """A finite data set: samples in their storage dtype, labels, weights, and the products that every query needs.

    points: [N, *shape], uint8, int8, float16, bfloat16, float32 or float64, finite. Every result is computed from
        exactly these numbers. They are shared, not copied, unless `storage` or the order of the labels needs a copy:
        where they are changed in place afterwards, every answer is refused. Samples that load_dataset left in their
        files stay there in any order.
    labels: [N] integers of at least 0, -1 for a sample without a class, or None. Samples are kept sorted by label, so
        that a class is one contiguous range; the indices that users see are always those of `points`.
    weights: [N] non-negative, finite, not all zero, or None for equal weights; only their ratios matter.
    storage: a floating dtype to cast the numbers to. 8-bit numbers are exact in all of them: float32 costs four times
        the memory and answers small batches faster. From wider floats the cast rounds.
    value_map: from stored numbers to values; the default maps uint8 to [-1, 1], divides int8 by 127 and leaves floats.
    name: names the data set in reports.

    Attributes: name; origin, what load_dataset took its source for, in words, or ""; class_names, a tuple of those of
    the classes by number, empty where load_dataset met none, which may be set; sample_shape, a tuple; value_map;
    rows, the prepared rows; order, [N] int64, the index in `points` of each row, or None where they agree;
    sorted_labels, [N] int64, the label of each row, or None.

    Raises InputError for empty or non-finite data, unknown dtypes, wrong label counts, labels below -1 and negative
    weights.
    Preparation takes O(N D) operations, reads the data once and adds a few numbers per sample to the memory.

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

    origin = ""
    class_names: tuple[str, ...] = ()

    def __init__(
        self,
        points: Tensor,
        labels: Numbers | None = None,
        weights: Numbers | None = None,
        *,
        storage: torch.dtype | None = None,
        value_map: ValueMap | None = None,
        name: str = "data",
    ) -> None:
        default_map = ValueMap.default(points.dtype) if isinstance(points, Tensor) else None
        points = checked_points(points, storage)
        labels = checked_labels(labels, len(points), points.device)
        weights = checked_weights(weights, len(points))
        self.name = name
        self.sample_shape = tuple(points.shape[1:])
        if not isinstance(value_map, (ValueMap, type(None))):
            raise invalid("value_map", "must be a ValueMap or None", repr(value_map), "pass ValueMap(2 / 255, -1)")
        self.value_map = value_map or default_map or ValueMap()
        self.order, self.sorted_labels = by_label(labels)
        stored = points.reshape(len(points), -1)
        if self.order is not None:
            stored = in_order(stored, self.order)
            weights = None if weights is None else weights[self.order]
        self.rows = prepared_rows(stored, weights, self.order)
        self._snapshot = Snapshot.of(*self._watched)

    @classmethod
    def _of_rows(
        cls, rows: Rows, *, name: str, sample_shape: Sequence[int], value_map: ValueMap, rest: Mapping[str, Any]
    ) -> OracleDataset:
        """Return a data set of rows that are sorted and prepared already."""
        self = cls.__new__(cls)
        self.name, self.sample_shape, self.value_map, self.rows = name, tuple(sample_shape), value_map, rows
        self.order, self.sorted_labels = rest.get("order"), rest.get("sorted_labels")
        self._snapshot = Snapshot.of(*self._watched)
        return self

    def _with_rows(self, rows: Rows, rest: Mapping[str, Any]) -> OracleDataset:
        shape, value_map = self.sample_shape, self.value_map
        moved = self._of_rows(rows, name=self.name, sample_shape=shape, value_map=value_map, rest=rest)
        moved.origin, moved.class_names = self.origin, self.class_names
        return moved

    @cached_property
    def _watched(self) -> tuple[Tensor, ...]:
        stored = self.rows.stored
        if isinstance(stored, OutsideRows) and stored.in_memory:
            stored = stored.in_memory[0]
        if self.sorted_labels is None:
            return (stored,)
        order = () if self.order is None else (self.order,)
        return (stored, *order, self.sorted_labels)

    def check_unchanged(self) -> None:
        """Raise InputError where the samples were changed in place after they were prepared.

        Every answer checks this, at the cost of comparing a few numbers. torch counts each change of a tensor and of
        all its views; changes through NumPy or `.data`, and those of a mapped file, are noticed where they touch one of
        32 values spread over the samples.
        """
        if self._snapshot.differs(*self._watched):
            raise invalid(
                "data",
                "must stay as they were when the data set was made",
                "samples that were changed in place since, here or through a view of the same memory",
                "make the data set anew, from a copy of the samples where they will change again",
            )

    @property
    def is_counted_changed(self) -> bool:
        """Whether torch has counted a change of the samples in place; other changes show in :attr:`probes`."""
        return self._snapshot.counted(*self._watched)

    @property
    def probes(self) -> Probes | None:
        """Bytes of the stored rows that :meth:`check_unchanged` compares, or None."""
        return self._snapshot.probes(self.rows.stored)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle holds. Raises InputError where the samples were changed in place."""
        self.check_unchanged()
        return {name: value for name, value in vars(self).items() if name not in ("_snapshot", "_watched")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, whose tensors count their changes anew."""
        vars(self).update(state)
        self._snapshot = Snapshot.of(*self._watched)

    def __len__(self) -> int:
        return len(self.rows.stored)

    def __repr__(self) -> str:
        classes = "" if self.sorted_labels is None else f", {len(self.segments)} classes"
        size = self.rows.stored.nbytes / 2**20
        words = self.value_map.describe(self.storage)
        # numbers on this device are shapes only
        if self.device.type != "meta":
            words = f"{words} in [{self.value_range[0]:.4g}, {self.value_range[1]:.4g}]"
        origin = f", {self.origin}" if self.origin else ""
        what = f"{len(self):,} x {list(self.sample_shape)} {words}{classes}"
        return f"OracleDataset({self.name!r}{origin}, {what}, {size:,.1f} MiB on {self.device})"

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
        return self.rows.stored.device

    @property
    def dim(self) -> int:
        """Number of values in one sample, D >= 1."""
        return self.rows.stored.shape[1]

    @property
    def labels(self) -> Int64[Tensor, "N"] | None:
        """Labels in the order of the points that the data set was made from, [N] int64, -1 for no class, or None."""
        if self.sorted_labels is None or self.order is None:
            return self.sorted_labels
        return torch.empty_like(self.sorted_labels).index_copy_(0, self.order, self.sorted_labels)

    # read first inside a transform, torch before 2.10 gives its numbers no storage
    @cached_tensor
    def segments(self) -> Mapping[int, Span]:
        """The range of rows of each class, by label; samples without a class, whose label is -1, are in none."""
        return class_spans(self.sorted_labels)

    @cached_tensor
    def class_table(self) -> Int64[Tensor, "K 2"] | None:
        """The rows of each class, of no class, and of all, as :func:`.labels.class_table` has them."""
        return class_table(self.segments, len(self), self.device)

    @cached_tensor
    def base(self) -> Float64[Tensor, "D"]:
        """The centre of the rows in value space."""
        return self.value_map.scale * self.rows.centre + self.value_map.offset

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all that an answer depends on: samples, shape, value map, labels and weights.

        32 hexadecimal digits. The first access reads the data once, and raises InputError where they were changed.
        """
        self.check_unchanged()
        facts = (len(self), self.sample_shape, str(self.storage), self.value_map)
        return hash_tensors(repr(facts), [self.rows.stored, self.sorted_labels, self.order, self.rows.log_weights])

    @cached_property
    def variance_per_dim(self) -> float:
        """Variance of the weighted samples in value space, averaged over the D coordinates."""
        self.check_unchanged()
        return self.value_map.scale**2 * total_variance(self.rows) / self.dim

    @cached_property
    def value_range(self) -> tuple[float, float]:
        """The smallest and the largest of all values; reads data that were not prepared here once."""
        low, high = (self.value_map.scale * end + self.value_map.offset for end in stored_range(self.rows))
        return low, high

    def describe_values(self) -> str:
        """Return the map from stored numbers to values, their range and variance in words; they decide the answers."""
        low, high = self.value_range
        ends = f"values in [{low:.4g}, {high:.4g}], variance per dimension {self.variance_per_dim:.3g}"
        return f"{self.value_map.describe(self.storage)}, {ends}"

    def value_facts(self) -> dict[str, Any]:
        """Return what :meth:`describe_values` says and more, as plain values that json can write.

        The keys are origin, values, value_map (scale and offset), value_range, variance_per_dim and note, which is None
        or :attr:`value_note`.
        """
        return {
            "origin": self.origin,
            "values": self.describe_values(),
            "value_map": [self.value_map.scale, self.value_map.offset],
            "value_range": list(self.value_range),
            "variance_per_dim": self.variance_per_dim,
            "note": self.value_note,
        }

    @property
    def value_note(self) -> str | None:
        """What to look at: floats that look like pictures that nobody scaled to [-1, 1], channels that come last."""
        notes = [layout_note(self.sample_shape)]
        if self.value_map == ValueMap() and self.storage.is_floating_point:
            notes.insert(0, range_note(self.sample_shape, *self.value_range))
        return "; ".join(note for note in notes if note is not None) or None

    def row_of(self, index: Int64[Tensor, "n"]) -> Int64[Tensor, "n"]:
        """Return the rows of samples, [n] int64 in 0..N - 1.

        index: [n] int64, positions in the points that the data set was made from, 0..N - 1.
        """
        return index if self.order is None else self._position[index]

    def index_of(self, row: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
        """Return the indices of samples in the points that the data set was made from, int64 in the shape of `row`.

        row: rows, any shape, int64 in 0..N - 1; -1 stands for no sample and stays -1.
        """
        # -1 names the last row until it is put back
        return row if self.order is None else self.order[row].masked_fill_(row < 0, -1)

    @cached_tensor
    def _position(self) -> Int64[Tensor, "N"]:
        if self.order is None:
            return torch.arange(len(self), device=self.device)
        return torch.empty_like(self.order).index_copy_(0, self.order, torch.arange(len(self), device=self.device))

    def sample_values(self, row: Int64[Tensor, "n"]) -> Shaped[Tensor, "n ..."]:
        """Return samples in value space, [n, *shape] of `value_dtype`, computed in float64 and rounded once.

        row: [n] int64, rows in 0..N - 1. The result is a copy. Raises InputError where samples were changed in place.
        """
        self.check_unchanged()
        stored = self.rows.stored.index_select(0, row).double()
        values = stored.mul_(self.value_map.scale).add_(self.value_map.offset)
        return values.to(self.value_dtype).reshape((len(row), *self.sample_shape))

    def to(self, device: torch.device | str) -> OracleDataset:
        """Return the data set on another device, or itself where it is there already.

        device: where the samples are to be; the result holds a copy there. Raises InputError where torch cannot compute
        on that device, where a CUDA device has less memory free than the stored samples need, and where the samples
        were changed in place.
        """
        self.check_unchanged()
        target = usable_device(device)
        if target == self.device:
            return self
        if target.type == "cuda":
            check_fits(self.rows.stored.nbytes, *torch.cuda.mem_get_info(target))
        return self.with_rows(self.rows.to(target))

    def with_rows(self, rows: Rows) -> OracleDataset:
        """Return the data set with the same `rows` in another place."""
        device = rows.stored.device
        rest = {"order": _on(self.order, device), "sorted_labels": _on(self.sorted_labels, device)}
        moved = self._with_rows(rows, rest)
        if "fingerprint" in self.__dict__:
            moved.__dict__["fingerprint"] = self.fingerprint
        return moved

    def centred_at(self, centre: Float64[Tensor, "D"]) -> OracleDataset:
        """Return the data set with its rows prepared around another centre, or itself where they are; answers agree.

        centre: [D] float64, in stored numbers; an index needs the centre that it was built with. The data are read
        once and shared, not copied. Raises InputError where they were changed in place.
        """
        self.check_unchanged()
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
            "copies": self.rows.copies,
            "fingerprint": self.fingerprint,
            "class_names": list(self.class_names),
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
        lowest = int(tensors["sorted_labels"][0]) if "sorted_labels" in tensors else 0
        if lowest < NO_CLASS:
            raise bad_file(
                path, "labels of at least -1", f"the label {lowest}", "number the classes from 0, write it again"
            )
        rows = Rows(
            **{name: tensors.get(name) for name in ROW_TENSORS},  # type: ignore[arg-type]
            radius=facts["radius"],
            stored_radius=facts["stored_radius"],
        )
        rows = replace(rows, copies=facts["copies"]) if "copies" in facts else counted_copies(rows)
        value_map, shape = ValueMap(*facts["value_map"]), facts["sample_shape"]
        loaded = cls._of_rows(rows, name=facts["name"], sample_shape=shape, value_map=value_map, rest=tensors)
        loaded.__dict__["fingerprint"] = facts["fingerprint"]
        # files of earlier versions have none
        loaded.class_names = tuple(facts.get("class_names", ()))
        return loaded

    @staticmethod
    def is_saved(path: str | Path) -> bool:
        """Return whether :meth:`save` wrote the file at `path`; only its header is read."""
        return is_kind(Path(path), DATASET_KIND)


def _on(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device)
