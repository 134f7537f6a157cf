"""Data sets that Hugging Face's `datasets` wrote by save_to_disk, which that library reads and this one names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

from ...base.errors import bad_file
from .reading import reading

# beside the .arrow files of one data set, and of its splits
SAVED_FILES, SPLITS_FILE = ("state.json", "dataset_info.json"), "dataset_dict.json"
ARROW_SUFFIX = ".arrow"


def is_saved(folder: Path) -> bool:
    """Return whether save_to_disk wrote a folder: a data set, or several that are called splits."""
    return (folder / SPLITS_FILE).is_file() or all((folder / name).is_file() for name in SAVED_FILES)


def refuse_saved(folder: Path) -> NoReturn:
    """Refuse a folder of save_to_disk. Raises DataFileError, which says how its samples are passed."""
    split, found = "", "a data set that save_to_disk wrote"
    if (folder / SPLITS_FILE).is_file():
        with reading(folder / SPLITS_FILE, "the splits of a data set"):
            names = [str(name) for name in json.loads((folder / SPLITS_FILE).read_text("utf-8"))["splits"]]
        split, found = f"[{names[0]!r}]" if names else "", f"{found}, with the splits {', '.join(names)}"
    _refuse(folder, found, f"datasets.load_from_disk({str(folder)!r}){split}")


def refuse_arrow(path: Path) -> NoReturn:
    """Refuse an .arrow file. Raises DataFileError, which says how its samples are passed."""
    _refuse(path, "an Arrow file", f"datasets.Dataset.from_file({str(path)!r})")


def _refuse(path: Path, found: str, call: str) -> NoReturn:
    remedy = f"pass {call} in place of the path, or write a file that is read: {call}.to_parquet('data.parquet')"
    raise bad_file(path, "a format that is read without the package `datasets`", found, remedy)
