"""CIFAR's Python version is read without running what its pickles name."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_files import pixels
from written_files import write_cifar10

import oracle_engine as oe
from oracle_engine.base.errors import DataFileError

PIXELS = pixels(10, side=32)
LABELS = np.arange(10) % 5


def write_python(folder: Path, names: dict[str, slice], labels: str = "labels") -> Path:
    folder.mkdir()
    for name, part in names.items():
        held = {
            b"batch_label": b"training",
            labels.encode(): LABELS[part].tolist(),
            b"data": PIXELS[part].reshape(-1, 3072),
            b"filenames": [b"a.png"] * len(LABELS[part]),
        }
        (folder / name).write_bytes(pickle.dumps(held, protocol=2))
    return folder


BATCHES = {f"data_batch_{number + 1}": slice(2 * number, 2 * number + 2) for number in range(5)}


def test_all_versions_are_the_same_data(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    write_cifar10(tmp_path / "bin", PIXELS, LABELS)
    ten = write_python(tmp_path / "cifar-10-batches-py", BATCHES)
    hundred = write_python(tmp_path / "cifar-100-python", {"train": slice(0, 10)}, "fine_labels")
    wanted = oe.load_dataset(PIXELS, labels=LABELS).fingerprint
    for folder in (tmp_path / "bin", ten, hundred):
        data = oe.load_dataset(folder)
        assert (data.fingerprint, data.sample_shape) == (wanted, (3, 32, 32))
    assert len(oe.load_dataset(ten / "data_batch_3")) == 2


# as Python 2 wrote CIFAR-10: texts of bytes, and the old name of NumPy's module
PYTHON2 = (
    b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87"
    b"Rq\x05(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff"
    b"\xff\xff\xffK\x00tb\x89T\x00\x0c\x00\x00" + bytes(range(256)) * 12 + b"tbU\x06labelsq\x08]q\x09K\x07au."
)


def test_a_batch_that_python_2_wrote(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(PYTHON2)
    data = oe.load_dataset(tmp_path / "data_batch_1")
    assert data.labels is not None
    assert data.labels.tolist() == [7]
    assert data.rows.stored[0].tolist() == list(range(256)) * 12


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


class Method:
    """Calls a method of NumPy when it is unpickled."""

    def __reduce__(self) -> Any:
        return np.load, ("anything.npy",)


@pytest.mark.parametrize("kind", ["label", "pixels", "beside", "numpy"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, kind: str) -> None:
    trap = Method() if kind == "numpy" else Trap(tmp_path / "ran")
    held: dict[Any, Any] = {b"labels": [1], b"data": PIXELS[:1].reshape(1, -1)}
    more: dict[str, dict[Any, Any]] = {"label": {b"labels": [trap]}, "pixels": {b"data": trap}}
    held |= more.get(kind, {b"more": trap})
    folder = write_python(tmp_path / "cifar-10-batches-py", BATCHES)
    (folder / "data_batch_2").write_bytes(pickle.dumps(held, protocol=2))
    with pytest.raises(DataFileError, match=r"data_batch_2: expected CIFAR.*it names \S+, which was not run"):
        oe.load_dataset(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "held",
    [
        [1, 2],
        {b"labels": [1]},
        {b"labels": [1], b"data": [0] * 3072},
        {b"labels": [1], b"data": np.zeros((1, 3071), np.uint8)},
        {b"labels": [1], b"data": np.zeros((1, 3072), np.float32)},
        {b"labels": [1, 2], b"data": np.zeros((1, 3072), np.uint8)},
        {b"labels": ["cat"], b"data": np.zeros((1, 3072), np.uint8)},
        {b"labels": [1], b"data": np.array([{}], object)},
    ],
)
def test_pickles_of_other_content_are_damaged(tmp_path: Path, held: Any) -> None:
    (tmp_path / "test_batch").write_bytes(pickle.dumps(held, protocol=2))
    with pytest.raises(DataFileError, match="test_batch: expected CIFAR's Python version; found damaged"):
        oe.load_dataset(tmp_path / "test_batch")


def test_no_truncated_batch_is_read(tmp_path: Path) -> None:
    content = pickle.dumps({b"labels": [1], b"data": PIXELS[:1].reshape(1, -1)}, protocol=2)
    for size in (*range(1, 200), len(content) - 1):
        (tmp_path / "test_batch").write_bytes(content[:size])
        with pytest.raises(DataFileError, match="test_batch"):
            oe.load_dataset(tmp_path / "test_batch")


def test_a_missing_batch_is_named(tmp_path: Path) -> None:
    folder = write_python(tmp_path / "cifar-10-batches-py", BATCHES)
    (folder / "data_batch_4").unlink()
    with pytest.raises(DataFileError, match=r"found no data_batch_4\. Remedy: unpack cifar-10-python\.tar\.gz"):
        oe.load_dataset(folder)
