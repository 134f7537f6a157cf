"""Files of other libraries are the arrays that they hold: rows, labels and fingerprint."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from picture_files import by_class, encoded, pixels, write_tar, write_zip

import oracle_engine as oe
from oracle_engine.base.errors import DataFileError, InputError, MissingDependencyError
from oracle_engine.data.formats import Pictures, open_path
from oracle_engine.data.pictures import PictureForm, decode, shape_of

POINTS = np.random.default_rng(1).standard_normal((9, 2, 3)).astype(np.float32)
LABELS = np.arange(9) % 4

pytestmark = pytest.mark.usefixtures("cache")


def write_hdf5(path: Path, points: np.ndarray, chunks: bool = False) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.create_dataset("group/latents", data=points, chunks=(2, *points.shape[1:]) if chunks else None)
        file["labels"] = LABELS
    return path


def write_chunked(path: Path, points: np.ndarray) -> Path:
    return write_hdf5(path, points, chunks=True)


def write_zarr(path: Path, points: np.ndarray) -> Path:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(path, mode="w")
    group.create_array("latents", data=points)
    group.create_array("labels", data=LABELS)
    return path


def write_parquet(path: Path, points: np.ndarray) -> Path:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"latents": points.tolist(), "label": LABELS}
    kind = arrow.list_(arrow.list_(arrow.float32()))
    table = arrow.table(
        {name: arrow.array(value, kind if name == "latents" else None) for name, value in columns.items()}
    )
    parquet.write_table(table, path, row_group_size=4)
    return path


def write_parquet_folder(folder: Path, points: np.ndarray) -> Path:
    folder.mkdir()
    write_parquet(folder / "whole.parquet", points)
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(folder / "whole.parquet")
    (folder / "whole.parquet").unlink()
    parquet.write_table(table.slice(0, 5), folder / "train-0.parquet")
    parquet.write_table(table.slice(5), folder / "train-1.parquet")
    return folder


def write_dict(path: Path, points: np.ndarray) -> Path:
    torch.save({"latents": torch.from_numpy(points), "labels": torch.from_numpy(LABELS), "step": 3}, path)
    return path


def write_pair(path: Path, points: np.ndarray) -> Path:
    torch.save((torch.from_numpy(points), torch.from_numpy(LABELS)), path)
    return path


def write_legacy(path: Path, points: np.ndarray) -> Path:
    torch.save((torch.from_numpy(points), torch.from_numpy(LABELS)), path, _use_new_zipfile_serialization=False)
    return path


def write_adm(path: Path, points: np.ndarray) -> Path:
    np.savez(path, points, LABELS)
    return path


WRITERS: dict[str, tuple[str, Callable[[Path, np.ndarray], Path]]] = {
    "HDF5": ("a.h5", write_hdf5),
    "HDF5 in chunks, of another name": ("a.data", write_chunked),
    "zarr": ("a.zarr", write_zarr),
    "parquet": ("a.parquet", write_parquet),
    "parquet folder": ("tables", write_parquet_folder),
    "dict of torch": ("a.pt", write_dict),
    "pair of torch, of another name": ("a.ckpt", write_pair),
    "old file of torch": ("a.pth", write_legacy),
    "ADM": ("a.npz", write_adm),
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_file_is_the_array_that_it_holds(tmp_path: Path, kind: str, dtype: str) -> None:
    if kind.startswith("parquet") and dtype == "uint8":
        pytest.skip("written as float32")
    name, write = WRITERS[kind]
    points = POINTS if dtype == "float32" else (POINTS * 40 + 100).astype(np.uint8)
    path = write(tmp_path / name, points)
    data, plain = oe.load_dataset(path), oe.load_dataset(points, labels=LABELS)
    assert data.fingerprint == plain.fingerprint
    assert torch.equal(data[torch.arange(9)], plain[torch.arange(9)])
    assert data.labels is not None
    assert data.labels.tolist() == LABELS.tolist()
    assert data.origin


def test_large_numbers_of_an_hdf5_file_stay_there(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "a.h5", np.zeros((9, 4096), np.float32))
    data = oe.load_dataset(path)
    content = path.read_bytes()
    # a page that was not looked at yet comes from the file
    assert data.rows.stored.nbytes < len(content)
    with pytest.raises(DataFileError, match=r"expected an array called 'other'; found"):
        oe.load_dataset(path, key="other")
    assert oe.load_dataset(path, key="group/latents").dim == 4096


def test_numbers_behind_other_bytes_and_in_other_files_are_read(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "block.h5", "w", userblock_size=512) as file:
        file["x"] = POINTS
    outside = [(str(tmp_path / "raw.bin"), 0, POINTS.nbytes)]
    with h5py.File(tmp_path / "outside.h5", "w") as file:
        file.create_dataset("x", data=POINTS, external=outside)
    for name in ("block.h5", "outside.h5"):
        assert oe.load_dataset(tmp_path / name).fingerprint == oe.load_dataset(POINTS).fingerprint


def test_pictures_of_parquet_files_and_lmdb(tmp_path: Path) -> None:
    array = pixels()
    named = [encoded(picture) for picture in array]
    sources: list[tuple[Path, list[int] | None]] = []
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path / "lsun"), map_size=1 << 20) as store, store.begin(write=True) as entries:
        entries.put(b"__len__", b"12")
        for number, content in enumerate(named):
            entries.put(f"{number:04d}".encode(), content)
    sources.append((tmp_path / "lsun", None))
    if find_spec("pyarrow") is not None:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
        rows = [{"bytes": content, "path": None} for content in named]
        parquet.write_table(arrow.table({"image": rows, "label": list(range(12))}), tmp_path / "a.parquet")
        sources.append((tmp_path / "a.parquet", list(range(12))))
    for path, labels in sources:
        data = oe.load_dataset(path)
        assert data.fingerprint == oe.load_dataset(array, labels=labels).fingerprint
        some = oe.load_dataset(path, size=8, count=5)
        assert some.fingerprint == oe.load_dataset(array, labels=labels, count=5).fingerprint
        assert oe.load_dataset(path, size=4, gray=True).sample_shape == (1, 4, 4)


def test_pickled_entries_of_lmdb_are_refused(tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path / "store"), map_size=1 << 20) as store, store.begin(write=True) as entries:
        entries.put(b"0", pickle.dumps((1, 2)))
    with pytest.raises(DataFileError, match=r"expected an LMDB environment of encoded pictures; found an entry '0'"):
        oe.load_dataset(tmp_path / "store")


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_code_in_a_file_of_torch_is_not_run(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(2), "trap": Trap(tmp_path / "ran")}, tmp_path / "a.pt")
    with pytest.raises(DataFileError, match="content that only pickle could load"):
        oe.load_dataset(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.h5", b"\x89HDF\r\n\x1a\n and no more", "an HDF5 file; found damaged or incomplete content"),
        ("a.h5", b"nothing", "an HDF5 file; found damaged or incomplete content"),
        ("a.tar", b"no tar", "a tar of pictures or arrays; found damaged or incomplete content"),
        ("a.zip", b"no zip", "a zip archive; found damaged or incomplete content"),
        ("a.mdb", b"no store", "an LMDB environment of encoded pictures; found damaged or incomplete content"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes, found: str) -> None:
    pytest.importorskip("h5py")
    pytest.importorskip("lmdb")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataFileError, match=rf"{name}.*: expected {found}"):
        oe.load_dataset(tmp_path / name)


def write_batch(path: Path, points: np.ndarray) -> Path:
    path.write_bytes(pickle.dumps({b"labels": [1], b"data": np.zeros((1, 3072), np.uint8)}, protocol=2))
    return path


CHANGED: dict[str, Callable[[Path, np.ndarray], Path]] = {
    "a.zip": lambda path, points: write_zip(path, by_class(pixels(2))[0]),
    "a.tar": lambda path, points: write_tar(path, by_class(pixels(2))[0]),
    "a.h5": write_hdf5,
    "a.npz": write_adm,
    "new.pt": write_dict,
    "old.pt": write_legacy,
    "test_batch": write_batch,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CHANGED)
def test_changed_bytes_give_samples_or_an_error_about_the_file(tmp_path: Path, name: str) -> None:
    content = CHANGED[name](tmp_path / name, POINTS).read_bytes()
    rng = np.random.default_rng(3)
    for _ in range(40):
        changed = bytearray(content)
        for place in rng.integers(0, min(len(content), 400) if rng.random() < 0.5 else len(content), 2):
            changed[place] = rng.integers(0, 256)
        (tmp_path / name).write_bytes(changed[: rng.integers(1, 2 * len(content))])
        assert _said(tmp_path / name) in (None, str(tmp_path / name))


def _said(path: Path) -> str | None:
    """Return the beginning of the error about a file, or None where it was read."""
    try:
        _, held = open_path(path)
        if isinstance(held, Pictures):
            form = PictureForm((4, 4))
            shape = shape_of(held, form, lambda done, total: None)
            decode(held, form, np.zeros((len(held.names), *shape), np.uint8), lambda done, total: None)
    except DataFileError as error:
        return str(error)[: len(str(path))]
    return None


def test_damaged_parquet_files_are_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataFileError, match=r"a\.parquet: expected a parquet file .* found damaged"):
        oe.load_dataset(tmp_path / "a.parquet")


def test_the_arrays_of_hugging_face_are_extensions_of_lists(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    class Array2D(arrow.ExtensionType):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__(arrow.list_(arrow.list_(arrow.float32())), "array2d of a test")

        def __arrow_ext_serialize__(self) -> bytes:
            return b""

        @classmethod
        def __arrow_ext_deserialize__(cls, storage: Any, serialized: bytes) -> Any:
            return cls()

    kind = Array2D()
    arrow.register_extension_type(kind)
    try:
        rows = arrow.array(POINTS.tolist(), kind.storage_type)
        parquet.write_table(
            arrow.table({"x": arrow.ExtensionArray.from_storage(kind, rows), "label": LABELS}), tmp_path / "a.parquet"
        )
        wanted = oe.load_dataset(POINTS, labels=LABELS).fingerprint
        assert oe.load_dataset(tmp_path / "a.parquet").fingerprint == wanted
    finally:
        arrow.unregister_extension_type("array2d of a test")


def test_lists_of_different_lengths_are_refused(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"x": [[1.0, 2.0], [1.0]]}), tmp_path / "a.parquet")
    with pytest.raises(DataFileError, match="expected lists of one length"):
        oe.load_dataset(tmp_path / "a.parquet")


def test_arrays_of_webdataset_are_samples(tmp_path: Path) -> None:
    parts = []
    for number, point in enumerate(POINTS):
        stream = io.BytesIO()
        np.save(stream, point)
        parts += [(f"{number:03d}.latent.npy", stream.getvalue()), (f"{number:03d}.cls", str(LABELS[number]).encode())]
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards" / "0.tar", parts[:8])
    write_tar(tmp_path / "shards" / "1.tar.gz", parts[8:])
    assert oe.load_dataset(tmp_path / "shards").fingerprint == oe.load_dataset(POINTS, labels=LABELS).fingerprint
    stream = io.BytesIO()
    np.save(stream, POINTS[0, 0])
    write_tar(tmp_path / "odd.tar", [parts[0], ("odd.npy", stream.getvalue())])
    with pytest.raises(DataFileError, match=r"odd\.tar/odd\.npy: expected float32 \[2, 3\] as in 000"):
        oe.load_dataset(tmp_path / "odd.tar")
    write_tar(tmp_path / "bad.tar", [("bad.npy", stream.getvalue()[:-4])])
    with pytest.raises(DataFileError, match=r"bad\.tar/bad\.npy: expected a NumPy \.npy file; found damaged"):
        oe.load_dataset(tmp_path / "bad.tar")


def test_archives_without_pictures_say_what_they_hold(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("notes.txt", b"nothing to see")])
    with pytest.raises(DataFileError, match=r"expected pictures \(PNG, JPEG, WebP\); found notes\.txt"):
        oe.load_dataset(tmp_path / "a.tar")
    write_tar(tmp_path / "b.tar", [("a.png", encoded(pixels(1)[0])), ("a.cls", b"x")])
    with pytest.raises(DataFileError, match=r"expected an integer in a\.cls; found b'x'"):
        oe.load_dataset(tmp_path / "b.tar")


@pytest.mark.parametrize(
    ("module", "name", "package"),
    [("h5py", "a.h5", "h5py"), ("zarr", "a", "zarr"), ("lmdb", "a.mdb", "lmdb"), ("pyarrow", "a.parquet", "pyarrow")],
)
def test_a_library_that_is_absent_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str, package: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    if name == "a":
        (tmp_path / name).mkdir()
        (tmp_path / name / "zarr.json").write_text("{}")
    else:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(MissingDependencyError, match=rf"needs the package `{package}`.*pip install {package} \(or"):
        oe.load_dataset(tmp_path / name)


def test_pictures_need_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(encoded(pixels(1)[0]))
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    with pytest.raises(MissingDependencyError, match=r"A picture needs the package `pillow`.*pip install pillow"):
        oe.load_dataset(tmp_path)


def test_a_key_is_for_arrays_with_names(tmp_path: Path) -> None:
    write_pair(tmp_path / "a.pt", POINTS)
    with pytest.raises(InputError, match="`key` names a tensor of a dict"):
        oe.load_dataset(tmp_path / "a.pt", key="x")
    torch.save({"mean": torch.zeros(3, 2), "std": torch.ones(3, 2)}, tmp_path / "b.pt")
    with pytest.raises(DataFileError, match="expected one array of samples; found mean, std"):
        oe.load_dataset(tmp_path / "b.pt")
    assert oe.load_dataset(tmp_path / "b.pt", key="std").value_range == (1.0, 1.0)


def test_folders_of_save_to_disk_are_named_with_the_line_that_reads_them(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for name in ("train", "test"):
        (photos / name).mkdir(parents=True)
        for file in ("state.json", "dataset_info.json"):
            (photos / name / file).write_text("{}")
        (photos / name / "data-00000-of-00001.arrow").write_bytes(b"\xff\xff\xff\xff")
    whole = re.escape(f"datasets.load_from_disk({str(photos / 'train')!r})")
    with pytest.raises(DataFileError, match=rf"found a data set that save_to_disk wrote\. Remedy: pass {whole} in"):
        oe.load_dataset(photos / "train")
    (photos / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    part = re.escape(f"datasets.load_from_disk({str(photos)!r})['train']")
    with pytest.raises(DataFileError, match=rf"with the splits train, test\. Remedy: pass {part} in place of the path"):
        oe.load_dataset(photos)
    with pytest.raises(DataFileError, match=rf"{part}\.to_parquet\('data\.parquet'\)"):
        oe.load_dataset(photos, key="image")
    with pytest.raises(DataFileError, match=r"found an Arrow file\. Remedy: pass datasets\.Dataset\.from_file\("):
        oe.load_dataset(photos / "test" / "data-00000-of-00001.arrow")
    (photos / "dataset_dict.json").write_text("{")
    with pytest.raises(DataFileError, match=r"dataset_dict\.json: expected the splits of a data set; found damaged"):
        oe.load_dataset(photos)
