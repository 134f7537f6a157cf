"""Built-in data sets: small real ones that come with scikit-learn, and well-known ones read from a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from ..base.arrays import Int64, Tensor
from ..base.errors import bad_file, invalid, missing
from ..base.machine.settings import Settings, cache_folder
from ..base.names import BUILTIN_NAMES
from ..base.seeds import seeded
from .formats import find_idx, read_cifar10, read_idx
from .samples import Samples, samples_of, tensor_of
from .values import ValueMap

PATCH_SIDE = 32
MOST_PATCHES = 100_000

# where the Debian package dataset-fashion-mnist puts its files
FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")

_PIXELS = ValueMap.default(torch.uint8)


@dataclass(frozen=True)
class BuiltIn:
    """A built-in data set.

    name: its key in BUILTINS. description, credit: one line each; credit names the authors and the licence.
    load: a function that returns the samples. options: the keyword arguments that it takes, of folder, count and seed.
    value_map: from the stored numbers to values in [-1, 1].
    """

    name: str
    description: str
    credit: str
    load: Callable[..., Samples]
    options: tuple[str, ...] = ()
    value_map: ValueMap = _PIXELS


def load_builtin(name: str, *, folder: Path | None = None, count: int | None = None, seed: int = 0) -> Samples:
    """Return the samples of a built-in set.

    name: a key of BUILTINS. folder: where the files are, for a set that is read from files.
    count, seed: how many samples to draw, and the seed, for a set that draws them ("patches"); the others return all.

    Raises KeyError for another name, InputError for a folder or a count that the set cannot use, DataFileError for
    files that are absent or damaged, and MissingDependencyError where scikit-learn or pillow is needed and absent.
    """
    builtin = BUILTINS[name]
    if folder is not None and "folder" not in builtin.options:
        raise invalid("folder", "is for sets that are read from files", f"{folder} for {name!r}", "leave it out")
    given: Mapping[str, Any] = {"folder": folder, "count": count, "seed": seed}
    return builtin.load(**{option: given[option] for option in builtin.options})


def load_digits() -> Samples:
    """Return scikit-learn's 1,797 handwritten digits, uint8 [1797, 1, 8, 8] in 0..16, and labels 0..9.

    Raises MissingDependencyError where scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise missing("scikit-learn", "The built-in data set 'digits'", "demo") from error
    digits = datasets.load_digits()
    return samples_of(digits.images[:, None].astype(np.uint8), digits.target, "digits")


