from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from oracle_engine.kernels.common.work import Work

pytest.importorskip("triton")

import triton

from oracle_engine.base.errors import DataFileError, InputError
from oracle_engine.kernels import Query, Span, Wanted, prepare_rows
from oracle_engine.kernels.gpu.core import configs, devices, tables
from oracle_engine.kernels.gpu.core.configs import LaunchConfig
from oracle_engine.kernels.gpu.core.devices import Device
from oracle_engine.kernels.gpu.core.tiles import ANY, DigitConfig, ScoreConfig, TileChoice, WeighConfig
from oracle_engine.kernels.gpu.jit.interpreter import INTERPRET
from oracle_engine.kernels.gpu.scans.launch_checks import check_shared_memory
from oracle_engine.kernels.gpu.scans.scan import triton_state
from oracle_engine.kernels.gpu.tools import jobs, limits, listed_jobs, sources, tile_trials, tune
from oracle_engine.kernels.gpu.tools.compilation import Compilation, compile_options
from oracle_engine.kernels.gpu.tools.machine_code import Instruction, now_and_then, product_loop, unguarded
from oracle_engine.kernels.gpu.tools.machines import MACHINES

H100 = Device("an H100", "sm_90", 132, 227 << 10)


def test_what_no_kernel_may_have_is_seen() -> None:
    job = next(job for job in listed_jobs.jobs(["sm_90"]) if job.kernel == "score" and job.stored == torch.float16)
    good = Compilation(job, 200, 0, 98304, {"HGMMA": 16}, 48)
    assert good.complaints == []
    assert Compilation(job, 200, 0, 98304, {"HGMMA": 16}, 48, races=2).complaints == ["2 float atomics"]
    assert Compilation(job, 200, 0, 98304, {"HMMA": 16}, 48).complaints == ["no wgmma"]
    assert "no matrix instructions" in Compilation(job, 200, 0, 98304, {}, 48).complaints
    assert Compilation(job, 200, 0, 98304, {"HGMMA": 16}, 0).complaints == ["no asynchronous copies"]
    assert len(Compilation(job, 200, 0, 1 << 20, {"HGMMA": 16}, 48).complaints) == 2
    assert limits.missed(job, {"spills": 12}) == ["spills 12, at most 0: registers in memory take its time"]


def code_of(*texts: str) -> list[Instruction]:
    """Return instructions at places 0, 1, 2 and so on."""
    return [Instruction(place, text) for place, text in enumerate(texts)]


WAIT = "WARPGROUP.DEPBAR.LE gsb0, "


def test_a_write_that_other_warps_may_still_read_is_seen() -> None:
    copy, barrier, product = "@UP0 UTMALDG.2D [UR8], [UR14]", "BAR.SYNC.DEFER_BLOCKING 0x0", "HGMMA.64x64x16.F32 R8"
    # with another product in flight a copy may overwrite what the last one reads, a barrier before it ends that
    assert unguarded(code_of(f"{WAIT}0x1", copy, "EXIT")) == 1
    assert unguarded(code_of(f"{WAIT}0x1", barrier, copy, "EXIT")) == 0
    assert unguarded(code_of(f"{WAIT}0x0", copy, "EXIT")) == 0
    assert unguarded(code_of(f"{WAIT}0x0", "STS.64 [R1], R2", "EXIT")) == 1
    # over the back edge of a loop, and past a branch
    assert unguarded(code_of(copy, product, f"{WAIT}0x1", "@P0 BRA 0x0", "EXIT")) == 1
    assert unguarded(code_of(f"{WAIT}0x1", "@P0 BRA 0x3", barrier, copy, "EXIT")) == 1


def test_the_loop_of_products_is_told_from_what_it_does_now_and_then() -> None:
    emptied = ["FADD R1, R1, R2"] * 8
    loop = ["HGMMA.64x64x16.F32 R8", f"{WAIT}0x1", "@P0 BRA 0xb", *emptied, "@P1 BRA 0x0"]
    code = code_of(*loop, "STG [R1], R2", "@P0 BRA 0xc", "EXIT")
    assert [instruction.place for instruction in product_loop(code)] == list(range(12))
    assert now_and_then(product_loop(code)) == set(range(3, 11))
    assert product_loop(code_of("STG [R1], R2", "EXIT")) == []


