"""A sharded engine answers as one process does, with the same bits however many ranks there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from closed_form import normal
from rank_cases import on_ranks
from shard_cases import leave_in_files, write_shards
from shard_questions import BATCH, CLASSES, DIM, Answers, answers, make_data, make_queries, questions
from tolerances import assert_close, assert_rows_close
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

import oracle_engine as oe
from oracle_engine import InputError, OracleDataset, OracleEngine
from oracle_engine.base.outside.rows import OutsideRows
from oracle_engine.data.sharded import rows_here

# number of ranks: one, those that hold equally many shards, and one that does not divide 16
WORLDS = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def data() -> OracleDataset:
    return make_data()


@pytest.fixture(scope="module")
def found(data: OracleDataset, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Answers]]:
    """The answers of every rank, for each number of ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    return {count: on_ranks(folder, count, lambda rank: answers(oe.sharded(data), data)) for count in WORLDS}


@pytest.mark.parametrize("labelled", [False, True])
def test_shards_of_files_stay_in_them(
    data: OracleDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labelled: bool
) -> None:
    leave_in_files(monkeypatch, 20 * 8 * DIM)
    files = write_shards(tmp_path / "files", data[:], data.labels if labelled else None)
    oe.pack(files)
    x, t = make_queries(data)
    asked = {"labels": torch.arange(BATCH) % CLASSES} if labelled else {}

    def work(rank: int) -> tuple[Tensor, bool]:
        engine = oe.sharded(files)
        held = rows_here(engine.data)
        answer = engine.velocity(x, t, **asked)
        return answer, all(isinstance(rows.stored, OutsideRows) for rows in held)

    first, others = (on_ranks(tmp_path, count, work) for count in (1, 3))
    assert all(stayed for _, stayed in first + others)
    assert all(torch.equal(answer, first[0][0]) for answer, _ in others)
    assert_rows_close(first[0][0], OracleEngine(oe.load_dataset(files)).velocity(x, t, **asked), "bar")


def test_answers_are_those_of_one_process(data: OracleDataset, found: dict[int, list[Answers]]) -> None:
    true, alone = answers(OracleEngine(data, backend="reference"), data), found[1][0]
    for (name, part), value in true.items():
        if part == "velocity" or (name != "log_density" and part == "value"):
            assert_rows_close(alone[name, part], value, "bar")
        elif part == "gradient":
            # the gradient of a square is twice the answer times its derivative
            scale = value.norm(dim=1) + 2.0 * true[name, "value"].reshape(BATCH, -1).norm(dim=1)
            assert_rows_close(alone[name, part], value, "derivative", scale)
        elif part in ("top_indices", "survivors"):
            assert torch.equal(alone[name, part], value)
        else:
            assert_close(alone[name, part], value, "moment")


@pytest.mark.parametrize("count", WORLDS[1:])
def test_every_rank_has_the_bits_of_one(found: dict[int, list[Answers]], count: int) -> None:
    for answered in found[count]:
        assert [name for name, value in found[1][0].items() if not torch.equal(value, answered[name])] == []


@pytest.mark.parametrize("count", [7, 16])
def test_up_to_16_ranks_have_the_bits_of_one(
    data: OracleDataset, found: dict[int, list[Answers]], tmp_path: Path, count: int
) -> None:
    (x, t), asked = make_queries(data), questions(data)
    names = ("everything", "guided")

    def work(rank: int) -> list[Tensor]:
        engine = oe.sharded(data)
        return [engine.velocity(x, t, **asked[name]) for name in names]

    wanted = [found[1][0][name, "velocity"] for name in names]
    for answered in on_ranks(tmp_path, count, work):
        assert all(map(torch.equal, answered, wanted))


def test_one_scan_a_rank_answers_within_the_bar(data: OracleDataset, tmp_path: Path) -> None:
    x, t = make_queries(data)
    true = OracleEngine(data, backend="reference").velocity(x, t)
    for answered in on_ranks(tmp_path, 3, lambda rank: oe.sharded(data, deterministic=False).velocity(x, t)):
        assert_rows_close(answered, true, "bar")