def draw_patches(count: int | None = None, seed: int = 0) -> Samples:
    """Return crops of scikit-learn's two photographs, uint8 [count, 3, 32, 32]; the label is the photograph, 0 or 1.

    count: 1..100,000, None for 20,000; half of each photograph, every position at most once.
    seed: of the positions. For one seed, those of a small draw are the first of a larger one.

    Raises InputError for a count outside these limits, and MissingDependencyError where scikit-learn or pillow is not
    installed.
    """
    wanted = 20_000 if count is None else count
    if not 1 <= wanted <= MOST_PATCHES:
        limits = f"must lie in 1..{MOST_PATCHES:,} for 'patches'"
        raise invalid("count", limits, wanted, "ask for a number between, or leave it out")
    drawn = seeded(seed)
    photographs = _photographs()
    shares = (wanted - wanted // 2, wanted // 2)
    patches = torch.empty(wanted, 3, PATCH_SIDE, PATCH_SIDE, dtype=torch.uint8)
    for photograph, part in zip(photographs, patches.split(shares), strict=True):
        # a view of all crops, [rows, columns, 3, 32, 32]
        crops = photograph.unfold(0, PATCH_SIDE, 1).unfold(1, PATCH_SIDE, 1)
        place = torch.randperm(len(crops) * crops.shape[1], generator=drawn)[: len(part)]
        part.copy_(crops[place // crops.shape[1], place % crops.shape[1]])
    return Samples(patches, _repeat_labels(shares))


def load_images(name: str, *, remedy: str, extra: Sequence[Path] = (), folder: Path | None = None) -> Samples:
    """Return the train split of a set in the file format of MNIST, uint8 [N, 1, 28, 28], with labels.

    name: of the set, and of its subfolder of ORACLE_DATA and of the cache (ORACLE_CACHE), which are searched.
    remedy: what an error recommends. extra: further folders to search. folder: the only one to search, where given.

    Raises DataFileError where no folder has the images, where the labels are not beside them, and for other shapes.
    """
    folders = _folders(name, folder, extra)
    images = next(filter(None, (find_idx(place, "train-images", 3) for place in folders)), None)
    if images is None:
        raise _absent(name, "train-images-idx3-ubyte (or .gz)", folders, remedy)
    samples = read_idx(images)
    if samples.labels is None:
        raise bad_file(images.parent, "train-labels-idx1-ubyte (or .gz) beside the images", "no such file", remedy)
    if samples.points.shape[1:] != (1, 28, 28) or samples.points.dtype != torch.uint8:
        found = f"{samples.points.dtype} images of {list(samples.points.shape[2:])}"
        raise bad_file(images, "uint8 images of [28, 28]", found, remedy)
    return samples


def load_cifar10(folder: Path | None = None) -> Samples:
    """Return the train split of CIFAR-10, uint8 [50000, 3, 32, 32], with labels, from its binary version.

    folder: cifar-10-batches-bin or the folder that holds it; None searches the folders of :func:`load_images`.
    Raises DataFileError where the files are absent or damaged.
    """
    inner = "cifar-10-batches-bin"
    folders = [spot for place in _folders("cifar10", folder) for spot in (place, place / inner)]
    found = next((place for place in folders if (place / "data_batch_1.bin").is_file()), None)
    if found is None:
        remedy = f"unpack cifar-10-binary.tar.gz into one of them, or name its folder {inner} by folder="
        raise _absent("cifar10", "data_batch_1.bin", folders, remedy)
    return read_cifar10(found)


def _photographs() -> list[Tensor]:
    """Return the photographs that patches are cut from. Raises MissingDependencyError without them."""
    try:
        import PIL  # noqa: F401
        from sklearn import datasets
    except ImportError as error:
        package = "pillow" if error.name == "PIL" else "scikit-learn"
        raise missing(package, "The built-in data set 'patches'", "demo") from error
    return [tensor_of(datasets.load_sample_image(name), name) for name in ("china.jpg", "flower.jpg")]


def _repeat_labels(shares: tuple[int, ...]) -> Int64[Tensor, "N"]:
    return torch.arange(len(shares)).repeat_interleave(torch.tensor(shares))


def _folders(name: str, folder: Path | None, extra: Sequence[Path] = ()) -> list[Path]:
    """Return where the files of a built-in set are looked for."""
    if folder is not None:
        return [folder]
    data = Settings.read().data
    own = cache_folder() / name
    return [*([] if data is None else [data / name]), own, *extra]


def _absent(name: str, files: str, folders: list[Path], remedy: str) -> Exception:
    searched = ", ".join(map(str, folders))
    expected = f"{files} in one of: {searched}"
    return bad_file(f"built-in data set {name!r}", expected, "it in none of them", remedy, parameter="folder")


_MNIST_REMEDY = (
    "put the four files of MNIST into one of these folders, gzipped or not, "
    "name theirs by folder=, or set ORACLE_DATA to the folder above"
)
_FASHION_REMEDY = (
    "apt-get install dataset-fashion-mnist, name the folder by folder=, or set ORACLE_DATA to the folder above"
)
_ALL = (
    BuiltIn(
        "digits",
        "1,797 handwritten digits, 1 x 8 x 8, 10 classes; comes with scikit-learn",
        "E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (UCI), CC BY 4.0",
        load_digits,
        value_map=ValueMap(1 / 8, -1.0),
    ),
    BuiltIn(
        "patches",
        "20,000 (count= up to 100,000) crops of two photographs, 3 x 32 x 32, 2 classes; comes with scikit-learn",
        "photographs by danielbuechele (china) and vultilion (flower), CC BY 2.0",
        draw_patches,
        ("count", "seed"),
    ),
    BuiltIn(
        "fashion-mnist",
        "60,000 pictures of clothes, 1 x 28 x 28, 10 classes; Debian package dataset-fashion-mnist",
        "H. Xiao, K. Rasul, R. Vollgraf; Zalando SE, MIT licence",
        partial(load_images, "fashion-mnist", remedy=_FASHION_REMEDY, extra=(FASHION_FOLDER,)),
        ("folder",),
    ),
    BuiltIn(
        "mnist",
        "60,000 handwritten digits, 1 x 28 x 28, 10 classes; read from a folder",
        "Y. LeCun, C. Cortes, C. Burges; CC BY-SA 3.0",
        partial(load_images, "mnist", remedy=_MNIST_REMEDY),
        ("folder",),
    ),
    BuiltIn(
        "cifar10",
        "50,000 colour pictures, 3 x 32 x 32, 10 classes; the binary version, read from a folder",
        "A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; no licence stated",
        load_cifar10,
        ("folder",),
    ),
)
BUILTINS: Mapping[str, BuiltIn] = MappingProxyType(dict(zip(BUILTIN_NAMES, _ALL, strict=True)))
