"""Data files of every format, written without the library, and a comparison of samples with what was written."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from oracle_engine.data.samples import Samples

IDX_CODES = {"uint8": 8, "int8": 9, "int16": 11, "int32": 12, "float32": 13, "float64": 14}


def small_array() -> np.ndarray:
    """Return four samples [2, 3] of float32."""
    return np.arange(24, dtype=np.float32).reshape(4, 2, 3)


def write_idx(path: Path, array: np.ndarray) -> Path:
    header = struct.pack(f">HBB{array.ndim}I", 0, IDX_CODES[array.dtype.name], array.ndim, *array.shape)
    content = header + array.astype(array.dtype.newbyteorder(">")).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_cifar10(folder: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
    records = np.concatenate([labels[:, None], pixels.reshape(len(pixels), -1)], axis=1).astype(np.uint8)
    for number, batch in enumerate(np.array_split(records, 5), start=1):
        (folder / f"data_batch_{number}.bin").write_bytes(batch.tobytes())


def write_npy(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def write_npz(path: Path, array: np.ndarray) -> Path:
    np.savez(path, array)
    return path


def write_compressed(path: Path, array: np.ndarray) -> Path:
    np.savez_compressed(path, array)
    return path


def write_safetensors(path: Path, array: np.ndarray) -> Path:
    save_file({"points": torch.from_numpy(array)}, path)
    return path


WRITERS: dict[str, Callable[[Path, np.ndarray], Path]] = {
    "a.npy": write_npy,
    "a.npz": write_npz,
    "deflated.npz": write_compressed,
    "a.safetensors": write_safetensors,
    "a.idx": write_idx,
    "a.idx.gz": write_idx,
}


def assert_holds(samples: Samples, array: np.ndarray) -> None:
    native = array.astype(array.dtype.newbyteorder("="))
    assert str(samples.points.dtype) == f"torch.{native.dtype.name}"
    assert tuple(samples.points.shape) == array.shape
    assert samples.points.is_contiguous()
    assert samples.points.numpy().tobytes() == native.tobytes()
