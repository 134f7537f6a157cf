"""Data sets to time: by name, by path, in two storages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bench.data import classes_shaped, is_known, load_data
from bench.late.split import HELD_OUT, Split


def test_a_file_is_a_data_set_in_either_storage(tmp_path: Path) -> None:
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (700, 2, 3), np.uint8))
    assert is_known(str(path))
    assert is_known(f"{path}-fp32")
    assert not is_known(str(tmp_path / "other.npy"))
    stored, floats = load_data(str(path)), load_data(f"{path}-fp32")
    assert (stored.storage, floats.storage) == (torch.uint8, torch.float32)
    assert (stored.name, floats.name) == ("images", "images-fp32")
    assert torch.equal(stored[:], floats[:])
    # a file has fewer samples than are asked for: all but those held out
    assert len(Split.load(str(path), 50_000).data) == 700 - HELD_OUT
    assert len(Split.load(str(path), 100).data) == 100


def test_made_up_classes_are_shuffled_and_of_one_size() -> None:
    samples, labels = classes_shaped(count=5, classes=8, dim=6)
    assert samples.shape == (40, 6)
    assert labels.bincount().tolist() == [5] * 8
    assert not torch.equal(labels, labels.sort().values)


def test_float32_copies_keep_their_classes() -> None:
    stored, floats = load_data("digits"), load_data("digits-fp32")
    assert stored.labels is not None
    assert floats.labels is not None
    assert torch.equal(stored.labels, floats.labels)
