"""Pictures of folders and archives are the arrays that they show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")

from picture_files import by_class, encoded, pixels, write_folder, write_tar, write_zip

import oracle_engine as oe
from oracle_engine.base.errors import DataFileError, InputError
from oracle_engine.data.load import choose_rows

pytestmark = pytest.mark.usefixtures("cache")


def webdataset(folder: Path, named: list[tuple[str, bytes]]) -> Path:
    """Write two tars, with the class of each picture beside it."""
    parts = [(name.replace("/", "-"), content) for name, content in named]
    classes = [(f"{name.split('.')[0]}.cls", name[5:6].encode()) for name, _ in parts]
    both = [entry for pair in zip(parts, classes, strict=True) for entry in pair]
    for number, half in enumerate((both[: len(both) // 2], both[len(both) // 2 :])):
        write_tar(folder / f"shard-{number}.tar", half)
    return folder


CONTAINERS: dict[str, Callable[[Path, list[tuple[str, bytes]]], Path]] = {
    "folder": lambda place, named: write_folder(place / "photos", named),
    "zip": lambda place, named: write_zip(place / "photos.zip", named),
    "tar": lambda place, named: write_tar(place / "photos.tar", named),
    "tar.gz": lambda place, named: write_tar(place / "photos.tar.gz", named),
    "misnamed zip": lambda place, named: write_zip(place / "photos.bin", named),
}


@pytest.mark.parametrize("kind", [*CONTAINERS, "webdataset"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_the_array_that_they_show(tmp_path: Path, kind: str, channels: int) -> None:
    array = pixels(channels=channels)
    named, labels = by_class(array)
    if channels == 1:
        # WebP has no grey pictures
        named = [(f"{name[:10]}.png", encoded(picture)) for (name, _), picture in zip(named, array, strict=True)]
    place = tmp_path / "here"
    place.mkdir()
    data = oe.load_dataset(webdataset(place, named) if kind == "webdataset" else CONTAINERS[kind](place, named))
    plain = oe.load_dataset(array, labels=labels)
    assert data.sample_shape == plain.sample_shape
    assert torch.equal(data.rows.stored, plain.rows.stored)
    assert data.labels is not None
    assert data.labels.tolist() == labels.tolist()
    assert data.fingerprint == plain.fingerprint
    assert "pictures" in data.origin


def test_folders_that_are_linked_are_read(tmp_path: Path) -> None:
    named, labels = by_class(pixels())
    folder = write_folder(tmp_path / "photos", named)
    (tmp_path / "links").mkdir()
    for inner in folder.iterdir():
        (tmp_path / "links" / inner.name).symlink_to(inner)
    assert oe.load_dataset(tmp_path / "links").fingerprint == oe.load_dataset(pixels(), labels=labels).fingerprint


def test_sizes_that_differ_need_one(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path / "photos",
        [("a.png", encoded(pixels(1)[0])), ("b.png", encoded(np.full((3, 6, 10), 90, np.uint8)))],
    )
    sizes = r"b\.png: expected a picture of 8 x 8 as a\.png; found a picture of 6 x 10, and 2 sizes in all"
    with pytest.raises(DataFileError, match=rf"{sizes}\. Remedy: pass size=64"):
        oe.load_dataset(folder)
    data = oe.load_dataset(folder, size=4)
    assert (data.sample_shape, data.labels) == ((3, 4, 4), None)
    assert data.rows.stored[1].unique().tolist() == [90]
    assert oe.load_dataset(folder, size=(4, 6), gray=True).sample_shape == (1, 4, 6)


def test_the_centre_is_kept(tmp_path: Path) -> None:
    wide = np.zeros((1, 4, 12), np.uint8)
    wide[:, :, 4:8] = 200
    data = oe.load_dataset(write_folder(tmp_path / "photos", [("a.png", encoded(wide))]), size=4)
    assert data.rows.stored.unique().tolist() == [200]


def test_photographs_are_turned_as_viewers_turn_them(tmp_path: Path) -> None:
    from PIL import Image

    image = Image.fromarray(np.arange(32, dtype=np.uint8).reshape(4, 8))
    turned = image.getexif()
    turned[0x0112] = 6
    (tmp_path / "photos").mkdir()
    image.save(tmp_path / "photos" / "a.png", exif=turned)
    data = oe.load_dataset(tmp_path / "photos")
    assert data.sample_shape == (1, 8, 4)
    assert data.rows.stored.reshape(8, 4)[:, -1].tolist() == list(range(8))


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "photos" / "deep.png")
    with pytest.raises(DataFileError, match=r"deep\.png: .*found numbers of more than 8 bits.*save 8-bit"):
        oe.load_dataset(tmp_path / "photos")


def test_gray_and_colour_together_are_colour(tmp_path: Path) -> None:
    named = [("a.png", encoded(pixels(1, 1)[0])), ("b.png", encoded(pixels(1)[0]))]
    data = oe.load_dataset(write_folder(tmp_path / "photos", named))
    assert data.sample_shape == (3, 8, 8)
    assert torch.equal(data.rows.stored[0].reshape(3, 64)[0], data.rows.stored[0].reshape(3, 64)[2])


def test_pictures_of_other_formats_are_not_dropped_without_a_word(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "photos", [("a.png", encoded(pixels(1)[0])), ("b.heic", b"?"), (".c.png", b"?")])
    with pytest.warns(UserWarning, match=r"1 pictures of other formats are left out, such as b\.heic"):
        assert len(oe.load_dataset(folder)) == 1


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, r"`size` must be a whole number in 1\.\.16,384, or a pair"),
        ({"size": "8"}, "`size` must be a whole number"),
        ({"size": (8, 8, 8)}, "`size` must be a whole number"),
        ({"gray": 1}, "`gray` must be True or False; received 1"),
    ],
)
def test_forms_that_are_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        oe.load_dataset("digits", **options)


@pytest.mark.parametrize("source", ["digits", pixels(), list(torch.from_numpy(pixels()))])
def test_sizes_are_for_pictures(source: Any) -> None:
    with pytest.raises(InputError, match=r"`size` (has no meaning for|is for pictures)"):
        oe.load_dataset(source, size=8)


@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize("grey", [False, True])
def test_of_a_count_no_other_picture_is_decoded(tmp_path: Path, kind: str, grey: bool) -> None:
    array, rows = pixels(), choose_rows(12, 5, seed=3)
    if grey:
        array[rows] = array[rows, :1]
    named, labels = by_class(array)
    for row in rows.tolist() if grey else []:
        named[row] = (f"{named[row][0][:10]}.png", encoded(array[row, :1]))
    for row in set(range(12)) - set(rows.tolist()):
        # the header of a picture, which its numbers do not follow
        named[row] = (named[row][0], named[row][1][:-20])
    (tmp_path / "here").mkdir()
    path = CONTAINERS[kind](tmp_path / "here", named)
    data = oe.load_dataset(path, count=5, seed=3)
    plain = oe.load_dataset(array, labels=labels, count=5, seed=3)
    assert data.fingerprint == plain.fingerprint
    assert data.labels is not None
    assert data.labels.tolist() == labels[rows.numpy()].tolist()
    numbers = np.arange(12)
    given = oe.load_dataset(path, count=5, seed=3, labels=numbers, weights=1.0 + numbers)
    wanted = oe.load_dataset(array, count=5, seed=3, labels=numbers, weights=1.0 + numbers)
    assert given.fingerprint == wanted.fingerprint
    with pytest.raises(DataFileError, match="damaged or incomplete"):
        oe.load_dataset(path)
