"""Parquet files as Hugging Face writes them: encoded pictures or lists of numbers, with labels, through pyarrow."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...base.errors import bad_file
from ..samples import Samples, samples_of
from .naming import chosen_names
from .picture_lists import Opener, Pictures, picked
from .reading import library, reading

PARQUET_MAGIC = b"PAR1"
LABEL_COLUMNS = ("labels", "y", "label", "fine_label")
_EXPECTED = "a parquet file of pictures or of lists of numbers"
# pictures read at once
_BATCH = 64


def read_parquet(path: Path, key: str | None = None) -> Samples | Pictures:
    """Return the samples of a parquet file, or of all such files of a folder: encoded pictures, or arrays [N, *shape].

    path: the file or the folder. key: the column of the samples; None takes the only one of pictures (bytes, or as
        Hugging Face's `datasets` writes them) or of lists of numbers. A column label, labels, y or fine_label of
        integers holds the labels.
    Raises DataFileError for damaged files, files of other columns, and lists of different lengths, and
    MissingDependencyError without pyarrow. Lists are read into memory.
    """
    arrow = library("pyarrow", "pyarrow", "A parquet file")
    parquet = library("pyarrow.parquet", "pyarrow", "A parquet file")
    library("pyarrow.compute", "pyarrow", "A parquet file")
    files = parquet_files(path) if path.is_dir() else [path]
    with reading(path, _EXPECTED):
        schema = parquet.read_schema(files[0])
        kinds = {field.name: _kind(arrow, field.type) for field in schema}
        name = chosen_names(path, list(kinds), [name for name, kind in kinds.items() if kind], key)[0]
        label = next((column for column in LABEL_COLUMNS if column in kinds and column != name), None)
        labels = None if label is None else _column(arrow, parquet, files, label).to_pylist()
        if kinds[name] in ("pictures", "bytes"):
            count = sum(parquet.read_metadata(file).num_rows for file in files)
            names = [f"row {number}" for number in range(count)]
            contents = partial(_contents, parquet, files, name)
            return Pictures(path, names, contents, files, own=labels, plain=True)
        return samples_of(_dense(path, arrow, _column(arrow, parquet, files, name)), labels, path)


def parquet_files(folder: Path) -> list[Path]:
    """Return the parquet files of a folder, in the order of their names."""
    return sorted(file for file in folder.glob("*.parquet") if not file.name.startswith("."))


def _column(arrow: Any, parquet: Any, files: Sequence[Path], name: str) -> Any:
    parts = [parquet.read_table(file, columns=[name]).column(0) for file in files]
    return arrow.chunked_array([chunk for part in parts for chunk in part.chunks], parts[0].type)


def _kind(arrow: Any, kind: Any) -> str | None:
    """Return what a column of this type can hold: pictures with their paths, their bytes, numbers, or None."""
    types, kind = arrow.types, _plain(kind)
    if types.is_struct(kind):
        return "pictures" if "bytes" in {kind.field(number).name for number in range(kind.num_fields)} else None
    if types.is_binary(kind) or types.is_large_binary(kind):
        return "bytes"
    return "numbers" if _is_list(types, kind) else None


def _plain(kind: Any) -> Any:
    """Return the type in which a type is stored that an extension names, as the arrays of Hugging Face."""
    return getattr(kind, "storage_type", kind)


def _is_list(types: Any, kind: Any) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _contents(parquet: Any, files: Sequence[Path], name: str, numbers: Sequence[int]) -> Iterator[Opener]:
    """Yield what opens each picture of a column that has one of these numbers."""
    for held in picked(_encoded(parquet, files, name), numbers):
        yield partial(io.BytesIO, held)


def _encoded(parquet: Any, files: Sequence[Path], name: str) -> Iterator[bytes]:
    """Yield the bytes of each picture of a column."""
    for file in files:
        with reading(file, _EXPECTED), parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=_BATCH, columns=[name]):
                for row in batch.column(0).to_pylist():
                    held = row["bytes"] if isinstance(row, dict) else row
                    yield held or b""


def _dense(path: Path, arrow: Any, column: Any) -> np.ndarray:
    """Return lists of numbers, lists of these and so on as one array. Raises DataFileError where lengths differ."""
    array = column.combine_chunks()
    array = getattr(array, "storage", array)
    shape = [len(array)]
    while _is_list(arrow.types, array.type):
        inner = array.flatten()
        size = len(inner) // max(len(array), 1)
        lengths = arrow.compute.list_value_length(array).to_numpy(zero_copy_only=False)
        if array.null_count or not bool((lengths == size).all()):
            raise bad_file(path, "lists of one length", "lists of different lengths", "keep rows of one shape")
        shape.append(size)
        array = inner
    if array.null_count:
        raise bad_file(path, "a number in every place", f"{array.null_count} nulls", "fill or remove these rows")
    return np.asarray(array.to_numpy(zero_copy_only=False)).reshape(shape)
