"""Readers of files and folders: each returns samples as they are stored, or raises an error about the file."""

from .archives import read_tar, zipped_pictures
from .cifar import read_cifar10, read_cifar_python
from .door import FILES, FOLDERS, Format, format_of, open_path, read_path
from .idx import find_idx, read_idx
from .label_files import read_labels
from .npy import read_npy
from .npz import member, read_npz
from .picture_lists import Opener, Pictures, has_pictures, picture_folder
from .reading import FRESH_COPY, library, reading
from .shards import SHARD_SUFFIXES, open_shards, read_shards, shard_files
from .tensors import read_pt, read_safetensors

__all__ = [
    "FILES",
    "FOLDERS",
    "FRESH_COPY",
    "SHARD_SUFFIXES",
    "Format",
    "Opener",
    "Pictures",
    "find_idx",
    "format_of",
    "has_pictures",
    "library",
    "member",
    "open_path",
    "open_shards",
    "picture_folder",
    "read_cifar10",
    "read_cifar_python",
    "read_idx",
    "read_labels",
    "read_npy",
    "read_npz",
    "read_path",
    "read_pt",
    "read_safetensors",
    "read_shards",
    "read_tar",
    "reading",
    "shard_files",
    "zipped_pictures",
]
