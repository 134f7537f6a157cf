"""Queries read from files, and results written block by block to files that exist whole or not at all."""

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

from ..base.arrays import Float, Shaped, Tensor, on_device
from ..base.errors import OracleError, bad_file, invalid
from ..base.files import replacing
from ..base.mapped import open_safetensors
from ..data.formats import read_path, reading
from .torchrun import reports
from .words import in_options

QUERY_SUFFIXES = (".npy", ".npz", ".safetensors")

_SAFETENSORS_NAMES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}
_NUMPY_NAMES = {torch.float16: "<f2", torch.float32: "<f4", torch.float64: "<f8"}


@dataclass(frozen=True)
class QueryFile:
    """The tensors of a file of queries.

    x: the queries, [B, *shape], floating. t: their times as stored, floating, of any shape, or None.
    labels: their labels as stored, or None.
    """

    x: Float[Tensor, "B ..."]
    t: Float[Tensor, "..."] | None
    labels: Shaped[Tensor, "..."] | None


def read_queries(path: Path, key: str | None = None, *, t_key: str = "t", labels_key: str = "labels") -> QueryFile:
    """Return the queries in an .npy, .npz or .safetensors file.

    path: the file. key: the name of the tensor of the queries; None takes "x", or what an .npy file holds.
    t_key, labels_key: the names of the tensors of times and labels, which a file need not have.

    Queries in .npy and .safetensors files are memory-mapped; those in an .npz file are read whole.
    Raises InputError for another suffix, and DataFileError where the file lacks the tensor of the queries, is damaged,
    or holds queries or times of a dtype that is not floating.
    """
    _check_suffix("IN", path)
    alone = path.suffix == ".npy"
    try:
        x = read_path(path, key if alone else key or "x", labelled=False).points
    except OracleError as error:
        raise in_options(error, "IN") from error
    if not x.is_floating_point():
        remedy = "save them as float32; integer pixels have to be scaled to the values of the data"
        raise bad_file(path, "queries of a floating dtype", f"{x.dtype}", remedy)
    found = {} if alone else _read_arrays(path, (t_key, labels_key))
    t = found.get(t_key)
    if t is not None and not t.is_floating_point():
        raise bad_file(path, f"times {t_key!r} of a floating dtype", f"{t.dtype}", "save them as float32 or float64")
    return QueryFile(x, t, found.get(labels_key))


def check_result(name: str, path: Path, dtype: torch.dtype) -> None:
    """Check that results can be written to a file of this name.

    name: of the option or argument, for errors. path: the file, which need not exist. dtype: of the results, floating.

    Raises InputError for another suffix than .npy, .npz and .safetensors, and for a dtype that NumPy lacks with the
    first two.
    """
    _check_suffix(name, path)
    if path.suffix != ".safetensors" and dtype not in _NUMPY_NAMES:
        raise invalid(name, f"must be .safetensors for {dtype}", path.name, "change the suffix, or cast the queries")


@contextmanager
def result_file(
    path: Path, name: str, shape: Sequence[int], dtype: torch.dtype
) -> Iterator[Callable[[Float[Tensor, "..."]], None]]:
    """Yield a function that appends a block of rows to a tensor in a file that is created.

    path: the file; its suffix chooses the format, and its folder is created. name: of the tensor in the file.
    shape: of the whole tensor, [B, *shape]; the blocks follow one another along its first axis.
    dtype: of the tensor, floating; blocks are cast to it.

    Memory is that of one block. The file gets its name when the `with` block ends without an error, and is removed
    otherwise. Of several processes the first one writes. Raises InputError as :func:`check_result` does.
    """
    check_result("OUT", path, dtype)
    if not reports():
        yield lambda block: None
        return
    with replacing(path) as partial, ExitStack() as stack:
        stream = _open_stream(stack, partial, path.suffix, name)
        _write_header(stream, path.suffix, name=name, shape=list(shape), dtype=dtype)
        yield lambda block: _append(stream, block, dtype)


def _check_suffix(parameter: str, path: Path) -> None:
    if path.suffix not in QUERY_SUFFIXES:
        raise invalid(parameter, f"must end in {', '.join(QUERY_SUFFIXES)}", path.name, "rename or convert it")


def _read_arrays(path: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """Return those of the named arrays that a file holds."""
    with reading(path, f"arrays of numbers called {', '.join(names)}"):
        if path.suffix == ".safetensors":
            with open_safetensors(path) as file:
                return {name: file.tensor(name) for name in names if name in file.keys()}
        with np.load(path, allow_pickle=False) as archive:
            return {name: _numbers(path, name, archive[name]) for name in names if name in archive}


def _numbers(path: Path, name: str, array: np.ndarray) -> Tensor:
    """Return an array of numbers in any byte order as a tensor."""
    try:
        return on_device(array, torch.device("cpu"), name)
    except OracleError as error:
        remedy = "save it as float32, float64 or int64"
        raise bad_file(path, f"an array {name!r} of numbers", f"dtype {array.dtype.name}", remedy) from error


def _open_stream(stack: ExitStack, partial: Path, suffix: str, name: str) -> Any:
    if suffix != ".npz":
        return stack.enter_context(partial.open("wb"))
    archive = stack.enter_context(zipfile.ZipFile(partial, "w"))
    return stack.enter_context(archive.open(f"{name}.npy", "w", force_zip64=True))


def _write_header(stream: Any, suffix: str, *, name: str, shape: list[int], dtype: torch.dtype) -> None:
    """Write what stands before the numbers in a file of this suffix."""
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
