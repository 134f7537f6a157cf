"""Which of the arrays of a file holds the samples, and which one the labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...base.errors import bad_file, invalid

LABEL_KEYS = ("labels", "y")
# names that others give to labels
_OTHER_LABEL_KEYS = ("label", "target", "targets", "class", "classes", "class_labels", "class_label")


def chosen_names(path: Path, names: Sequence[str], storable: Sequence[str], key: str | None) -> tuple[str, str | None]:
    """Return the names of the samples and of the labels, or None where there are none.

    path: the file. names: of its arrays. storable: those that can hold samples. key: the name of the samples, or None.
    Raises DataFileError where there is no such name, and where several can be meant.
    """
    listing = ", ".join(names) or "nothing"
    if key is not None and key not in names:
        raise bad_file(path, f"an array called {key!r}", listing, "pass key= with one of these names", parameter="key")
    # where nothing can be stored the one array is named in the error about its dtype
    able = storable or names
    chosen = [key] if key is not None else [name for name in able if name not in LABEL_KEYS or len(names) == 1]
    if len(chosen) != 1:
        remedy = "pass key= with the name of the one to use"
        raise bad_file(path, "one array of samples", listing, remedy, parameter="key")
    return chosen[0], next((name for name in LABEL_KEYS if name in names and name != chosen[0]), None)


def check_no_labels(path: Path, names: Sequence[str], name: str) -> None:
    """Refuse a file that calls its labels by a name that is not read, so that they are not dropped without a word.

    path: the file. names: of its arrays. name: that of the samples. Raises DataFileError.
    """
    other = next((other for other in names if other.lower() in _OTHER_LABEL_KEYS), None)
    if other is not None:
        remedy = f"call it {LABEL_KEYS[0]!r}, or pass key={name!r} for the samples without labels"
        raise bad_file(path, f"labels called {' or '.join(LABEL_KEYS)}", f"{other!r}", remedy, parameter="key")


def check_unkeyed(path: Path, key: str | None) -> None:
    """Raise InputError where a key is given for a file whose arrays have no names."""
    if key is not None:
        raise invalid("key", "names an array of an .npz or .safetensors file", f"{key!r} for {path}", "leave it out")
