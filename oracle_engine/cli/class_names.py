"""Classes on a command line: by their numbers, or by the names that the data have for them."""

from __future__ import annotations

from collections.abc import Sequence

from ..base.errors import invalid
from ..data.dataset import OracleDataset

# names that an error lists
LISTED = 20


def class_numbers(given: Sequence[int | str] | None, data: OracleDataset) -> list[int] | None:
    """Return the numbers of classes of --labels, which may be names; None for None. Raises InputError for others."""
    return None if given is None else [_number(one, data.class_names) for one in given]


def _number(given: int | str, names: Sequence[str]) -> int:
    if isinstance(given, int):
        return given
    if given in names:
        return names.index(given)
    if not names:
        remedy = "pass numbers; folders of pictures and labels by name have names"
        raise invalid("--labels", "must be whole numbers: these data have no names of classes", repr(given), remedy)
    known = ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED:,} more" if len(names) > LISTED else "")
    raise invalid("--labels", f"must be numbers or names of classes: {known}", repr(given), "name one of these")
