"""Data sets as Python has them: pictures, pairs, dicts, one-tuples and batches are the array that they hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from picture_files import pixels
from torch.utils.data import DataLoader, Dataset, TensorDataset

import oracle_engine as oe
from oracle_engine.base.errors import InputError
from oracle_engine.data.load import choose_rows

Image = pytest.importorskip("PIL.Image")

PIXELS = pixels()
LABELS = np.arange(len(PIXELS)) % 5
POINTS = torch.from_numpy(PIXELS.astype(np.float32))


def image(number: int) -> Any:
    return Image.fromarray(PIXELS[number].transpose(1, 2, 0))


class Mapped(Dataset[Any]):
    """A data set as torchvision has them: a length and an index."""

    def __init__(self, item: Callable[[int], Any]) -> None:
        self.item = item

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, number: int) -> Any:
        return self.item(number)


class Rows(Mapped):
    """A data set as Hugging Face has them: rows by number or by a slice of columns, and an iterator."""

    def __iter__(self) -> Any:
        return (self[number] for number in range(len(self)))


PICTURES: dict[str, Callable[[], Any]] = {
    "torchvision": lambda: Mapped(lambda number: (image(number), int(LABELS[number]))),
    "hugging face": lambda: Rows(lambda number: {"image": image(number), "label": int(LABELS[number])}),
    "cifar of hugging face": lambda: Rows(lambda number: {"img": image(number), "label": np.int64(LABELS[number])}),
    "webdataset": lambda: ({"__key__": "a", "png": image(n), "cls": int(LABELS[n])} for n in range(len(PIXELS))),
    "generator": lambda: ((image(number), LABELS[number]) for number in range(len(PIXELS))),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_are_the_array_that_they_show(kind: str) -> None:
    data = oe.load_dataset(PICTURES[kind]())
    assert data.fingerprint == oe.load_dataset(PIXELS, labels=LABELS).fingerprint
    assert oe.load_dataset(PICTURES[kind](), size=4, gray=True).sample_shape == (1, 4, 4)


def test_gray_pictures_between_colours_get_three_channels() -> None:
    data = oe.load_dataset([image(0), image(1).convert("L")])
    assert data.sample_shape == (3, 8, 8)
    with pytest.raises(InputError, match=r"`source\[1\]` must hold samples of shape \[1, 8, 8\]"):
        oe.load_dataset([image(1).convert("L"), image(0)])


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("labelled", [False, True])
def test_loaders_give_every_sample_once_in_the_order_of_their_data(shuffle: bool, labelled: bool) -> None:
    held = TensorDataset(POINTS, torch.from_numpy(LABELS)) if labelled else TensorDataset(POINTS)
    loader = DataLoader(held, batch_size=5, shuffle=shuffle, drop_last=shuffle)
    wanted = oe.load_dataset(POINTS, labels=LABELS if labelled else None)
    assert oe.load_dataset(loader).fingerprint == wanted.fingerprint
    # one-tuples and pairs, one by one
    assert oe.load_dataset(held).fingerprint == wanted.fingerprint
    assert oe.load_dataset(DataLoader(held, batch_size=None)).fingerprint == wanted.fingerprint


def test_batches_of_a_generator_are_known_by_their_labels() -> None:
    batches = ((POINTS[start : start + 5], torch.from_numpy(LABELS[start : start + 5])) for start in (0, 5, 10))
    assert oe.load_dataset(batches).fingerprint == oe.load_dataset(POINTS, labels=LABELS).fingerprint


def test_batches_of_dicts() -> None:
    rows = Mapped(lambda number: {"image": POINTS[number], "label": int(LABELS[number])})
    data = oe.load_dataset(DataLoader(rows, batch_size=4))
    assert data.fingerprint == oe.load_dataset(POINTS, labels=LABELS).fingerprint


def test_a_loader_of_another_order_is_read_in_that() -> None:
    order = list(reversed(range(len(POINTS))))
    loader = DataLoader(TensorDataset(POINTS), batch_size=5, sampler=order)
    assert torch.equal(oe.load_dataset(loader)[0], POINTS[-1])


@pytest.mark.parametrize("sample", [lambda: image(0), lambda: POINTS[0]])
def test_a_label_of_three_numbers_makes_no_batch_of_three_channels(sample: Callable[[], Any]) -> None:
    with pytest.raises(InputError, match=r"`source\[0\]` must hold x or \(x, integer label\)"):
        oe.load_dataset([(sample(), torch.tensor([0, 1, 0]))])


@pytest.mark.parametrize("colour", [0, 5])
def test_of_a_count_no_other_item_is_read_but_the_first(colour: int) -> None:
    asked: list[int] = []

    def item(number: int) -> Any:
        asked.append(number)
        return image(number) if number == colour else image(number).convert("L"), int(LABELS[number])

    rows = choose_rows(len(PIXELS), 4, 1).tolist()
    assert not {0, 5} & set(rows)
    data = oe.load_dataset(Mapped(item), count=4, seed=1)
    assert asked == [0, *rows]
    # item 0 tells the channels of all
    assert data.sample_shape == (3 if colour == 0 else 1, 8, 8)


@pytest.mark.parametrize("count", [1, 4, 12])
def test_a_count_of_items_is_that_of_the_array(count: int) -> None:
    wanted = oe.load_dataset(PIXELS, labels=LABELS, weights=1.0 + LABELS, count=count, seed=2)
    for source in PICTURES.values():
        data = oe.load_dataset(source(), weights=1.0 + LABELS, count=count, seed=2)
        assert data.fingerprint == wanted.fingerprint
    pairs = Mapped(lambda number: (POINTS[number], -1))
    given = oe.load_dataset(pairs, labels=LABELS, count=count)
    assert given.fingerprint == oe.load_dataset(POINTS, labels=LABELS, count=count).fingerprint
    with pytest.raises(InputError, match=r"`count` must lie in 1\.\.12"):
        oe.load_dataset(pairs, count=13)


def test_a_count_of_batches_is_one_of_samples() -> None:
    batches = [(POINTS[start : start + 5], torch.from_numpy(LABELS[start : start + 5])) for start in (0, 5, 10)]
    wanted = oe.load_dataset(POINTS, labels=LABELS, count=7)
    assert oe.load_dataset(batches, count=7).fingerprint == wanted.fingerprint
