"""The door of all formats: a path is taken for what its content says, then for what its name says, and read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...base.errors import bad_file
from ..samples import Samples
from .archives import is_tar_name, read_tar, tar_files, zip_names, zipped_pictures
from .cifar import BINARY_BATCHES, PICKLE_MAGIC, PYTHON_BATCHES, PYTHON_NAME, read_cifar10, read_cifar_python
from .hugging_face import ARROW_SUFFIX, is_saved, refuse_arrow, refuse_saved
from .idx import IDX_NAME, find_idx, read_idx
from .lmdb_stores import DATA_FILE, read_lmdb
from .naming import check_unkeyed
from .npy import MAGIC as NPY_MAGIC
from .npy import read_npy
from .npz import read_npz
from .parquet import PARQUET_MAGIC, parquet_files, read_parquet
from .picture_lists import Pictures, has_pictures, is_picture_name, picture_folder
from .reading import ZIP_MAGIC, start_of
from .shards import SHARD_SUFFIXES, read_shards
from .stores import HDF5_MAGIC, ZARR_FILES, read_hdf5, read_zarr
from .tensors import read_pt, read_safetensors

# bytes that tell what a file is; that of a tar is the last one
_START = 262
_TAR = slice(257, 262)

Reader = Callable[[Path, str | None, bool], Samples | Pictures]


@dataclass(frozen=True)
class Format:
    """A format of files or folders.

    words: what it is called, with an article. content: whether a path, with the first bytes of a file, is one by what
    it holds. name: whether it is one by its name. read: returns its samples, or its pictures before they are decoded,
    for a key and whether labels are wanted.
    """

    words: str
    content: Callable[[Path, bytes], bool]
    name: Callable[[str], bool]
    read: Reader


def open_path(path: Path, key: str | None = None, *, labelled: bool = True) -> tuple[str, Samples | Pictures]:
    """Return what a path was taken for, in words, and its samples, or its pictures before they are decoded.

    path: a file or a folder, of one of FILES or FOLDERS. key: which of several arrays or columns holds the samples.
    labelled: whether to read the labels that lie beside them in a file.

    Raises DataFileError for a path that cannot be read and InputError for a key where arrays have no names.
    """
    found = format_of(path)
    return found.words, found.read(path, key, labelled)


def read_path(path: Path, key: str | None = None, *, labelled: bool = True) -> Samples:
    """Return the samples of a path that holds numbers; arguments and errors as of :func:`open_path`.

    Raises DataFileError for pictures too.
    """
    words, held = open_path(path, key, labelled=labelled)
    if isinstance(held, Pictures):
        raise bad_file(path, "arrays of numbers", words, "save them as .npy or .safetensors")
    return held


def format_of(path: Path) -> Format:
    """Return the format that a path is taken for. Raises DataFileError where it is none, or cannot be read."""
    if path.is_dir():
        return next(one for one in FOLDERS if one.content(path, b""))
    try:
        start = start_of(path, _START)
    except OSError as error:
        remedy = "check the path and its permissions"
        raise bad_file(path, "a readable file", error.strerror or str(error), remedy) from error
    told = (one for one in FILES if one.content(path, start))
    named = (one for one in FILES if one.name(path.name))
    found = next(told, None) or next(named, None)
    if found is None:
        raise bad_file(path, _KNOWN, f"{path.suffix or 'no suffix'}", "save the samples as .npy or .safetensors")
    return found


def _unkeyed(read: Callable[[Path], Samples | Pictures]) -> Reader:
    """Return a reader of files whose arrays have no names, which refuses a key."""

    def unkeyed(path: Path, key: str | None, labelled: bool) -> Samples | Pictures:
        """Read a file that has no names of arrays. Raises InputError for a key."""
        check_unkeyed(path, key)
        return read(path)

    return unkeyed


def _holds(*names: str) -> Callable[[Path, bytes], bool]:
    """Return whether a folder has a file of one of these names."""
    return lambda path, start: any((path / name).is_file() for name in names)


def _zip_of(wanted: Callable[[str], bool]) -> Callable[[Path, bytes], bool]:
    """Return whether a file is a zip archive with a name that is wanted."""
    return lambda path, start: start.startswith(ZIP_MAGIC) and any(map(wanted, zip_names(path)))


def _begins(magic: bytes) -> Callable[[Path, bytes], bool]:
    return lambda path, start: start.startswith(magic)


def _ends(*suffixes: str) -> Callable[[str], bool]:
    return lambda name: name.endswith(suffixes)


def _is_safetensors(path: Path, start: bytes) -> bool:
    """Whether a file has the length of a header, and then one, in its first bytes."""
    return start[8:10] == b'{"' and 8 + int.from_bytes(start[:8], "little") <= path.stat().st_size


def _never(path: Path, start: bytes) -> bool:
    return False


_CIFAR, _CIFAR_PYTHON = "CIFAR-10's binary version", "CIFAR's Python version"

FILES = (
    Format("an .npy file", _begins(NPY_MAGIC), _ends(".npy"), _unkeyed(read_npy)),
    Format(
        "a file of torch.save",
        _zip_of(lambda name: name.endswith("/data.pkl")),
        _ends(".pt", ".pth"),
        lambda path, key, labelled: read_pt(path, key, labelled=labelled),
    ),
    Format("a zip archive of pictures", _zip_of(is_picture_name), _ends(".zip"), _unkeyed(zipped_pictures)),
    Format(
        "an .npz file",
        _zip_of(lambda name: name.endswith(".npy")),
        _ends(".npz"),
        lambda path, key, labelled: read_npz(path, key, labelled=labelled),
    ),
    Format(
        "an HDF5 file",
        _begins(HDF5_MAGIC),
        _ends(".h5", ".hdf5"),
        lambda path, key, labelled: read_hdf5(path, key, labelled=labelled),
    ),
    Format(
        "a parquet file",
        _begins(PARQUET_MAGIC),
        _ends(".parquet"),
        lambda path, key, labelled: read_parquet(path, key),
    ),
    Format("a tar of pictures or arrays", lambda path, start: start[_TAR] == b"ustar", is_tar_name, _unkeyed(read_tar)),
    Format(
        "a .safetensors file",
        _is_safetensors,
        _ends(".safetensors"),
        lambda path, key, labelled: read_safetensors(path, key, labelled=labelled),
    ),
    Format(
        _CIFAR_PYTHON,
        lambda path, start: start.startswith(PICKLE_MAGIC) and PYTHON_NAME.match(path.name) is not None,
        lambda name: False,
        _unkeyed(read_cifar_python),
    ),
    Format(_CIFAR, _never, _ends(".bin"), _unkeyed(read_cifar10)),
    Format("an IDX file", _never, lambda name: IDX_NAME.search(name) is not None, _unkeyed(read_idx)),
    Format("an Arrow file", _never, _ends(ARROW_SUFFIX), lambda path, key, labelled: refuse_arrow(path)),
    Format("an LMDB file", _never, _ends(".mdb", ".lmdb"), _unkeyed(read_lmdb)),
)

FOLDERS = (
    Format(_CIFAR, _holds(BINARY_BATCHES[0]), bool, _unkeyed(read_cifar10)),
    Format(_CIFAR_PYTHON, lambda path, start: _is_cifar_python(path), bool, _unkeyed(read_cifar_python)),
    Format(
        "IDX files",
        lambda path, start: find_idx(path, "train-images", 3) is not None,
        bool,
        lambda path, key, labelled: _read_idx_folder(path, key),
    ),
    Format(
        "a zarr store",
        _holds(*ZARR_FILES),
        bool,
        lambda path, key, labelled: read_zarr(path, key, labelled=labelled),
    ),
    Format(
        "a data set of Hugging Face",
        lambda path, start: is_saved(path),
        bool,
        lambda path, key, labelled: refuse_saved(path),
    ),
    Format("an LMDB environment", _holds(DATA_FILE), bool, _unkeyed(read_lmdb)),
    Format(
        "a folder of parquet files",
        lambda path, start: bool(parquet_files(path)),
        bool,
        lambda path, key, labelled: read_parquet(path, key),
    ),
    Format(
        "a folder of shards",
        lambda path, start: _has(path, SHARD_SUFFIXES),
        bool,
        lambda path, key, labelled: read_shards(path, key),
    ),
    Format(
        "a folder of tars of pictures or arrays", lambda path, start: bool(tar_files(path)), bool, _unkeyed(read_tar)
    ),
    Format("a folder of pictures", lambda path, start: has_pictures(path), bool, _unkeyed(picture_folder)),
    # the reader says what it found in place of samples
    Format("a folder of shards", lambda path, start: True, bool, lambda path, key, labelled: read_shards(path, key)),
)

_KNOWN = (
    "a name that ends in .npy, .npz, .safetensors, .pt, .h5, .parquet, .zip or .tar (pictures), .bin (CIFAR-10), .idx "
    "or idx*-ubyte (.gz or not)"
)


def _has(folder: Path, suffixes: tuple[str, ...]) -> bool:
    return any(file.suffix in suffixes and not file.name.startswith(".") for file in folder.iterdir())


def _is_cifar_python(folder: Path) -> bool:
    names = (PYTHON_BATCHES[0], "train")
    files = [folder / name for name in names if (folder / name).is_file()]
    return any(start_of(file, 1) == PICKLE_MAGIC for file in files)


def _read_idx_folder(folder: Path, key: str | None) -> Samples:
    images = find_idx(folder, "train-images", 3)
    return read_shards(folder, key) if key is not None or images is None else read_idx(images)
