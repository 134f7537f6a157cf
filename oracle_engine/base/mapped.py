"""Numbers of files as tensors: mapped, so that opening one reads nothing, and none is too large."""

from __future__ import annotations

import mmap
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .arrays import Shaped, Tensor

# names of dtypes in safetensors files, and in torch
DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}

# Linux counts private pages that may be written to against the memory of the machine, unless it is told not to;
# Python has no name for this flag before 3.13
NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)


def mapped(
    path: Path, dtype: torch.dtype, shape: Sequence[int], start: int = 0, *, scattered: bool = False
) -> Shaped[Tensor, "..."]:
    """Return numbers of a file as a tensor of `shape`, memory-mapped; the file is never written to.

    path: the file. dtype: of the numbers. shape: of the tensor. start: the byte at which they begin.
    scattered: whether a few numbers here and there will be looked at, around which nothing else should be read.

    Pages come from the file when they are looked at, and go back when memory is short. A change of the tensor in place
    stays in memory, and where the system has no room for such pages they can only be read. Numbers that are not aligned
    are copied. Raises ValueError where the file is shorter, and OSError where it cannot be read.
    """
    count = torch.Size(shape).numel()
    size = count * dtype.itemsize
    if path.stat().st_size < start + size:
        raise ValueError(f"{start + size:,} bytes are needed, the file has {path.stat().st_size:,}")
    if count == 0:
        return torch.empty(*shape, dtype=dtype)
    skipped = start % mmap.ALLOCATIONGRANULARITY
    held = _map(path, start - skipped, skipped + size)
    if scattered and hasattr(mmap, "MADV_RANDOM"):
        held.madvise(mmap.MADV_RANDOM)
    with warnings.catch_warnings():
        # where even the flag does not help, the pages can only be read
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        numbers = torch.frombuffer(held, dtype=torch.uint8, offset=skipped, count=size)
    return (numbers if start % dtype.itemsize == 0 else numbers.clone()).view(dtype).reshape(tuple(shape))


def _map(path: Path, start: int, size: int) -> mmap.mmap:
    """Return a part of a file, mapped."""
    with path.open("rb") as file:
        try:
            both = mmap.PROT_READ | mmap.PROT_WRITE
            return mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE | NO_RESERVE, prot=both, offset=start)
        except OSError:
            return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ, offset=start)


class TensorFile:
    """A .safetensors file whose header was read and found to be sound.

    metadata: what the writer said about the file, by name.
    """

    def __init__(self, path: Path, file: Any) -> None:
        """Look at `path`, open as `file` in the reader of safetensors."""
        self.path, self.metadata = path, dict(file.metadata() or {})
        self._kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}
        self._shapes: dict[str, list[int]] = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}
        self._starts = dict(self._places(file.offset_keys()))

    def keys(self) -> list[str]:
        """Return the names of the tensors."""
        return list(self._kinds)

    def kind(self, name: str) -> str:
        """Return the dtype of the tensor `name` as the format calls it, such as "BF16"."""
        return str(self._kinds[name])

    def shape(self, name: str) -> list[int]:
        """Return the shape of the tensor `name`."""
        return self._shapes[name]

    def start(self, name: str) -> int:
        """Return the byte of the file at which the numbers of the tensor `name` begin."""
        return self._starts[name]

    def tensor(self, name: str) -> Shaped[Tensor, "..."]:
        """Return the tensor `name`, memory-mapped as :func:`mapped` does. Raises ValueError for dtypes torch lacks."""
        return mapped(self.path, self._dtype(name), self._shapes[name], self._starts[name])

    def read(self, name: str) -> Shaped[Tensor, "..."]:
        """Return the tensor `name`, read into memory, and nothing of the file around it."""
        shape, dtype = self._shapes[name], self._dtype(name)
        found = torch.empty(torch.Size(shape).numel() * dtype.itemsize, dtype=torch.uint8)
        with self.path.open("rb", buffering=0) as stream:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            stream.seek(self._starts[name])
            content = found.numpy().data
            while content:
                count = stream.readinto(content)
                if not count:
                    raise ValueError(f"{name} ends before its last number")
                content = content[count:]
        return found.view(dtype).reshape(tuple(shape))

    def tensors(self) -> Mapping[str, Shaped[Tensor, "..."]]:
        """Return all tensors by their names, memory-mapped."""
        return {name: self.tensor(name) for name in self._kinds}

    def _dtype(self, name: str) -> torch.dtype:
        if self._kinds[name] not in DTYPES:
            raise ValueError(f"{name} is of dtype {self._kinds[name]}")
        found: torch.dtype = getattr(torch, DTYPES[self._kinds[name]])
        return found

    def _places(self, names: Sequence[str]) -> Iterator[tuple[str, int]]:
        """Yield the byte at which each tensor begins: they lie one after the other behind the header."""
        with self.path.open("rb") as stream:
            start = 8 + int.from_bytes(stream.read(8), "little")
        for name in names:
            yield name, start
            start += torch.Size(self._shapes[name]).numel() * self._dtype(name).itemsize


@contextmanager
def open_safetensors(path: Path) -> Iterator[TensorFile]:
    """Yield a .safetensors file whose header has been read.

    path: the file. Raises ValueError where its header is damaged or does not fit its length, FileNotFoundError where
    there is none.
    """
    from safetensors import SafetensorError, safe_open

    try:
        # its reader for torch maps pages that may be written to, for which a large file has no room
        with safe_open(path, framework="np") as file:
            yield TensorFile(path, file)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