def test_programs_of_a_multiprocessor_are_bound_by_what_they_take() -> None:
    machine = MACHINES["sm_90"]
    assert machine.resident(32, 0, 4) == 16
    assert machine.resident(200, 0, 4) == 2
    assert machine.resident(200, 0, 8) == 1
    assert machine.resident(32, 100 << 10, 4) == 2
    assert machine.resident(32, 1, 1) == 32


@pytest.mark.skipif(INTERPRET, reason="the interpreter is on: nothing is compiled")
def test_the_atomics_that_there_are_count_whole_numbers() -> None:
    import triton

    job = next(job for job in listed_jobs.jobs(["sm_80"]) if job.kernel == "weights")
    options = {"num_warps": 4, "enable_fp_fusion": True}
    compiled = triton.compile(sources.source_of(job), target=jobs.TARGETS["sm_80"][0], options=options)
    assert "atomic_rmw add" in compiled.asm["ttir"]


def test_what_rounding_leaves_over_is_found_without_joined_operations() -> None:
    job = next(job for job in listed_jobs.jobs(["sm_90"]) if job.kernel == "compensated slots")
    source, target = sources.source_of(job), jobs.TARGETS["sm_90"][0]
    plain = triton.compile(source, target=target, options=compile_options(job))
    joined = triton.compile(source, target=target, options={**compile_options(job), "enable_fp_fusion": True})
    assert "fma.rn.f64" in joined.asm["ptx"]
    assert "fma.rn.f64" not in plain.asm["ptx"]


@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "gfx942", "gfx1100"])
@pytest.mark.parametrize("stored", list(tables.ROW_KINDS), ids=str)
@pytest.mark.parametrize("batch", [1, 16, 17, 64, 1024])
def test_every_device_dtype_and_batch_has_a_configuration(architecture: str, stored: torch.dtype, batch: int) -> None:
    limits = {"sm_80": 163, "sm_90": 227, "sm_100": 227, "sm_86": 99, "sm_120": 99}
    device = Device("none such", architecture, 100, limits.get(architecture, 64) << 10)
    for dim in (2, 64, 784, 196_608):
        chosen = configs.choose(device, stored, batch, dim)
        check_shared_memory(chosen, stored)
        assert chosen.fused is None or chosen.fused.block_d >= dim
        assert chosen.score_slices(1300, batch, dim) >= 1
        assert chosen.weigh_shares(1300, batch, dim) >= 1
    assert configs.choose(device, stored, batch, 4096).score_slices(1 << 24, 1024, 4096) == 1


def test_small_grids_are_cut_until_they_fill_the_gpu() -> None:
    chosen = configs.choose(H100, torch.float16, 16, 8192)
    tiles = -(-1300 // chosen.score.block_n)
    slices = chosen.score_slices(1300, 16, 8192)
    assert slices > 1
    assert tiles * slices >= H100.multiprocessors or slices == 8192 // (8 * chosen.score.block_d)


def test_8_bit_rows_meet_digits_where_that_unit_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "triton_version", lambda: (3, 9))

    def operand(architecture: str, stored: torch.dtype) -> str:
        return configs.choose(Device("none such", architecture, 100, 99 << 10), stored, 64, 4096).operand

    for architecture in ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942"):
        for stored in (torch.uint8, torch.int8):
            assert operand(architecture, stored) == "digits"
            with configs.scored_with("parts"):
                assert operand(architecture, stored) == "parts"
        assert operand(architecture, torch.float16) == "parts"
    # one is slow there, the other no faster than 16 bits
    assert operand("sm_103", torch.uint8) == operand("gfx90a", torch.uint8) == "parts"
    with configs.scored_with("digits"):
        assert operand("sm_103", torch.uint8) == "parts"
    # an older version, and one that goes by another name, as on AMD cards
    for version in ((3, 6), (0, 0)):
        monkeypatch.setattr(devices, "triton_version", lambda version=version: version)
        assert operand("sm_100", torch.uint8) == "parts"
        assert operand("sm_90", torch.uint8) == operand("gfx942", torch.uint8) == "digits"


