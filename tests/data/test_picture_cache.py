"""Pictures are decoded once and found again."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")

from picture_files import by_class, encoded, pixels, write_folder, write_zip
from tolerances import assert_close

import oracle_engine as oe
from oracle_engine.base.errors import DataFileError, InputError
from oracle_engine.base.outside.rows import OutsideRows
from oracle_engine.data import picture_cache
from oracle_engine.data.formats import picture_folder
from oracle_engine.data.picture_cache import picture_key
from oracle_engine.data.pictures import PictureForm

pytestmark = pytest.mark.usefixtures("cache")


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(picture_cache, "decode", fail)


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
