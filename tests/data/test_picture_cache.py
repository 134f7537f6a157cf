"""Pictures of folders and archives are the arrays that they show, decoded once and found again."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")

from picture_files import COUNT, by_class, encoded, pixels, write_folder, write_tar, write_zip
from tolerances import assert_close

import oracle_engine as oe
from oracle_engine.base.errors import DataFileError, InputError
from oracle_engine.base.outside.rows import OutsideRows
from oracle_engine.data import picture_cache
from oracle_engine.data.formats import picture_folder
from oracle_engine.data.load import choose_rows
from oracle_engine.data.picture_cache import picture_key
from oracle_engine.data.pictures import PictureForm


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, which is empty at first."""
    monkeypatch.setenv("ORACLE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(picture_cache, "decode", fail)


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


def test_the_second_start_reads_the_cache(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "photos", by_class(pixels())[0])
    first = oe.load_dataset(folder)
    files = sorted(path.name for path in cache.rglob("*") if path.is_file())
    assert files == ["manifest.json", "points.npy", "points.npy.pack"]
    forbid_decoding(monkeypatch)
    again = oe.load_dataset(folder)
    assert (again.fingerprint, again.name) == (first.fingerprint, "photos")
    some = oe.load_dataset(folder, count=5, storage=torch.float32)
    assert (len(some), some.storage) == (5, torch.float32)
    # a copy is the same data, and other options are others
    copy = write_folder(tmp_path / "copy", by_class(pixels())[0])
    assert oe.load_dataset(copy).fingerprint == first.fingerprint
    with pytest.raises(AssertionError, match="decoded again"):
        oe.load_dataset(folder, size=4)


def test_a_changed_picture_is_decoded_anew(tmp_path: Path) -> None:
    named, _ = by_class(pixels())
    folder = write_folder(tmp_path / "photos", named)
    first = oe.load_dataset(folder).fingerprint
    path = folder / named[3][0]
    before = path.stat()
    other = bytearray(encoded(pixels()[3] ^ 1, "WEBP"))
    path.write_bytes(other)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert oe.load_dataset(folder).fingerprint != first


def test_the_key_of_a_large_set_notices_new_times_and_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_cache, "WHOLE_BYTES", 0)
    monkeypatch.setattr(picture_cache, "SAMPLES", 4)
    folder = write_folder(tmp_path / "photos", by_class(pixels())[0])
    key = picture_key(picture_folder(folder), PictureForm())
    assert picture_key(picture_folder(folder), PictureForm()) == key
    assert picture_key(picture_folder(folder), PictureForm(gray=True)) != key
    some = next(folder.rglob("*.png"))
    os.utime(some, ns=(1, some.stat().st_mtime_ns + 1))
    assert picture_key(picture_folder(folder), PictureForm()) != key


def test_folders_that_are_linked_are_read(tmp_path: Path) -> None:
    named, labels = by_class(pixels())
    folder = write_folder(tmp_path / "photos", named)
    (tmp_path / "links").mkdir()
    for inner in folder.iterdir():
        (tmp_path / "links" / inner.name).symlink_to(inner)
    assert oe.load_dataset(tmp_path / "links").fingerprint == oe.load_dataset(pixels(), labels=labels).fingerprint


def test_large_sets_stay_in_the_cache_in_any_order_of_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "photos", by_class(pixels())[0])
    labels = np.arange(12) % 5
    wanted = oe.load_dataset(pixels(), labels=labels)
    x = torch.zeros(2, 3, 8, 8)
    answer = oe.OracleEngine(wanted).velocity(x, 0.3, labels=2)
    monkeypatch.setattr("oracle_engine.data.samples.READ_BYTES", 0)
    data = oe.load_dataset(folder, labels=labels)
    assert isinstance(data.rows.stored, OutsideRows)
    assert data.fingerprint == wanted.fingerprint
    assert_close(oe.OracleEngine(data).velocity(x, 0.3, labels=2), answer, "bar")


def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path: Path, cache: Path) -> None:
    left = cache / "pictures" / ".0123.99.partial"
    for age in (0, 2 * picture_cache.STALE):
        left.mkdir(parents=True, exist_ok=True)
        os.utime(left, (left.stat().st_atime, left.stat().st_mtime - age))
        oe.load_dataset(write_folder(tmp_path / f"photos{age}", [("a.png", encoded(pixels(1)[0] ^ bool(age)))]))
        assert left.exists() == (age == 0)


def test_a_damaged_cache_is_written_anew(tmp_path: Path, cache: Path) -> None:
    folder = write_folder(tmp_path / "photos", by_class(pixels())[0])
    first = oe.load_dataset(folder).fingerprint
    for name in ("points.npy", "points.npy.pack", "manifest.json"):
        next(cache.rglob(name)).write_bytes(b"damaged")
        assert oe.load_dataset(folder).fingerprint == first


def test_a_failure_leaves_nothing_in_the_cache(tmp_path: Path, cache: Path) -> None:
    named, _ = by_class(pixels())
    named[5] = (named[5][0], named[5][1][:-20])
    folder = write_folder(tmp_path / "photos", named)
    with pytest.raises(DataFileError, match=rf"{named[5][0]}: expected a picture .* found damaged or incomplete"):
        oe.load_dataset(folder)
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    archive = write_zip(tmp_path / "photos.zip", named)
    with pytest.raises(DataFileError, match=rf"photos\.zip/photos/{named[5][0]}: expected a picture"):
        oe.load_dataset(archive)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "photos", by_class(pixels())[0])
    (tmp_path / "file").touch()
    monkeypatch.setenv("ORACLE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match="`ORACLE_CACHE` must name a folder that can hold decoded pictures; received"):
        oe.load_dataset(folder)
    monkeypatch.setenv("ORACLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(InputError, match=r"0\.0 GiB free, where the decoded pictures take"):
        oe.load_dataset(folder)


def test_the_cache_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORACLE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    oe.load_dataset(write_folder(tmp_path / "photos", by_class(pixels())[0]))
    assert (tmp_path / "xdg" / "oracle-engine" / "pictures").is_dir()


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


def test_pictures_of_other_formats_are_not_dropped_without_a_word(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "photos", [("a.png", encoded(pixels(1)[0])), ("b.heic", b"?"), (".c.png", b"?")])
    with pytest.warns(UserWarning, match=r"1 pictures of other formats are left out, such as b\.heic"):
        assert len(oe.load_dataset(folder)) == 1


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


def test_some_pictures_are_found_again_and_in_the_whole_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some, whole = (write_folder(tmp_path / name, by_class(pixels() ^ bit)[0]) for bit, name in enumerate("ab"))
    first, _ = oe.load_dataset(some, count=5), oe.load_dataset(whole)
    forbid_decoding(monkeypatch)
    assert oe.load_dataset(some, count=5).fingerprint == first.fingerprint
    assert len(oe.load_dataset(whole, count=5)) == 5
    with pytest.raises(AssertionError, match="decoded again"):
        oe.load_dataset(some, count=5, seed=1)
    with pytest.raises(InputError, match=r"`count` must lie in 1\.\.12"):
        oe.load_dataset(some, count=13)
