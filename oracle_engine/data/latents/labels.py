"""The labels of latents in dataset.json: which file each of its entries means, however it writes the name."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from ...base.errors import bad_file
from ..formats import reading
from ..formats.label_files import LABELS_FILE
from ..samples import NO_CLASS

MEAN_STD = "img-mean-std-*.npy"


def is_mean_std(name: str) -> bool:
    """Return whether a file of this name, with or without folders, holds the mean and std of a latent."""
    return fnmatch(name.rsplit("/", 1)[-1], MEAN_STD)


def listed_latents(path: Path, names: Collection[str], read_text: Callable[[str], str]) -> dict[str, Any]:
    """Return the files of latents with their labels as written, -1 for null, or with None where none is given.

    path: the folder or archive, for errors. names: of its files, with / between folders.
    read_text: returns the text of one of them.

    Files with labels come in the order of dataset.json, others in that of their names. An entry names a file of latents
    or its image, which has the same number; it may use backslashes, and may leave out the folder that holds everything.

    Raises DataFileError where dataset.json is damaged, lists a file twice or one that is not there, or leaves one out.
    """
    latents = sorted(name for name in names if is_mean_std(name))
    held = [name for name in names if name.rsplit("/", 1)[-1] == LABELS_FILE]
    where = path / held[0] if len(held) == 1 else path / LABELS_FILE
    if len(held) > 1:
        remedy = f"keep one {LABELS_FILE}, that of all latents"
        raise bad_file(path, f"one {LABELS_FILE}", " and ".join(sorted(held)), remedy)
    entries = _entries(where, lambda: read_text(held[0])) if held else []
    if all(label is None for _, label in entries):
        return dict.fromkeys(latents)
    found = _matched(where, held[0].rpartition("/")[0], entries, latents)
    left = next((name for name in latents if name not in found), None)
    if left is not None:
        remedy = f"add it to {LABELS_FILE}, with the label null where it has none, or remove the file"
        raise bad_file(where, "a label for every file of latents", f"none for {left}", remedy)
    return {name: NO_CLASS if label is None else label for name, label in found.items()}


def _entries(where: Path, text: Callable[[], str]) -> list[tuple[str, Any]]:
    """Return the pairs of a name and a label that a dataset.json lists, or nothing where its labels are null."""
    remedy = 'write {"labels": [["00000/img-mean-std-00000000.npy", 3], ...]}, or "labels": null'
    with reading(where, "the labels of the latents"):
        content = json.loads(text())
    if not isinstance(content, dict):
        raise bad_file(where, "an object with `labels`", f"a {type(content).__name__}", remedy)
    listed = content.get("labels") or []
    if not isinstance(listed, list):
        raise bad_file(where, "a list of pairs in `labels`", f"a {type(listed).__name__}", remedy)
    for entry in listed:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise bad_file(where, "pairs of a name and a label in `labels`", f"{entry!r}", remedy)
    return [(name, label) for name, label in listed]


def _matched(where: Path, top: str, entries: list[tuple[str, Any]], latents: list[str]) -> dict[str, Any]:
    """Return the label of each file of latents that `entries` name, in their order; `top` is the folder of the list."""
    clean = [(PurePosixPath(name.replace("\\", "/")).as_posix(), name, label) for name, label in entries]
    # images may be listed beside the latents; alone, each stands for the latent of its number
    own = [entry for entry in clean if is_mean_std(entry[0])]
    key = _folder_and_name if own else _folder_and_number
    files = {key(name): name for name in latents}
    tops = dict.fromkeys(["", top, os.path.commonpath([PurePosixPath("/", name).parent for name in latents or ["."]])])
    found: dict[str, Any] = {}
    for cleaned, name, label in own or clean:
        folder, last = key(cleaned)
        places = (str(PurePosixPath("/", base.lstrip("/"), folder.lstrip("/"))) for base in tops)
        file = next((files[place, last] for place in places if (place, last) in files), None)
        if file is None:
            remedy = "list the names of the files or of their images, or remove the entry"
            raise bad_file(where, f"every file that {LABELS_FILE} lists", f"no {name}", remedy)
        if file in found:
            raise bad_file(where, "each file of latents once", f"{file} twice", "remove one of its entries")
        found[file] = label
    return found


def _folder_and_name(name: str) -> tuple[str, str]:
    return str(PurePosixPath("/", name).parent), PurePosixPath(name).name


def _folder_and_number(name: str) -> tuple[str, str]:
    """Return the folder and the number at the end of a name, img00000003.png and img-mean-std-00000003.npy alike."""
    digits = re.search(r"\d*$", PurePosixPath(name).stem)
    return str(PurePosixPath("/", name).parent), f"{int(digits[0]):08d}" if digits and digits[0] else name
