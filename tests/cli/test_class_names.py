"""Classes on a command line are numbers, or names of the classes that the data have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("PIL")

from command_line import assert_refused, run_json
from picture_files import by_class, pixels, write_folder

from oracle_engine import load_dataset

DRAW = ("--draw", 4, "--steps", 4, "--no-figure")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORACLE_CACHE", str(tmp_path / "cache"))
    return write_folder(tmp_path / "photos", by_class(pixels())[0])


def test_names_stand_for_numbers(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = run_json(capsys, "sample", "--data", photos, *DRAW, "--labels", "class2", 0)
    numbered = run_json(capsys, "sample", "--data", photos, *DRAW, "--labels", 2, 0)
    assert named["labels"] == [2, 0, 2, 0]
    assert named["distance"] == numbered["distance"]
    labels = load_dataset(photos).labels
    assert labels is not None
    assert labels[torch.tensor(named["nearest"])].tolist() == [2, 0, 2, 0]


def test_stages_of_a_class_by_its_name(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--times", 0.5, "--queries", 8, "--no-figure", "--out", tmp_path / "found")
    found = run_json(capsys, "stages", "--data", photos, *options, "--labels", "class1")
    assert found["population"] == 4


def test_other_names_are_refused_with_those_that_are_known(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "`--labels` must be numbers or names of classes: class0, class1, class2; received 'china'"
    assert_refused(capsys, words, "sample", "--data", photos, *DRAW, "--labels", "china")
    words = "`--labels` must be whole numbers: these data have no names of classes"
    assert_refused(capsys, words, "sample", "--data", "digits", *DRAW, "--labels", "seven")
