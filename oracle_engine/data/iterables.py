"""Samples that come one by one, from an iterable or an object that is indexed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import index, length_hint
from typing import Any

import numpy as np
import torch

from ..base.arrays import Int64, Tensor
from ..base.errors import invalid
from ..base.progress import progress_bar
from .pictures import CHANNELS, PictureForm, is_picture_item, picture_array
from .samples import Choice, Samples, problem, samples_of, tensor_of

# names under which rows hold the sample, and its label, in the order in which they are looked for
SAMPLE_NAMES = ("image", "img", "pixel_values", "x", "sample", "latent", "latents", "jpg", "png", "webp", "jpeg", "npy")
LABEL_NAMES = ("label", "labels", "y", "cls", "fine_label", "class_label", "target")
# items between two moves of the progress bar
REPORTED = 256


def read_iterable(source: Any, form: PictureForm | None = None) -> Samples:
    """Return the samples of a finite iterable, copied into one tensor.

    source: an iterable, or an object with a length that is indexed from 0, as data sets of torch are. Each item is one
        sample x, (x,), (x, label) or a dict of these by a name of SAMPLE_NAMES and of LABEL_NAMES; x is a tensor or a
        NumPy array [*shape] of a storage dtype or a picture of Pillow, label an integer. Items of a DataLoader with a
        batch size, and (x, labels) of [n, *shape] and [n], are n samples; a DataLoader that shuffles is read in the
        order of its data set.
    form: how pictures are made alike.

    Raises InputError for an empty source and for the first item whose shape, dtype or label differs from item 0.
    """
    loader = _loader(source)
    items: Any = source if loader is None else loader
    if not isinstance(items, Iterable):
        items = (source[number] for number in range(len(source)))
    table = _Table(form or PictureForm(), 0 if loader is not None else length_hint(source))
    batched = loader is not None and loader.batch_sampler is not None
    with progress_bar("reading samples") as progress:
        for number, item in enumerate(items):
            table.add(item, f"source[{number}]", number, batched)
            if number % REPORTED == 0 and table.hint:
                progress(number, table.hint)
    return table.samples()


def read_items(
    source: Any, form: PictureForm, choose: Callable[[int], Int64[Tensor, "n"]]
) -> tuple[Samples, Choice] | None:
    """Return some samples of an object that is indexed, and which; of the others only item 0 is read, for the shape.

    source, form: as in :func:`read_iterable`, which raises the same errors. choose: returns which to read, ascending,
        for the number of all. Returns None for a source whose items are not samples that an index finds.
    """
    if not _is_indexed(source) or len(source) == 0:
        return None
    table = _Table(form, 1)
    table.add(source[0], "source[0]", 0, False)
    if len(table.labels) != 1:
        return None
    rows = choose(len(source))
    rest = [number for number in rows.tolist() if number > 0]
    table.hint = len(rest) + 1
    with progress_bar("reading samples") as progress:
        for done, number in enumerate(rest):
            table.add(source[number], f"source[{number}]", number, False)
            if done % REPORTED == 0:
                progress(done, len(rest))
    if len(table.labels) != len(rest) + 1:
        return None
    found, first = table.samples(), len(rest) + 1 - len(rows)
    labels = None if found.labels is None else found.labels[first:]
    return Samples(found.points[first:], labels), Choice(rows, len(source))


def _is_indexed(source: Any) -> bool:
    """Return whether an index finds the items that come in turn, as far as the kind of the source tells."""
    indexed = hasattr(source, "__len__") and hasattr(source, "__getitem__")
    return indexed and (
        isinstance(source, Sequence) or not isinstance(source, Iterable) or hasattr(source, "__getitems__")
    )


class _Table:
    """Samples as they come, in one tensor that grows."""

    def __init__(self, form: PictureForm, hint: int) -> None:
        self.form, self.hint = form, hint
        self.points: Tensor | None = None
        self.labels: list[int | None] = []

    def add(self, item: Any, where: str, number: int, batched: bool) -> None:
        """Add item `number`, which errors call `where`: a sample, or several of them where it is a batch."""
        sample, label = _parts(item, where)
        several = batched or _is_batch(sample, label)
        if is_picture_item(sample):
            sample = self._pixels(sample, where)
        elif any(self.form.given.values()):
            name = next(name for name, value in self.form.given.items() if value is not None)
            raise invalid(name, "is for pictures", f"{type(sample).__name__} in {where}", f"leave {name} out")
        value = tensor_of(sample, where)
        for one, its in _rows(value, label, where) if several else ((value, _label(label, where)),):
            self._put(one, its, where, number)

    def samples(self) -> Samples:
        """Return what was added. Raises InputError where that is nothing."""
        if self.points is None:
            raise invalid("source", "must give at least one sample", "none", "check that it is not used up already")
        labels = None if self.labels[0] is None else self.labels
        return samples_of(self.points[: len(self.labels)], labels, "source")

    def _pixels(self, picture: Any, where: str) -> np.ndarray:
        """Return a picture of Pillow as an array."""
        channels = None if self.points is None or self.points.ndim != 4 or len(self.points[0]) != 3 else 3
        try:
            return picture_array(picture, self.form, channels)
        except (OSError, ValueError, SyntaxError) as error:
            raise problem(where, "a picture that can be decoded", str(error), "replace or remove it") from error

    def _put(self, value: Tensor, label: int | None, where: str, number: int) -> None:
        """Add one sample. Raises InputError where it has a label unlike the others, or none."""
        place = len(self.labels)
        self.points = _room_for(value, self.points, place, self.hint, where)
        self.points[place] = value
        self.labels.append(label)
        if (label is None) != (self.labels[0] is None):
            found = f"{'no label' if label is None else 'a label'} in item {number}, unlike item 0"
            raise invalid("source", "must give a label with every item or with none", found, "give all of them")


def _loader(source: Any) -> Any:
    """Return a DataLoader that gives every sample once, in the order of the data set; None for other sources."""
    from torch.utils.data import DataLoader, RandomSampler

    if not isinstance(source, DataLoader) or not isinstance(source.sampler, RandomSampler):
        return source if isinstance(source, DataLoader) else None
    batches = source.batch_size
    options: dict[str, Any] = {"num_workers": source.num_workers, "worker_init_fn": source.worker_init_fn}
    return DataLoader(source.dataset, batches, collate_fn=source.collate_fn, **options)


def _parts(item: Any, where: str) -> tuple[Any, Any]:
    """Return the sample and the label, or None, of an item."""
    if isinstance(item, Mapping):
        return _of_row(item, where)
    if isinstance(item, (tuple, list)) and len(item) in (1, 2):
        return item[0], item[1] if len(item) == 2 else None
    return item, None


def _of_row(row: Mapping[Any, Any], where: str) -> tuple[Any, Any]:
    """Return the sample and the label of a dict. Raises InputError where it holds no sample, or several."""
    names = [name for name in SAMPLE_NAMES if name in row]
    if len(names) != 1:
        found = f"a dict with {', '.join(map(str, list(row)[:8])) or 'nothing'}"
        remedy = "pass ((row['image'], row['label']) for row in source)"
        raise problem(where, f"one sample, called {', '.join(SAMPLE_NAMES)}", found, remedy)
    return row[names[0]], next((row[name] for name in LABEL_NAMES if name in row), None)


def _is_batch(sample: Any, label: Any) -> bool:
    """Return whether an item is a batch: labels [n] beside samples [n, *shape], which is no picture [C, H, W]."""
    if not (isinstance(sample, (Tensor, np.ndarray)) and isinstance(label, (Tensor, np.ndarray))):
        return False
    # as many labels as channels may be one label of one picture
    picture = sample.ndim == 3 and len(sample) in CHANNELS
    return label.ndim == 1 and sample.ndim > 0 and len(label) == len(sample) and not picture


def _rows(value: Tensor, labels: Any, where: str) -> Iterator[tuple[Tensor, int | None]]:
    """Yield the samples of a batch with their labels."""
    count = len(value) if value.ndim else 0
    held = [None] * count if labels is None else torch.as_tensor(labels).reshape(-1)
    if len(held) != count:
        raise problem(where, f"{count} labels, one a sample", f"{len(held)}", "give every sample its label")
    for number in range(count):
        label = held[number]
        yield value[number], None if label is None else _label(label, where)


def _label(label: Any, where: str) -> int | None:
    """Return the label of an item. Raises InputError where it is no whole number."""
    if label is None:
        return None
    try:
        return index(label)
    except TypeError as error:
        found = f"a label of type {type(label).__name__}"
        raise problem(
            where, "x or (x, integer label), one sample an item", found, "do not batch the items, or pass a DataLoader"
        ) from error


def _room_for(value: Tensor, points: Tensor | None, place: int, hint: int, where: str) -> Tensor:
    """Return a tensor with room for the sample at `place`, the samples before it in place."""
    if points is None:
        return value.new_empty(max(hint, 64), *value.shape)
    if (value.shape, value.dtype) != (points.shape[1:], points.dtype):
        wanted = f"samples of shape {list(points.shape[1:])} and {points.dtype}, as in item 0"
        found = f"{list(value.shape)} and {value.dtype}"
        raise problem(where, wanted, found, "give every sample one shape and dtype; of pictures, pass size=64")
    if place < len(points):
        return points
    # doubling; pages that stay empty cost no memory
    grown = points.new_empty(2 * place, *value.shape)
    grown[:place] = points
    return grown
