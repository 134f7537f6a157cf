"""Labels of pictures come from folders, from files and from what lies beside them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")

from picture_files import COUNT, by_class, encoded, pixels, write_folder, write_zip

import oracle_engine as oe
from oracle_engine.base.errors import DataFileError

pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["a.png", "dogs/b.png"], r"expected all pictures in folders of classes, or none; found a\.png beside folders"),
        (["train/a.png", "val/b.png"], r"found the splits train, val\. Remedy: name one of them, such as .*train"),
    ],
)
def test_folders_that_are_no_classes_are_refused_unless_labels_are_given(
    tmp_path: Path, names: list[str], found: str
) -> None:
    folder = write_folder(tmp_path / "photos", [(name, encoded(pixels(1)[0])) for name in names])
    with pytest.raises(DataFileError, match=found):
        oe.load_dataset(folder)
    labels = oe.load_dataset(folder, labels=[1, 0]).labels
    assert labels is not None
    assert labels.tolist() == [1, 0]


def test_folders_name_classes_wherever_the_data_go(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "photos", by_class(pixels())[0])
    names, data = ("class0", "class1", "class2"), oe.load_dataset(folder)
    data.save(tmp_path / "saved.safetensors")
    moved = data.with_rows(data.rows)
    again = oe.load_dataset(tmp_path / "saved.safetensors")
    for one in (data, moved, again, oe.load_dataset(folder, count=5), pickle.loads(pickle.dumps(data))):
        assert one.class_names == names
    assert oe.load_dataset(folder, labels=[0, 1] * (COUNT // 2)).class_names == ()
    assert oe.OracleDataset(torch.eye(3)).class_names == ()


def listing(names: list[str]) -> dict[str, Any]:
    return {name: number % 2 for number, name in enumerate(names)}


LABEL_FILES: dict[str, Callable[[Path, list[str]], Any]] = {
    "l.npy": lambda path, names: np.save(path, np.arange(len(names)) % 2),
    "l.txt": lambda path, names: path.write_text("".join(f"{number % 2}\n" for number in range(len(names)))),
    "words.txt": lambda path, names: path.write_text("".join(("cat\n", "dog\n")[n % 2] for n in range(len(names)))),
    "l.csv": lambda path, names: path.write_text(
        "file,label\n" + "".join(f"{name},{label}\n" for name, label in reversed(listing(names).items()))
    ),
    "column.csv": lambda path, names: path.write_text("".join(f"{number % 2}\n" for number in range(len(names)))),
    "l.json": lambda path, names: path.write_text(json.dumps(listing(names))),
    "list.json": lambda path, names: path.write_text(json.dumps(list(listing(names).values()))),
    "dataset.json": lambda path, names: path.write_text(json.dumps({"labels": list(listing(names).items())})),
}


@pytest.mark.parametrize("name", LABEL_FILES)
def test_labels_in_files(tmp_path: Path, name: str) -> None:
    named, _ = by_class(pixels())
    folder, file = write_folder(tmp_path / "photos", named), tmp_path / name
    LABEL_FILES[name](file, [name for name, _ in named])
    data = oe.load_dataset(folder, labels=file)
    assert data.labels is not None
    assert data.labels.tolist() == [number % 2 for number in range(len(named))]
    assert data.class_names == (("cat", "dog") if name == "words.txt" else ())
    by_name = name in ("l.csv", "l.json", "dataset.json")
    if by_name:
        with pytest.raises(DataFileError, match="labels by name"):
            oe.load_dataset(pixels(), labels=str(file))
    else:
        assert oe.load_dataset(pixels(), labels=str(file)).labels is not None


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("l.json", '{"class0/000.png": 1}', r"expected a label for every picture; found none for class0/001\.webp"),
        ("l.txt", "1\n2\n", r"expected 12 labels, one a sample; found labels of shape \[2\]"),
        ("l.json", "{", "damaged or incomplete content"),
        ("l.json", "3", "expected a list of labels or an object"),
        ("l.json", "[0.5, 1]", "labels that are integers or names of classes; found 0.5"),
        ("l.csv", "a,1,2\n", "expected one column of labels, or two of names and labels; found 3 columns"),
        ("l.xml", "", r"a name ending in \.npy, \.txt, \.csv, \.json; found \.xml"),
    ],
)
def test_label_files_that_do_not_fit_are_named(tmp_path: Path, name: str, text: str, found: str) -> None:
    folder = write_folder(tmp_path / "photos", by_class(pixels())[0])
    (tmp_path / name).write_text(text)
    with pytest.raises(DataFileError, match=found) as raised:
        oe.load_dataset(folder, labels=tmp_path / name)
    assert str(raised.value).startswith(str(tmp_path / name))


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_a_dataset_json_beside_the_pictures_has_their_labels(tmp_path: Path, write: Callable[..., Path]) -> None:
    named = [(f"0000{number // 6}/img{number:08d}.png", encoded(picture)) for number, picture in enumerate(pixels())]
    pairs = [[name, None if number == 11 else number] for number, (name, _) in enumerate(named)]
    text = json.dumps({"labels": pairs}).encode()
    labels = oe.load_dataset(write(tmp_path / "edm.zip", [*named, ("dataset.json", text)])).labels
    assert labels is not None
    assert labels.tolist() == [*range(11), -1]
    # folders are no classes where the file says that there are none
    assert oe.load_dataset(write(tmp_path / "free.zip", [*named, ("dataset.json", b'{"labels": null}')])).labels is None
