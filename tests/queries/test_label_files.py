"""Labels and times in files mean on the command line what they mean in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from closed_form import normal
from command_line import assert_answered_or_refused, empty_folder, outcome
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused
from torch.nn.functional import one_hot

from oracle_engine import OracleDataset, OracleEngine

CLASSES = torch.tensor([2, 0, 1, 2])


def points() -> torch.Tensor:
    return normal(30, 4, torch.Generator().manual_seed(4))


def save_data(labels: Any) -> None:
    np.savez("data.npz", points=points().numpy(), labels=np.asarray(labels))


def answers(**arrays: Any) -> np.ndarray:
    """Return the velocities that the command writes for queries in a file."""
    np.savez("in.npz", **arrays)
    done = outcome("velocity", "in.npz", "out.npy", "--data", "data.npz", "--data-key", "points")
    assert_answered_or_refused(done)
    assert done.status == 0, done.err
    written: np.ndarray = np.load("out.npy")
    Path("out.npy").unlink()
    return written


def refusal(**arrays: Any) -> str:
    np.savez("in.npz", **arrays)
    done = outcome("velocity", "in.npz", "out.npy", "--data", "data.npz", "--data-key", "points")
    assert_answered_or_refused(done)
    assert done.status == 2
    return done.err


def test_every_way_to_write_labels_and_times_gives_one_answer() -> None:
    x, t = normal(4, 4, torch.Generator().manual_seed(5)).numpy(), np.array([0.999999, 0.3, 0.5, 0.7])
    labels = torch.arange(30) % 3
    expected = OracleEngine(OracleDataset(points(), labels)).velocity(
        torch.from_numpy(x), torch.from_numpy(t), labels=CLASSES
    )
    rows = one_hot(CLASSES, 3).numpy()
    with empty_folder():
        save_data(labels.numpy().astype(">i4"))
        for held in (
            CLASSES.numpy(),
            CLASSES.numpy().astype(">u2"),
            rows,
            rows.astype(bool),
            rows.astype(">f4"),
            rows.astype("u1"),
        ):
            found = answers(x=x, t=t.astype(">f8"), labels=held)
            assert np.array_equal(found, expected.numpy())
            assert np.array_equal(answers(x=x.astype(">f8"), t=t, labels=held), expected.numpy())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full((4, 3), 1 / 3), "must be integers, or one-hot rows of 3 columns"),
        (np.array([[1, 1]] * 4), "must name each class of a union once; received class 1 twice in query 0"),
        (np.array([0.0, 1.0, 2.0, 0.0]), "must be integers"),
        (np.array([5, 0, 0, 0]), "must be classes of the data"),
    ],
)
def test_labels_without_a_meaning_are_refused_in_one_line(labels: np.ndarray, message: str) -> None:
    with empty_folder():
        save_data(np.arange(30) % 3)
        assert message in refusal(x=np.zeros((4, 4)), t=np.full(4, 0.5), labels=labels)


def test_samples_without_a_class_and_labels_below_that() -> None:
    x, t = normal(4, 4, torch.Generator().manual_seed(5)).numpy(), np.full(4, 0.5)
    own = torch.arange(30) % 4 - 1
    expected = OracleEngine(OracleDataset(points(), own)).velocity(torch.from_numpy(x), 0.5, labels=CLASSES)
    with empty_folder():
        save_data(own)
        assert np.array_equal(answers(x=x, t=t, labels=CLASSES.numpy()), expected.numpy())
        save_data(np.arange(30) % 4 - 2)
        assert "must be at least 0, or -1 for a sample without a class; received -2" in refusal(x=x, t=t)


@given(
    st.sampled_from([np.int8, np.uint8, ">i4", np.int64, np.float32, ">f8", np.bool_]),
    st.lists(st.lists(st.integers(-2, 3), min_size=1, max_size=3), min_size=4, max_size=4),
)
def test_any_labels_are_answered_as_in_python_or_refused(dtype: Any, rows: list[list[int]]) -> None:
    width = min(len(row) for row in rows)
    labels = np.array([row[:width] for row in rows]).astype(dtype)
    x, t = normal(4, 4, torch.Generator().manual_seed(5)), np.full(4, 0.5)
    engine = OracleEngine(OracleDataset(points(), torch.arange(30) % 3))
    native = torch.from_numpy(labels.astype(labels.dtype.newbyteorder("=")))
    with empty_folder():
        save_data(np.arange(30) % 3)
        np.savez("in.npz", x=x.numpy(), t=t, labels=labels)
        done = outcome("velocity", "in.npz", "out.npy", "--data", "data.npz", "--data-key", "points")
        assert_answered_or_refused(done)
        if done.status == 2:
            with refused("`labels` "):
                engine.velocity(x, 0.5, labels=native)
        else:
            assert np.array_equal(np.load("out.npy"), engine.velocity(x, 0.5, labels=native).numpy())