def edge_cases() -> dict[str, tuple[OracleDataset, dict[str, Any]]]:
    """Return data and conditions that leave shards, or all but one of them, without anything to say."""
    points = normal(40, 3, torch.Generator().manual_seed(7))
    first = torch.zeros(40, dtype=torch.float64)
    first[:2] = 1.0
    return {
        "fewer samples than shards": (OracleDataset(points[:3]), {}),
        "one sample": (OracleDataset(points[:1]), {}),
        "all mass in one shard": (OracleDataset(points, weights=first), {}),
        "the last sample of a shard left out": (OracleDataset(points[:16]), {"exclude": 5}),
        "a class that most shards lack": (OracleDataset(points, torch.arange(40) // 39), {"labels": 1}),
        "guidance to it": (OracleDataset(points, torch.arange(40) // 39), {"labels": 1, "guidance": 3.0}),
    }


@pytest.mark.parametrize("name", edge_cases())
def test_shards_that_have_nothing_to_say_change_nothing(name: str, tmp_path: Path) -> None:
    data, asked = edge_cases()[name]
    x = torch.zeros(2, 3)
    true = OracleEngine(data, backend="reference").velocity(x, 0.6, **asked)
    for answered in on_ranks(tmp_path, 2, lambda rank: oe.sharded(data).velocity(x, 0.6, **asked)):
        assert_rows_close(answered, true, "bar")


def test_no_query_has_no_answer(data: OracleDataset, tmp_path: Path) -> None:
    for answered in on_ranks(tmp_path, 2, lambda rank: oe.sharded(data).velocity(torch.zeros(0, DIM), 0.6)):
        assert answered.shape == (0, DIM)


def refusals() -> dict[str, tuple[str, Any]]:
    """Return the parameter that an error names, and what one of two ranks does that the other does not."""
    x = torch.zeros(3, DIM)
    return {
        "another batch": ("x", lambda engine, rank: engine.velocity(x[: 3 - rank], 0.5)),
        "other values": ("x", lambda engine, rank: engine.velocity(x + rank, 0.5)),
        "another time": ("t", lambda engine, rank: engine.velocity(x, 0.5 + 0.1 * rank)),
        "another class": ("labels", lambda engine, rank: engine.velocity(x, 0.5, labels=rank)),
        "no class": ("labels", lambda engine, rank: engine.velocity(x, 0.5, labels=1 if rank else None)),
        "another sample left out": ("exclude", lambda engine, rank: engine.velocity(x, 0.5, exclude=rank)),
        "another scale": ("guidance", lambda engine, rank: engine.velocity(x, 0.5, labels=0, guidance=2.0 + rank)),
        "another count": ("top_k", lambda engine, rank: engine.posterior(x, 0.5, top_k=1 + rank)),
        "another method": ("call", lambda engine, rank: engine.data[:2] if rank else engine.velocity(x, 0.5)),
    }


def test_ranks_that_ask_for_different_things_are_told_which_one_does(data: OracleDataset, tmp_path: Path) -> None:
    def work(rank: int) -> list[str]:
        engine, said = oe.sharded(data), []
        for _, ask in refusals().values():
            with pytest.raises(InputError) as caught:
                ask(engine, rank)
            said.append(str(caught.value))
        # and can go on
        return [*said, str(engine.velocity(torch.zeros(1, DIM), 0.5).shape)]

    for said in on_ranks(tmp_path, 2, work):
        for (parameter, _), words in zip(refusals().values(), said, strict=False):
            assert f"`{parameter}` must be the same on all ranks" in words
            assert "on rank 1" in words
        assert said[-1] == f"torch.Size([1, {DIM}])"


def test_what_one_rank_refuses_all_refuse(data: OracleDataset, tmp_path: Path) -> None:
    def work(rank: int) -> str:
        engine = oe.sharded(data)
        x = torch.full((1, DIM), torch.nan) if rank == 1 else torch.zeros(1, DIM)
        with pytest.raises(InputError) as caught:
            engine.velocity(x, 0.5)
        return str(caught.value)

    first, second = on_ranks(tmp_path, 2, work)
    assert "on rank 1: `x` must be finite" in first
    assert second.startswith("`x` must be finite")


def test_ranks_with_different_data_are_told_so(tmp_path: Path) -> None:
    points = normal(20, 3, torch.Generator().manual_seed(1))

    def work(rank: int) -> str:
        with pytest.raises(InputError) as caught:
            oe.sharded(OracleDataset(points + rank))
        return str(caught.value)

    for words in on_ranks(tmp_path, 2, work):
        assert words.startswith("`data` must be the same on all ranks")


def test_ranks_with_different_options_are_told_so(data: OracleDataset, tmp_path: Path) -> None:
    def work(rank: int) -> str:
        with pytest.raises(InputError) as caught:
            oe.sharded(data, queries="own" if rank else "same", deterministic=rank == 0)
        return str(caught.value)

    for words in on_ranks(tmp_path, 2, work):
        assert words.startswith("`options` must be the same on all ranks")


def test_replicas_of_shards_answer_apart(data: OracleDataset, tmp_path: Path) -> None:
    def work(rank: int) -> Tensor:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replica", "shard"))
        if rank < 2:
            # the first replica has made another engine before
            oe.sharded(data, mesh=mesh["shard"])
        with pytest.raises(InputError, match="must be a DeviceMesh of one dimension"):
            oe.sharded(data, mesh=mesh)
        return oe.sharded(data, mesh=mesh["shard"]).velocity(torch.full((1, DIM), rank // 2 + 0.5), 0.5)

    alone = OracleEngine(data, backend="reference")
    for rank, answered in enumerate(on_ranks(tmp_path, 4, work)):
        assert_rows_close(answered, alone.velocity(torch.full((1, DIM), rank // 2 + 0.5), 0.5), "bar")


def test_a_process_group_is_needed(data: OracleDataset) -> None:
    with pytest.raises(InputError, match="needs an initialised process group"):
        oe.sharded(data)


def test_a_rank_without_a_sample_computes_as_the_others_do(tmp_path: Path) -> None:
    data, x = OracleDataset(normal(1, 3, torch.Generator().manual_seed(7))), torch.ones(2, 3)
    (alone,) = on_ranks(tmp_path, 1, lambda rank: oe.sharded(data).velocity(x, 0.3))
    for answered in on_ranks(tmp_path, 2, lambda rank: oe.sharded(data).velocity(x, 0.3)):
        assert torch.equal(answered, alone)
