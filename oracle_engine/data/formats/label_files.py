"""Labels in files of their own: .npy, text, CSV and JSON, one a sample or by the names of the samples."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ...base.errors import bad_file
from ..samples import NO_CLASS, ClassLabels, labels_of
from .npy import load_array
from .reading import reading

LABELS_FILE = "dataset.json"
LABEL_SUFFIXES = (".npy", ".txt", ".csv", ".json")
_EXPECTED = "labels, one a sample or one for each name"


def read_labels(path: Path, names: Sequence[str] | None, count: int) -> ClassLabels:
    """Return the labels in a file, [count], in the order of the samples.

    path: .npy with [N] integers; .txt with one label a line; .csv with a column of labels, or two of names and labels,
        and perhaps a header; .json with a list of labels, or {name: label}, or {"labels": ...} of either or of pairs,
        as the dataset.json of EDM. Labels that are no integers are names of classes, numbered in sorted order; null
        stands for no class. names: of the samples, which labels by name need, or None. count: how many samples.
    Raises DataFileError for another suffix, a damaged file, and labels that do not fit the samples.
    """
    if path.suffix == ".npy":
        return ClassLabels(labels_of(load_array(path), count, path))
    with reading(path, _EXPECTED):
        if path.suffix == ".json":
            found = _of_json(path, path.read_text("utf-8-sig"))
        elif path.suffix == ".csv":
            found = _of_csv(path)
        elif path.suffix == ".txt":
            found = [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
        else:
            remedy = "save the labels as one of these"
            raise bad_file(path, f"a name ending in {', '.join(LABEL_SUFFIXES)}", path.suffix or "no suffix", remedy)
    if isinstance(found, Mapping):
        if names is None:
            remedy = "give the labels alone, in the order of the samples"
            raise bad_file(path, "one label a sample, for samples without names", "labels by name", remedy)
        return named_labels(path, found, names)
    return _numbered(path, found, count)


def by_name(path: Path, text: str) -> Mapping[str, Any] | None:
    """Return the labels by name of a dataset.json, none where it says that there are none, or None without `labels`.

    path: the file, for errors. text: its content. Raises DataFileError for a list without names, and damaged content.
    """
    with reading(path, _EXPECTED):
        held = json.loads(text)
        if not isinstance(held, dict) or "labels" not in held:
            return None
        found = _of_json(path, text) if held["labels"] else {}
    if not isinstance(found, Mapping):
        raise bad_file(path, "labels by the names of pictures", "labels without names", "pass it as the labels")
    return {} if all(label is None for label in found.values()) else found


def named_labels(path: Path, found: Mapping[str, Any], names: Sequence[str]) -> ClassLabels:
    """Return the label of each name.

    path: the file that has them, for errors. found: labels by name. names: of the samples; one may stand in `found`
    with its folders, or by its last part alone. Raises DataFileError for the first name without a label.
    """
    known = {PurePosixPath(name.replace("\\", "/")).as_posix(): label for name, label in found.items()}
    labels = []
    for name in names:
        place = next((key for key in (name, name.partition("/")[2], PurePosixPath(name).name) if key in known), None)
        if place is None:
            raise bad_file(path, "a label for every picture", f"none for {name}", "add it, or remove the picture")
        labels.append(known[place])
    return _numbered(path, labels, len(names))


def _of_json(path: Path, text: str) -> list[Any] | dict[str, Any]:
    """Return the labels of a JSON file, in order or by name."""
    held = json.loads(text)
    if isinstance(held, dict) and "labels" in held:
        held = held["labels"]
    if isinstance(held, list) and held and all(isinstance(entry, list) and len(entry) == 2 for entry in held):
        held = {str(name): label for name, label in held}
    if not isinstance(held, (list, dict)):
        remedy = 'write [3, 1, ...], {"a.png": 3, ...} or {"labels": [["a.png", 3], ...]}'
        raise bad_file(path, "a list of labels or an object of names and labels", type(held).__name__, remedy)
    return held


def _of_csv(path: Path) -> list[Any] | dict[str, Any]:
    """Return the labels of a CSV file, in order or by name."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = [row for row in csv.reader(stream) if row]
    widths = {len(row) for row in rows}
    if not widths <= {1, 2} or len(widths) != 1:
        found = f"{' or '.join(map(str, sorted(widths))) or 'no'} columns"
        raise bad_file(path, "one column of labels, or two of names and labels", found, "keep these columns")
    # a header is a label that is no number above labels that are, or one of the usual names
    first, others = rows[0][-1], rows[1:]
    headed = first.strip().lower() in ("label", "labels", "class", "y", "target")
    headed |= not _whole(first) and bool(others) and all(_whole(row[-1]) for row in others)
    body = others if headed else rows
    return [row[0] for row in body] if widths == {1} else {row[0]: row[1] for row in body}


def _numbered(path: Path, labels: Sequence[Any], count: int) -> ClassLabels:
    """Return `count` labels: as they are where all are integers, else the numbers of their names in sorted order."""
    given = [label for label in labels if label is not None]
    if all(_whole(label) for label in given):
        whole = [NO_CLASS if label is None else int(label) for label in labels]
        return ClassLabels(labels_of(whole, count, path))
    odd = next((label for label in given if not isinstance(label, str)), None)
    if odd is not None:
        raise bad_file(path, "labels that are integers or names of classes", f"{odd!r}", "write one label a sample")
    names = tuple(sorted(set(given)))
    numbers = {name: number for number, name in enumerate(names)}
    held = [NO_CLASS if label is None else numbers[label] for label in labels]
    return ClassLabels(labels_of(held, count, path), names)


def _whole(label: Any) -> bool:
    """Return whether a label is a whole number, also one in text."""
    if isinstance(label, (bool, float)):
        return False
    try:
        int(label)
    except (TypeError, ValueError):
        return False
    return True
