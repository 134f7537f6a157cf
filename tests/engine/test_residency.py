"""Where samples are while they are scanned: decided by the memory there is, and without a trace in the answers."""

from __future__ import annotations

import copy
import gc
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from closed_form import clusters, normal, stored_as
from engine_cases import PREDICTIONS, assert_same_posterior
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pretended_lane import pretend_lane
from recording import begin_capture
from shard_cases import leave_in_files, write_shards
from tolerances import assert_close, assert_rows_close
from torch import Tensor

from oracle_engine import Guidance, InputError, OracleDataset, OracleEngine, load_dataset, path_sample, posterior_draw
from oracle_engine.base.outside.block_reader import AskedRows, BlockReader
from oracle_engine.base.outside.rows import OutsideRows
from oracle_engine.engine import residency
from oracle_engine.engine.residency import CARD_BLOCK_BYTES, LEAST_ROWS, Wish, beside

COUNT, DIM, BATCH, CLASSES = 300, 40, 8, 4
TIMES = torch.tensor([0.02, 0.3, 0.6, 0.9], dtype=torch.float64).repeat(BATCH // 4)
# what is known of each sample of these data beside its values, and the least memory that two blocks need
KNOWN = COUNT * 4 * 8
LEAST = KNOWN + 2 * LEAST_ROWS * (4 * DIM + 8)

CONDITIONS: dict[str, dict[str, Any]] = {
    "everyone": {},
    "classes": {"labels": torch.arange(BATCH) % CLASSES},
    "unions": {"labels": torch.tensor([[0, 3], [2, -1], [1, 2], [-1, -1]]).repeat(BATCH // 4, 1)},
    "guided": {"labels": torch.arange(BATCH) % CLASSES, "guidance": Guidance(2.0, t_min=0.2, t_max=0.8)},
    "without their samples": {"exclude": torch.arange(BATCH)},
    "from their samples": {"source": torch.arange(BATCH)},
}


def drawn(generator: torch.Generator, dtype: torch.dtype = torch.float32) -> OracleDataset:
    """Weighted samples with labels in any order, some without one."""
    labels = torch.randint(-1, CLASSES, (COUNT,), generator=generator)
    weights = 0.5 + torch.rand(COUNT, generator=generator, dtype=torch.float64)
    return OracleDataset(stored_as(clusters(COUNT, DIM, generator), dtype), labels, weights)


def queries(data: OracleDataset, generator: torch.Generator) -> Tensor:
    return path_sample("rectified_flow", data[:BATCH].double(), normal(BATCH, DIM, generator), TIMES)


@pytest.fixture(params=["where they are", "on a card"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where blocks are scanned: on a card that is pretended, or on the host."""
    if request.param == "on a card":
        pretend_lane(monkeypatch)
    return str(request.param)


@pytest.mark.parametrize("name", CONDITIONS)
def test_streamed_samples_answer_as_resident_ones_do(generator: torch.Generator, place: str, name: str) -> None:
    dtype = torch.uint8 if place == "on a card" else torch.float32
    data, asked = drawn(generator, dtype), CONDITIONS[name]
    x = queries(data, generator)
    held, streamed = OracleEngine(data), OracleEngine(data, resident="stream", memory=2 * LEAST)
    assert isinstance(streamed.data.rows.stored, OutsideRows)
    for answer in PREDICTIONS:
        assert_rows_close(getattr(streamed, answer)(x, TIMES, **asked), getattr(held, answer)(x, TIMES, **asked), "bar")
    asked = {key: value for key, value in asked.items() if key != "guidance"}
    first, second = (engine.posterior(x, TIMES, top_k=4, **asked) for engine in (streamed, held))
    assert_same_posterior(first, second, "moment")
    assert_close(streamed.log_density(x, TIMES, **asked), held.log_density(x, TIMES, **asked), "moment")


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(LEAST_ROWS, 2 * COUNT), dtype=st.sampled_from([torch.float32, torch.uint8, torch.float64]))
def test_blocks_of_any_size_give_the_answer(generator: torch.Generator, rows: int, dtype: torch.dtype) -> None:
    data = OracleDataset(stored_as(clusters(COUNT, DIM, generator), dtype))
    x = queries(data, generator)
    memory = beside(data) + 2 * rows * (DIM * dtype.itemsize + 8)
    streamed = OracleEngine(data, resident="stream", memory=memory)
    assert streamed.residency.block_bytes == rows * DIM * dtype.itemsize
    found, wanted = streamed.velocity(x, TIMES), OracleEngine(data).velocity(x, TIMES)
    assert_rows_close(found, wanted, "bar")
    if rows >= COUNT:
        # one block is all there is
        assert torch.equal(found, wanted)


def test_files_and_the_host_give_the_same_bits(
    tmp_path: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    leave_in_files(monkeypatch, 50 * 4 * DIM)
    points = clusters(COUNT, DIM, generator).float()
    filed = OracleEngine(load_dataset(write_shards(tmp_path, points)))
    held = OracleEngine(OracleDataset(points), resident="stream")
    x = queries(held.data, generator)
    assert (filed.residency.streams, filed.residency.reason) == (True, "large samples stay in their files")
    assert torch.equal(filed.velocity(x, TIMES), held.velocity(x, TIMES))
    read = OracleEngine(load_dataset(tmp_path), resident="all")
    assert not isinstance(read.data.rows.stored, OutsideRows)
    assert torch.equal(read.velocity(x, TIMES), OracleEngine(OracleDataset(points)).velocity(x, TIMES))


def test_calls_that_wait_and_slices_of_a_batch_share_a_read(
    tmp_path: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_in_files(monkeypatch, 50 * 4 * DIM)
    monkeypatch.setattr("oracle_engine.queries.classes.MAX_BATCH", 3)
    engine = OracleEngine(load_dataset(write_shards(tmp_path, clusters(COUNT, DIM, generator).float())))
    x, read, exact = queries(engine.data, generator), list[int](), BlockReader.read

    def noted(self: BlockReader, asked: AskedRows, memory: Tensor) -> Tensor:
        if not read:
            # two more calls come while the first block is read
            later.extend(pool.submit(engine.velocity, x, TIMES) for _ in range(2))
            passes = next(iter(stored.kept.values()))
            while passes._waiting is None or len(passes._waiting.seats) < 2:
                pass
        read.extend(asked.index.tolist())
        return exact(self, asked, memory)

    stored: Any = engine.data.rows.stored
    monkeypatch.setattr(BlockReader, "read", noted)
    later: list[Any] = []
    with ThreadPoolExecutor(2) as pool:
        first = engine.velocity(x, TIMES)
        answers = [one.result(timeout=60) for one in later]
    # three slices each of three calls: one read for the first call, one for both others
    assert sorted(read) == sorted(2 * list(range(COUNT)))
    assert all(torch.equal(answer, first) for answer in answers)


def test_guidance_costs_one_read(tmp_path: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_in_files(monkeypatch, 50 * 4 * DIM)
    labels = torch.arange(COUNT) % CLASSES
    filed = load_dataset(write_shards(tmp_path, clusters(COUNT, DIM, generator).float(), labels))
    asked: dict[str, Any] = {"labels": torch.arange(BATCH) % CLASSES, "guidance": 2.0}
    engine = OracleEngine(filed)
    x, read, exact = queries(filed, generator), list[int](), BlockReader.read

    def noted(self: BlockReader, asked: AskedRows, memory: Tensor) -> Tensor:
        read.extend(asked.index.tolist())
        return exact(self, asked, memory)

    monkeypatch.setattr(BlockReader, "read", noted)
    found = engine.velocity(x, TIMES, **asked)
    assert sorted(read) == list(range(COUNT))
    assert_rows_close(found, OracleEngine(filed, resident="all").velocity(x, TIMES, **asked), "bar")


def test_derivatives_draws_and_widths_are_those_of_resident_samples(generator: torch.Generator, place: str) -> None:
    data, slopes, draws = drawn(generator), list[Tensor](), list[Tensor]()
    x = queries(data, generator)
    for resident in ("all", "stream"):
        engine = OracleEngine(data, point_std=0.1, resident=resident, memory=data.rows.stored.nbytes + LEAST)
        leaf = x.clone().requires_grad_()
        slopes += torch.autograd.grad(engine.velocity(leaf, TIMES, labels=1).square().sum(), leaf)
        draws.append(posterior_draw(engine, x, TIMES, generator=torch.Generator().manual_seed(1)))
    assert_rows_close(slopes[1], slopes[0], "derivative")
    assert torch.equal(draws[0], draws[1])


def test_copies_and_moves_answer_over_streamed_samples(generator: torch.Generator) -> None:
    data = drawn(generator)
    x = queries(data, generator)
    engine = OracleEngine(data, resident="stream", memory=2 * LEAST)
    wanted = engine.velocity(x, TIMES)
    for other in (copy.deepcopy(engine), pickle.loads(pickle.dumps(engine)), engine.to("cpu")):
        assert str(other.residency) == str(engine.residency)
        assert torch.equal(other.velocity(x, TIMES), wanted)
    assert engine.data.fingerprint == data.fingerprint
    assert engine.data.value_range == data.value_range


def test_samples_on_the_host_that_change_are_refused(generator: torch.Generator) -> None:
    points = clusters(COUNT, DIM, generator).float()
    engine = OracleEngine(OracleDataset(points), resident="stream")
    points[7] = 0.0
    with pytest.raises(InputError, match="must stay as they were"):
        engine.velocity(points[:2], 0.5)


def test_memory_decides_and_says_why(
    tmp_path: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_in_files(monkeypatch)
    points = clusters(COUNT, DIM, generator).float()
    data = load_dataset(write_shards(tmp_path, points))
    assert str(OracleEngine(OracleDataset(points)).residency) == (
        "all, the samples lie in the memory of the device already"
    )
    large, small = (OracleEngine(data, memory=size) for size in ("1 MiB", 40_000))
    assert str(large.residency) == "all, the samples need 49.2 KiB, 1.0 MiB are allowed"
    assert small.residency.streams
    # two blocks of whole rows beside the norms
    rows = (40_000 - 8 * COUNT) // (2 * (4 * DIM + 8))
    assert small.residency.block_bytes == rows * 4 * DIM
    assert "need 49.2 KiB, 39.1 KiB are allowed" in str(small.residency)
    assert "resident  stream, the samples need 49.2 KiB, 39.1 KiB are allowed; in blocks of" in str(small.plan(8))


@pytest.mark.parametrize(("free", "streams"), [(10 << 30, False), (40_000, True)])
def test_a_card_streams_what_it_has_no_room_for(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, free: int, streams: bool
) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free, 80 << 30))
    data = OracleDataset(clusters(COUNT, DIM, generator).float())
    found = Wish().decided(data, torch.device("cuda"))
    assert found.streams == streams
    assert "free on cuda" in found.reason
    asked = Wish.of("stream", "4 GiB").decided(data, torch.device("cuda"))
    assert (asked.streams, asked.block_bytes) == (True, CARD_BLOCK_BYTES)


def test_memory_that_is_too_small_is_refused_with_what_would_do(generator: torch.Generator) -> None:
    data = drawn(generator)
    with pytest.raises(InputError, match=rf"`memory` must have room for 2 blocks .* {LEAST:,} bytes; received 10,000"):
        OracleEngine(data, resident="stream", memory=10_000)
    OracleEngine(data, resident="stream", memory=LEAST).velocity(data[:2], 0.5)
    with pytest.raises(InputError, match="`memory` must have room for 2 blocks"):
        OracleEngine(data, resident="stream", memory=LEAST - 1)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"resident": "some"}, "`resident` must be auto, all or stream; received 'some'"),
        ({"resident": "all", "memory": "1kB"}, "`memory` must hold all samples"),
        ({"memory": "lots"}, "`memory` must be a number of bytes above 0, or a text such as '8GiB'; received 'lots'"),
        ({"memory": 0}, "`memory` must be a number of bytes above 0"),
        ({"memory": "8 furlongs"}, "`memory` must be a number of bytes above 0"),
        ({"resident": "stream", "device": "meta"}, "`resident` can be stream on the CPU and CUDA only"),
    ],
)
def test_other_wishes_are_refused_in_words(generator: torch.Generator, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        OracleEngine(drawn(generator), **asked)


def test_all_of_files_that_memory_cannot_hold_is_refused(
    tmp_path: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_in_files(monkeypatch)
    data = load_dataset(write_shards(tmp_path, clusters(COUNT, DIM, generator).float()))
    monkeypatch.setattr(residency, "memory_bytes", lambda: 1000)
    with pytest.raises(InputError, match=r"`resident` can be all where .*; received 46.9 KiB of samples. Remedy: pass"):
        OracleEngine(data, resident="all")


def test_a_graph_cannot_record_a_pass(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = OracleEngine(drawn(generator), backend="triton", resident="stream")
    begin_capture(monkeypatch)
    with pytest.raises(InputError, match=r"`resident` must not need values .* samples that are streamed"):
        engine.velocity(engine.data[:2], 0.5)


def test_a_plan_prints_the_seconds_of_a_pass_from_measured_rates(
    tmp_path: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_in_files(monkeypatch)
    points = clusters(COUNT, DIM, generator).float()
    plan = OracleEngine(load_dataset(write_shards(tmp_path, points))).plan(8)
    assert plan.streams is not None
    assert plan.streams.size == plan.read == points.nbytes
    rates = [plan.streams.read or 0.0, plan.streams.scan]
    assert plan.streams.seconds >= points.nbytes / min(rates)
    assert plan.seconds >= plan.streams.seconds
    assert "pass      " in str(plan)
    assert OracleEngine(OracleDataset(points)).plan(8).streams is None


def test_nothing_of_a_pass_is_left_behind(generator: torch.Generator) -> None:
    engine = OracleEngine(drawn(generator), resident="stream")
    engine.velocity(engine.data[:2], 0.5)
    gc.collect()
    passes = next(iter(engine.data.rows.stored.kept.values()))  # type: ignore[attr-defined]
    assert passes._running is passes._waiting is None
