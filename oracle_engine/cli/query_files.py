"""Queries read from files, and results written block by block to files that are there whole or not at all."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..base.arrays import Float, Shaped, Tensor
from ..base.errors import bad_file, invalid
from ..base.files import replacing
from ..data.formats import read_path

SUFFIXES = (".npy", ".npz", ".safetensors")

_SAFETENSORS_NAMES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}
_NUMPY_NAMES = {torch.float16: "<f2", torch.float32: "<f4", torch.float64: "<f8"}


@dataclass(frozen=True)
class QueryFile:
    """Queries x [B, *shape], their times as stored or None, and their labels or None."""

    x: Float[Tensor, "B ..."]
    t: Float[Tensor, "..."] | None
    labels: Shaped[Tensor, "..."] | None


def read_queries(path: Path, key: str | None = None, t_key: str = "t", labels_key: str = "labels") -> QueryFile:
    """Return the queries in an .npy, .npz or .safetensors file.

    key: the tensor of the queries, "x" unless given; an .npy file holds nothing else. t_key, labels_key: the tensors of
    times and labels, where the file has them. The queries of .npy and .safetensors files are memory-mapped; those of an
    .npz file are read whole. Raises InputError for another suffix and DataFileError for what cannot be used.
    """
    _check_suffix("IN", path)
    alone = path.suffix == ".npy"
    x = read_path(path, key if alone else key or "x").points
    if not x.is_floating_point():
        remedy = "save them as float32; integer pixels have to be scaled to the values of the data"
        raise bad_file(path, "queries of a floating dtype", f"{x.dtype}", remedy)
    found = {} if alone else _read_arrays(path, (t_key, labels_key))
    t = found.get(t_key)
    if t is not None and not t.is_floating_point():
        raise bad_file(path, f"times {t_key!r} of a floating dtype", f"{t.dtype}", "save them as float32 or float64")
    return QueryFile(x, t, found.get(labels_key))


def check_result(path: Path, dtype: torch.dtype) -> None:
    """Raise InputError unless results of `dtype` can be written to a file of this name."""
    _check_suffix("OUT", path)
    if path.suffix != ".safetensors" and dtype not in _NUMPY_NAMES:
        raise invalid("OUT", f"must be .safetensors for {dtype}", path.name, "change the suffix, or cast the queries")


@contextmanager
def result_file(
    path: Path, name: str, shape: Sequence[int], dtype: torch.dtype
) -> Iterator[Callable[[Float[Tensor, "..."]], None]]:
    """Give a function that appends blocks of rows to the tensor `name` of `shape` in a new file.

    The format follows the suffix; every format is written in one pass, so memory is that of one block. The file gets
    its name when the block ends without an error, and is removed otherwise.
    Raises InputError as :func:`check_result` does.
    """
    check_result(path, dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, ExitStack() as stack:
        stream = _open_stream(stack, partial, path.suffix, name)
        _write_header(stream, path.suffix, name, list(shape), dtype)
        yield lambda block: _append(stream, block, dtype)


def _check_suffix(parameter: str, path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise invalid(parameter, f"must end in {', '.join(SUFFIXES)}", path.name, "rename or convert it")


def _read_arrays(path: Path, names: Sequence[str]) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in names if name in file.keys()}
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: torch.as_tensor(archive[name]) for name in names if name in archive}
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise bad_file(
            path, f"arrays of numbers called {', '.join(names)}", str(error), "write the file again"
        ) from error


def _open_stream(stack: ExitStack, partial: Path, suffix: str, name: str) -> Any:
    if suffix != ".npz":
        return stack.enter_context(partial.open("wb"))
    archive = stack.enter_context(zipfile.ZipFile(partial, "w"))
    return stack.enter_context(archive.open(f"{name}.npy", "w", force_zip64=True))


def _write_header(stream: Any, suffix: str, name: str, shape: list[int], dtype: torch.dtype) -> None:
    if suffix != ".safetensors":
        header = {"descr": _NUMPY_NAMES[dtype], "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(stream, header)
        return
    size = dtype.itemsize * torch.Size(shape).numel()
    entry: dict[str, Any] = {"dtype": _SAFETENSORS_NAMES[dtype], "shape": shape, "data_offsets": [0, size]}
    text = json.dumps({name: entry}).encode()
    # eight bytes of length, then the header, padded so that the numbers after it are aligned
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)


def _append(stream: Any, block: Tensor, dtype: torch.dtype) -> None:
    numbers = block.detach().to("cpu", dtype).contiguous()
    stream.write(numbers.reshape(-1).view(torch.uint8).numpy().data)
