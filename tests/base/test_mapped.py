"""Files of any size are opened without reading them, and what is mapped is never written back."""

from __future__ import annotations

import json
import resource
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from shard_cases import bytes_read

from oracle_engine import DataFileError
from oracle_engine.base.mapped import mapped, open_safetensors
from oracle_engine.data.formats import read_npy, read_path, read_safetensors

# more than the machines have on which the tests run
SAMPLES, DIM = 10_000_000, 2048


def sparse(path: Path, header: bytes) -> Path:
    with path.open("wb") as stream:
        stream.write(header)
        stream.truncate(len(header) + 2 * SAMPLES * DIM)
    return path


def large_npy(path: Path) -> Path:
    text = f"{{'descr': '<f2', 'fortran_order': False, 'shape': ({SAMPLES}, {DIM}), }}".ljust(117) + "\n"
    return sparse(path, b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode())


def large_safetensors(path: Path) -> Path:
    size = 2 * SAMPLES * DIM
    text = json.dumps({"points": {"dtype": "BF16", "shape": [SAMPLES, DIM], "data_offsets": [0, size]}}).encode()
    text += b" " * (-len(text) % 8)
    return sparse(path, struct.pack("<Q", len(text)) + text)


@pytest.mark.parametrize(("write", "name"), [(large_npy, "a.npy"), (large_safetensors, "a.safetensors")])
def test_a_file_larger_than_memory_is_opened_without_reading_it(tmp_path: Path, write, name: str) -> None:  # type: ignore[no-untyped-def]
    path = write(tmp_path / name)
    read_path(path)
    before, peak = bytes_read(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    points = read_path(path).points
    assert points.shape == (SAMPLES, DIM)
    assert points[-1].count_nonzero() == 0
    assert bytes_read() - before < 1 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 64 << 10


@pytest.mark.parametrize(("write", "name"), [(large_npy, "a.npy"), (large_safetensors, "a.safetensors")])
def test_a_limit_on_writable_memory_does_not_keep_a_file_from_being_opened(tmp_path: Path, write, name: str) -> None:  # type: ignore[no-untyped-def]
    path = write(tmp_path / name)
    code = (
        "import resource, sys, warnings; from pathlib import Path; warnings.simplefilter('error')\n"
        "from oracle_engine.data.formats import read_path\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (8 << 30, 8 << 30))\n"
        "print(len(read_path(Path(sys.argv[1])).points))"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == (str(SAMPLES), "")


def test_every_dtype_is_mapped_as_it_was_written(tmp_path: Path) -> None:
    dtypes = (torch.uint8, torch.int8, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)
    tensors = {str(dtype): torch.arange(24).reshape(2, 3, 4).to(dtype) for dtype in (*dtypes, torch.bool)}
    tensors |= {"empty": torch.zeros(0, 3), "one": torch.tensor(4.0)}
    save_file(tensors, tmp_path / "a.safetensors")
    with open_safetensors(tmp_path / "a.safetensors") as file:
        found = file.tensors()
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_numbers_that_are_not_aligned_are_read(tmp_path: Path) -> None:
    content = json.dumps({"points": {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]}}).encode()
    content += b" " * (-len(content) % 8 + 3)
    numbers = np.arange(6, dtype=np.float32)
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(content)) + content + numbers.tobytes())
    assert read_safetensors(tmp_path / "a.safetensors").points.reshape(-1).tolist() == numbers.tolist()


def test_changes_in_place_stay_in_memory(tmp_path: Path) -> None:
    save_file({"points": torch.ones(2000, 8)}, tmp_path / "a.safetensors")
    before = (tmp_path / "a.safetensors").read_bytes()
    read_safetensors(tmp_path / "a.safetensors").points.zero_()
    assert (tmp_path / "a.safetensors").read_bytes() == before


def test_a_file_that_is_too_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(10))
    with pytest.raises(ValueError, match="16 bytes are needed, the file has 10"):
        mapped(tmp_path / "a", torch.float32, [4])


def test_lack_of_memory_has_words_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "a.npz", points=np.zeros((4, 2), np.float32))
    np.save(tmp_path / "a.npy", np.zeros((4, 2), np.float32))
    words = r"expected numbers that memory has room for; found no room .*Remedy: save them as .npy or .safetensors"
    monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: np.empty(1 << 50))
    with pytest.raises(DataFileError, match=words):
        read_path(tmp_path / "a.npz")
    monkeypatch.setattr("mmap.mmap", lambda *_, **__: (_ for _ in ()).throw(OSError(12, "Cannot allocate memory")))
    with pytest.raises(DataFileError, match=words):
        read_npy(tmp_path / "a.npy")