@pytest.mark.parametrize("dim", [65_536, 65_537, 131_075, 196_608])
def test_no_slice_of_digits_is_long_enough_to_overflow(dim: int) -> None:
    for batch in (1, 1024):
        chosen = configs.choose(H100, torch.uint8, batch, dim)
        slices = chosen.score_slices(1 << 24, batch, dim)
        width = -(-dim // slices // chosen.score.block_d) * chosen.score.block_d
        assert chosen.operand == "digits"
        # the largest difference from the centre times the largest digit
        assert width * 255 * 128 < 2**31
        assert configs.choose(H100, torch.float16, batch, dim).score_slices(1 << 24, batch, dim) == 1


def test_digits_want_an_integer_unit() -> None:
    job = next(job for job in listed_jobs.jobs(["sm_90"]) if job.kernel == "digits")
    assert Compilation(job, 200, 0, 49152, {"IGMMA": 12}, 48).complaints == []
    assert Compilation(job, 200, 0, 49152, {"HGMMA": 12}, 48).complaints == [
        "no matrix instructions",
        "matrix instructions of another kind",
    ]
    assert Compilation(job, 200, 0, 49152, {"IMMA": 12}, 48).complaints == ["no wgmma"]


def test_tuned_choices_come_before_the_tables(tmp_path: Path) -> None:
    def chosen(stored: torch.dtype, batch: int) -> LaunchConfig:
        return configs.choose(H100, stored, batch, 4096, folder=tmp_path)

    path = configs.tuned_file(H100.name, tmp_path)
    mine = ScoreConfig(64, 64, 32, 4, 2)
    done = tile_trials.Trial(mine, 1e-6, 1.5)
    text = json.dumps(tune.document(H100, {"half": [(TileChoice(mine, batch=64), done)]}))
    path.write_text(text)
    try:
        assert chosen(torch.float16, 40).score == mine
        assert chosen(torch.float16, 65).score != mine
        assert chosen(torch.uint8, 40).score != mine
        slow, digits = tile_trials.Trial(mine, 1e-6, 2.5), tile_trials.Trial(DigitConfig(64, 64, 128, 4, 3), 1e-6, 1.5)
        kinds = {"byte": [(TileChoice(trial.config, batch=64), trial) for trial in (done, digits, slow)]}
        for entries, operand in ((kinds["byte"][:2], "parts"), (kinds["byte"][1:], "digits")):
            configs.tuned.cache_clear()
            path.write_text(json.dumps(tune.document(H100, {"byte": entries})))
            assert chosen(torch.uint8, 40).operand == operand
            with configs.scored_with("digits"):
                assert chosen(torch.uint8, 40).score == digits.config
        configs.tuned.cache_clear()
        path.write_text(text.replace('"warps": 4', '"warps": "many"'))
        with pytest.raises(DataFileError, match="tuned configurations"):
            chosen(torch.float16, 40)
    finally:
        configs.tuned.cache_clear()


def test_the_tuner_trusts_no_time_of_a_wrong_result() -> None:
    slow, fast, wrong = (ScoreConfig(64, 64, size, 4, 2) for size in (32, 64, 128))
    trials = [
        tile_trials.Trial(slow, 1e-6, 2.0),
        tile_trials.Trial(fast, 1e-6, 1.0),
        tile_trials.Trial(wrong, 0.5, 0.1),
    ]
    assert tile_trials.fastest_trial(trials, slow) == trials[1]
    assert tile_trials.fastest_trial([*trials[:1], tile_trials.Trial(fast, 1e-6, 1.99)], slow) == trials[0]
    assert tile_trials.fastest_trial(trials[2:], slow) is None
    assert tile_trials.fastest_trial([tile_trials.Trial(slow, float("nan"), 1.0)], slow) is None


def test_the_tuner_tries_what_fits() -> None:
    tried = list(
        tile_trials.candidates(tile_trials.DEFAULT_TUNING.weigh, WeighConfig, 64, shared=99 << 10, stored=torch.float16)
    )
    assert tried
    assert all(config.shared_bytes(2, 4) <= 99 << 10 for config in tried)
    assert all(config.block_b <= 64 for config in tried)
    assert TileChoice(tried[0]).batch == ANY


@pytest.mark.skipif(INTERPRET, reason="the interpreter takes the CPU")
def test_a_tensor_on_the_wrong_device_is_refused_before_any_launch() -> None:
    rows = prepare_rows(torch.randn(10, 4), None)
    ones = torch.ones(1, dtype=torch.float64)
    query = Query(torch.ones(1, 4, dtype=torch.float64), ones, ones, torch.zeros(1, 0, 2, dtype=torch.int64))
    with pytest.raises(InputError, match="must be a CUDA device"):
        triton_state(Work(rows, query, Span(0, 10), Wanted()))
    with pytest.raises(InputError, match="must be a CUDA device"):
        tune.main([])
