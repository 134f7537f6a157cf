"""Tensors on disk: one checksummed safetensors file, written whole or not at all, read memory-mapped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from .arrays import Tensor
from .errors import bad_file, invalid
from .mapped import TensorFile, open_safetensors
from .outside.rows import OutsideRows, in_memory

# bytes hashed at once
HASH_BYTES = 64 << 20


def hash_tensors(facts: str, tensors: Iterable[Tensor | None]) -> str:
    """Return a 128-bit BLAKE2b hash as 32 hexadecimal digits.

    facts: text that is hashed first. tensors: any shapes, dtypes and devices; shape, dtype and bytes of each are
        hashed in this order, and None counts as a value of its own.

    Every tensor is read once, in blocks of HASH_BYTES, which are copied to the CPU where a tensor is elsewhere.
    """
    digest = hashlib.blake2b(facts.encode(), digest_size=16)
    for tensor in tensors:
        digest.update(b"-" if tensor is None else f"+{list(tensor.shape)}{tensor.dtype}".encode())
        for block in () if tensor is None else _byte_blocks(tensor):
            digest.update(block)
    return digest.hexdigest()


def write_tensors(path: Path, kind: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and facts to one checksummed safetensors file, which appears under its name complete or not at all.

    path: the file to write or replace; missing folders are created. kind: name of the format, which read_tensors asks
        for. tensors: any shapes, dtypes and devices. facts: values that json can write.

    Raises OSError where the folder cannot be written. All tensors are read once for the checksum.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    held = {name: in_memory(tensor.detach()).contiguous().cpu() for name, tensor in tensors.items()}
    text = json.dumps(dict(facts))
    checksum = hash_tensors(kind + text, [held[name] for name in sorted(held)])
    with replacing(path) as partial:
        try:
            save_file(held, partial, metadata={"kind": kind, "checksum": checksum, "facts": text})
        except SafetensorError as error:
            raise OSError(f"{path}: cannot be written ({error})") from error


def read_tensors(path: Path, kind: str, *, verify: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors, memory-mapped on the CPU, and the facts of a file that write_tensors wrote.

    path: the file. kind: the format that it has to have. verify: True reads all tensors once and compares their hash
        with the checksum; False reads only the header.

    Raises FileNotFoundError where there is no file, and DataFileError where the file is damaged, of another kind or,
    with `verify`, does not match its checksum.
    """
    tensors, metadata = _opened(path, kind, lambda file: dict(file.tensors()))
    content = [tensors[name] for name in sorted(tensors)]
    if verify and hash_tensors(kind + metadata["facts"], content) != metadata["checksum"]:
        raise bad_file(path, f"checksum {metadata['checksum']}", "other content", "write it again; it is damaged")
    return tensors, json.loads(metadata["facts"])


def read_some(path: Path, kind: str, left_out: Collection[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors of a file that write_tensors wrote, read into memory, and its facts, without a look at a checksum.

    path, kind: as in read_tensors. left_out: names of tensors of which no byte is read.

    Raises FileNotFoundError where there is no file, and DataFileError where it is damaged or of another kind.
    """
    read, metadata = _opened(
        path, kind, lambda file: {name: file.read(name) for name in file.keys() if name not in left_out}
    )
    return read, json.loads(metadata["facts"])


def _opened(
    path: Path, kind: str, read: Callable[[TensorFile], dict[str, Tensor]]
) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Return what `read` returns of a file of `kind`, and what its writer said about it."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. Remedy: check the path.")
    try:
        with open_safetensors(path) as file:
            metadata = file.metadata
            tensors = read(file) if metadata.get("kind") == kind else {}
    except ValueError as error:
        raise bad_file(
            path, f"a file of kind {kind!r}", f"{error}", "write it again; it is damaged or incomplete"
        ) from None
    if metadata.get("kind") != kind:
        remedy = "name a file of this kind, or write it again"
        raise bad_file(path, f"a file of kind {kind!r}", f"kind {metadata.get('kind')!r}", remedy)
    if not {"facts", "checksum"} <= metadata.keys():
        raise bad_file(path, "facts and a checksum", f"{sorted(metadata)}", "write it again; it is damaged")
    return tensors, metadata


def is_kind(path: Path, kind: str) -> bool:
    """Return whether `path` is a file that write_tensors wrote with this `kind`; only the header is read."""
    if not path.is_file():
        return False
    try:
        with open_safetensors(path) as file:
            return file.metadata.get("kind") == kind
    except ValueError:
        return False


def _byte_blocks(tensor: Tensor) -> Iterator[memoryview]:
    """Yield the bytes of a tensor, a piece at a time."""
    if isinstance(tensor, OutsideRows):
        for _, rows in tensor.slices():
            yield from _byte_blocks(rows)
        return
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    for start in range(0, len(flat), HASH_BYTES):
        yield flat[start : start + HASH_BYTES].numpy().data


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; the file is renamed to `path` when the block ends, removed when it fails.

    path: the file to write or replace. Missing folders are created, and removed again where the block fails.
    Raises OSError where a folder cannot be created or the file cannot be renamed.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    done = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
        done = True
    finally:
        with suppress(NotADirectoryError):
            partial.unlink(missing_ok=True)
        for folder in () if done else made:
            # another process may have put something there meanwhile
            with suppress(OSError):
                folder.rmdir()


def check_writable(path: Path, name: str) -> None:
    """Check that a file can be written at `path`, so that no work is done in vain; nothing is left there.

    path: the file to write or replace; missing folders would be created. name: what the error calls it.

    Raises InputError where `path` is a folder or a device, or where a file cannot be created there.
    """
    try:
        odd = "a folder" if path.is_dir() else "which is no file" if path.exists() and not path.is_file() else None
        if odd is None:
            with replacing(path) as partial:
                partial.touch()
                raise _Undo
    except _Undo:
        return
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise invalid(name, "must name a file that can be written", f"{path} ({reason})", "name another") from error
    raise invalid(name, "must name a file", f"{path}, {odd}", "name another, or a file in it")


class _Undo(Exception):
    """Ends a block of :func:`replacing` without the file."""
