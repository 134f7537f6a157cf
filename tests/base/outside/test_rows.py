"""Rows that stay in files read as the tensor that they are, in any order, and refuse what would need all at once."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from shard_cases import bytes_read, leave_in_files, write_shards
from torch import Tensor

from oracle_engine import DataFileError, InputError, load_dataset
from oracle_engine.base.outside import rows as outside_rows
from oracle_engine.base.outside.blocks import blocks
from oracle_engine.base.outside.rows import OutsideRows
from oracle_engine.data.formats import read_path

COUNT, SHAPE = 61, (3, 4)


@pytest.fixture
def points(generator: torch.Generator) -> Tensor:
    return torch.randn(COUNT, *SHAPE, generator=generator)


@pytest.fixture(params=["as written", "in another order"])
def pair(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    points: Tensor,
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[OutsideRows, Tensor]:
    """Rows in files, and the same as an ordinary tensor."""
    leave_in_files(monkeypatch)
    rows = read_path(write_shards(tmp_path, points)).points
    assert isinstance(rows, OutsideRows)
    if request.param == "as written":
        return rows, points
    order = torch.randperm(COUNT, generator=generator)
    return rows.ordered(order), points[order]


@pytest.mark.parametrize(
    "read",
    [
        lambda rows: rows[3:50],
        lambda rows: rows[12:19],
        lambda rows: rows[::7],
        lambda rows: rows[5:5],
        lambda rows: rows[:],
        lambda rows: rows[-1],
        lambda rows: rows[torch.tensor([[3, 60], [-1, 0]])],
        lambda rows: rows[torch.arange(COUNT) % 3 == 0],
        lambda rows: rows[torch.tensor([3, 4]), torch.tensor([1, 2])],
        lambda rows: rows[:, 1],
        lambda rows: rows[:, 1:],
        lambda rows: rows[2:9, :2],
        lambda rows: rows.index_select(0, torch.tensor([7, 7, 1])),
        lambda rows: rows.reshape(COUNT, -1)[4],
        lambda rows: rows.clone(),
        lambda rows: rows.double(),
        lambda rows: torch.empty(COUNT, *SHAPE).copy_(rows),
        lambda rows: torch.stack([rows.min(), rows.max()]),
        lambda rows: copy.deepcopy(rows).clone(),
        lambda rows: pickle.loads(pickle.dumps(rows)).clone(),
    ],
)
def test_rows_read_as_an_ordinary_tensor(pair: tuple[OutsideRows, Tensor], read: Callable[[Tensor], Tensor]) -> None:
    rows, points = pair
    found = read(rows)
    assert not isinstance(found, OutsideRows)
    assert torch.equal(found, read(points))


@pytest.mark.parametrize(
    "use",
    [
        lambda rows: rows + 1,
        lambda rows: rows.mul_(2),
        lambda rows: rows.zero_(),
        lambda rows: rows.copy_(torch.zeros(COUNT, *SHAPE)),
        lambda rows: rows.data_ptr(),
        lambda rows: torch.cat([rows, rows]),
        lambda rows: rows.sum(),
        lambda rows: rows.reshape(-1),
    ],
)
def test_what_needs_all_numbers_at_once_is_refused(
    pair: tuple[OutsideRows, Tensor], use: Callable[[Tensor], Any]
) -> None:
    with pytest.raises(InputError, match=r"`data` must .*Remedy: "):
        use(pair[0])


def test_rows_beyond_the_last_are_refused(pair: tuple[OutsideRows, Tensor]) -> None:
    with pytest.raises(IndexError, match="out of range for 61 rows"):
        pair[0][torch.tensor([61])]


@pytest.mark.parametrize("spans", [None, [[0, COUNT]], [[3, 9], [20, 20], [40, 61]], [[7, 8]], []])
def test_blocks_hold_every_row_that_is_asked_for_once(
    pair: tuple[OutsideRows, Tensor], spans: list[list[int]] | None
) -> None:
    rows, points = pair
    asked = [[0, COUNT]] if spans is None else spans
    found = torch.full_like(points, torch.nan)
    met = torch.zeros(COUNT, dtype=torch.int64)
    for block in blocks(rows, None if spans is None else torch.tensor(spans, dtype=torch.int64).reshape(-1, 2)):
        assert bool((block.index.diff() > 0).all())
        met[block.index] += 1
        found[block.index] = block.values
    wanted = torch.zeros(COUNT, dtype=torch.bool)
    for start, stop in asked:
        wanted[start:stop] = True
    assert torch.equal(met, wanted.long())
    assert torch.equal(found[wanted], points[wanted])


def test_a_pass_reads_each_byte_once(
    tmp_path: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_in_files(monkeypatch, 1 << 20)
    points = torch.randn(5000, 300, generator=generator)
    labels = torch.randint(9, (5000,), generator=generator)
    data = load_dataset(write_shards(tmp_path, points, labels, 8))
    assert isinstance(data.rows.stored, OutsideRows)
    before = bytes_read()
    assert sum(len(block.index) for block in blocks(data.rows.stored)) == 5000
    assert points.nbytes <= bytes_read() - before <= 1.01 * points.nbytes


@pytest.mark.parametrize("change", ["written", "replaced", "shortened", "removed"])
def test_a_file_that_changed_is_refused_by_name(
    tmp_path: Path, points: Tensor, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    leave_in_files(monkeypatch)
    rows = read_path(write_shards(tmp_path, points)).points
    assert isinstance(rows, OutsideRows)
    path = tmp_path / "shard1.safetensors"
    content = path.read_bytes()
    if change == "written":
        path.write_bytes(content[:-1] + b"\0")
    elif change == "shortened":
        path.write_bytes(content[:-1])
    else:
        path.rename(tmp_path / "elsewhere")
    if change == "replaced":
        path.write_bytes(content)
    with pytest.raises(DataFileError, match=r"shard1.safetensors: expected .*Remedy: "):
        list(blocks(rows))


@pytest.mark.parametrize("pieces", [64, 1], ids=["as parts of their own", "in an order"])
@pytest.mark.parametrize("runs", [[(0, 5)], [(3, 9), (12, 40)], [(7, 8), (20, 21), (60, 61)]])
def test_rows_within_ranges_stay_where_they_are(
    pair: tuple[OutsideRows, Tensor], runs: list[tuple[int, int]], pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside_rows, "MOST_PIECES", pieces)
    rows, points = pair
    some, true = rows.within(runs), torch.cat([points[start:stop] for start, stop in runs])
    assert isinstance(some, OutsideRows)
    assert some.shape == true.shape
    assert torch.equal(some[:], true)
    assert torch.equal(some[1:], true[1:])
    assert torch.equal(some[torch.tensor([0, -1])], true[[0, -1]])
    whole = some.within([(0, len(some))])
    found = torch.full_like(true, torch.nan)
    for block in blocks(whole):
        found[block.index] = block.values
    assert torch.equal(found, true)
