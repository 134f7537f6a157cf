"""Samples as a reader returns them: in the numbers in which they are stored, checked once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..base.arrays import STORAGE_DTYPES, Int64, Shaped, Tensor
from ..base.errors import OracleError, bad_file, invalid
from ..base.outside.parts import FilePart
from ..base.outside.rows import OutsideRows

# bytes up to which samples of files are copied where they would have to be gathered
READ_BYTES = 256 << 20

# the label of a sample without a class
NO_CLASS = -1

# the file or the parameter that held the samples
Where = Path | str

STORAGE_NAMES = tuple(str(dtype).removeprefix("torch.") for dtype in STORAGE_DTYPES)
# the beginning of the name of a dtype that is not stored, and the remedy
DTYPE_REMEDIES = (
    ("bool", "convert to uint8, 0 and 1"),
    ("float8", "convert to float16, which holds every float8 value"),
    ("float", "convert to float64"),
    ("longdouble", "convert to float64"),
    ("complex", "store real and imaginary parts as two channels"),
    ("object", "stack equal shapes into one array of numbers; pickled objects are never loaded"),
    ("void", "save as .safetensors, which has names for bfloat16 and the like"),
    ("", "convert to uint8 if the values lie in 0..255, else to float32"),
)


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples in the numbers in which they are stored.

    points: [N, *shape], contiguous, in a storage dtype; memory-mapped where the format allows it.
    labels: [N] int64, or None. part: where the points lie in a file, if they are mapped from one.
    """

    points: Shaped[Tensor, "N *shape"]
    labels: Int64[Tensor, "N"] | None = None
    part: FilePart | None = None

    def in_files(self) -> Tensor:
        """Return the points as rows that stay in their file, where they are mapped from one, and large."""
        if self.part is None or not stays_in_files(self.points.nbytes):
            return self.points
        return OutsideRows.of([self.part], self.points.dtype, self.points.shape[1:])


@dataclass(frozen=True, eq=False)
class ClassLabels:
    """The class of each sample, [N] int64, and the names of the classes by number, none where they have none."""

    numbers: Int64[Tensor, "N"]
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, numbers: Int64[Tensor, "N"] | None) -> ClassLabels | None:
        """Return classes without names; None for None."""
        return None if numbers is None else cls(numbers)

    def take(self, rows: Int64[Tensor, "n"]) -> ClassLabels:
        """Return the classes of the samples in `rows`."""
        return ClassLabels(self.numbers[rows], self.names)


@dataclass(frozen=True, eq=False)
class Choice:
    """Which samples of a source are held.

    rows: their numbers among all, [n] int64, ascending. size: how many the source has, N.
    """

    rows: Int64[Tensor, "n"]
    size: int


def stays_in_files(nbytes: int) -> bool:
    """Return whether samples of so many bytes stay in their files where a copy would be needed otherwise."""
    return nbytes > READ_BYTES


def joined_points(shards: Sequence[Samples]) -> Tensor:
    """Return the points of several files as one tensor: rows that stay in the files where these are large.

    shards: of the files, alike in shape and dtype. Up to READ_BYTES, and where a file cannot be mapped, they are
    copied.
    """
    parts = [shard.part for shard in shards if shard.part is not None]
    if len(parts) < len(shards) or not stays_in_files(sum(shard.points.nbytes for shard in shards)):
        return torch.cat([shard.points for shard in shards])
    return OutsideRows.of(parts, shards[0].points.dtype, shards[0].points.shape[1:])


def samples_of(points: Any, labels: Any, where: Where) -> Samples:
    """Return points and labels as Samples, which share memory with them where the dtype and strides allow it.

    points: [N, *shape], a tensor or NumPy array of a storage dtype, not empty. labels: [N] integers, or None.
    where: the file (a Path) or the parameter (its name) that errors name.
    Raises DataFileError for a path and InputError for a parameter, where one of these requirements does not hold.
    """
    tensor = tensor_of(points, where)
    if tensor.ndim == 0 or tensor.numel() == 0:
        expected = "at least one sample of at least one value, [N, *shape]"
        raise problem(where, expected, f"shape {list(tensor.shape)}", "check how the array was made")
    held = None if labels is None else labels_of(labels, len(tensor), where).to(tensor.device)
    return Samples(tensor.contiguous(), held)


def tensor_of(array: Any, where: Where) -> Tensor:
    """Return an array as a tensor in its shape; only another byte order and strides that torch lacks cause a copy.

    array: a tensor or NumPy array of a storage dtype. where: the file or the parameter that errors name.
    Raises DataFileError (for a path) or InputError for other types and dtypes.
    """
    if not isinstance(array, (Tensor, np.ndarray)):
        raise problem(where, "tensors or NumPy arrays", type(array).__name__, "convert with torch.as_tensor")
    name = dtype_name(array)
    if name not in STORAGE_NAMES:
        remedy = next(remedy for start, remedy in DTYPE_REMEDIES if name.removeprefix("u").startswith(start))
        raise problem(where, f"dtype {', '.join(STORAGE_NAMES)}", f"dtype {name}", remedy)
    if isinstance(array, Tensor):
        return array.detach()
    native = np.require(array, array.dtype.newbyteorder("="), ["C", "A"])
    with warnings.catch_warnings():
        # samples are only read, so a read-only array is shared like any other
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(native)


def labels_of(labels: Any, count: int, where: Where) -> Int64[Tensor, "N"]:
    """Return integer labels as int64 on the CPU, [count], a copy.

    labels: [count] integers as a tensor, an array or a sequence. count: the number of samples.
    where: the file or the parameter that errors name.
    Raises DataFileError (for a path) or InputError for another dtype or shape.
    """
    try:
        held = labels.detach().cpu() if isinstance(labels, Tensor) else np.asarray(labels)
    except ValueError as error:
        remedy = "give as many labels as samples, in one dimension"
        raise problem(where, f"{count} labels, one a sample", "labels of different shapes", remedy) from error
    name = dtype_name(held)
    if not name.startswith(("int", "uint")) or name == "uint64":
        raise problem(where, "integer labels", f"labels of dtype {name}", "convert them to int64")
    if tuple(held.shape) != (count,):
        remedy = "give as many labels as samples, in one dimension"
        raise problem(where, f"{count} labels, one a sample", f"labels of shape {list(held.shape)}", remedy)
    return torch.from_numpy(np.asarray(held).astype(np.int64))


def problem(where: Where, expected: str, found: str, remedy: str) -> OracleError:
    """Return an error about samples, which the caller raises: a DataFileError for a path, else an InputError.

    where: the file (a Path) or the parameter (its name). expected, found: what it should hold and what it holds, nouns.
    remedy: what the caller can do, without a full stop.
    """
    if isinstance(where, Path):
        return bad_file(where, expected, found, remedy)
    return invalid(where, f"must hold {expected}", found, remedy)


def dtype_name(array: Tensor | np.ndarray) -> str:
    """Return the name of the dtype of a tensor or an array, such as "float32"."""
    return str(array.dtype).removeprefix("torch.") if isinstance(array, Tensor) else array.dtype.name
