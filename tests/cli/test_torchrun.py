"""Commands under torchrun: the processes hold the data together, and one of them reports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rank_cases import on_ranks
from safetensors.torch import load_file, save_file

from oracle_engine import OracleDataset, OracleEngine
from oracle_engine.cli.main import main


@pytest.fixture
def data(tmp_path: Path) -> OracleDataset:
    """Samples in a file, and queries in another."""
    generator = torch.Generator().manual_seed(0)
    made = OracleDataset(torch.randn(40, 6, generator=generator), torch.arange(40) % 3)
    made.save(tmp_path / "data.safetensors")
    queries = {"x": torch.randn(5, 6, generator=generator), "t": torch.linspace(0.1, 0.9, 5)}
    save_file({**queries, "labels": torch.arange(5) % 3}, tmp_path / "in.safetensors")
    return made


def run_ranks(folder: Path, command: list[str]) -> list[tuple[int, str, str]]:
    """Return the exit status of `command` on each of two ranks, and what it printed."""

    def work(rank: int) -> tuple[int, str, str]:
        os.environ |= {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": str(rank)}
        printed = [folder / f"{name}-{rank}" for name in ("out", "err")]
        with printed[0].open("w") as out, printed[1].open("w") as err:
            sys.stdout, sys.stderr = out, err
            status = main(command)
        return status, printed[0].read_text(), printed[1].read_text()

    return on_ranks(folder, 2, work)


def test_velocities_are_written_once(data: OracleDataset, tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("in.safetensors", "out.safetensors")]
    command = ["velocity", *files, "--data", str(tmp_path / "data.safetensors"), "--batch", "3", "--json"]
    (status, printed, _), (other, nothing, _) = run_ranks(tmp_path, command)
    assert (status, other, nothing) == (0, 0, "")
    assert json.loads(printed)["what"] == "velocity"
    asked = load_file(files[0])
    true = OracleEngine(data).velocity(asked["x"], asked["t"], labels=asked["labels"])
    torch.testing.assert_close(load_file(files[1])["velocity"], true, rtol=1e-5, atol=1e-6)


def test_stages_and_samples_are_written_once(data: OracleDataset, tmp_path: Path) -> None:
    source = ["--data", str(tmp_path / "data.safetensors"), "--no-figure"]
    stages = ["stages", *source, "--times", "0.3", "0.6", "--queries", "16", "--out", str(tmp_path / "two")]
    alone = ["stages", *stages[1:-1], str(tmp_path / "one")]
    assert main(alone) == 0
    assert [status for status, _, _ in run_ranks(tmp_path, stages)] == [0, 0]
    one, two = (json.loads((tmp_path / name / "stages.json").read_text()) for name in ("one", "two"))
    assert one["points"] == two["points"] or one["points"][0].keys() == two["points"][0].keys()
    sample = ["sample", *source, "--draw", "3", "--steps", "6", "--save", str(tmp_path / "runs.npy")]
    assert [status for status, _, _ in run_ranks(tmp_path, sample)] == [0, 0]
    assert (tmp_path / "runs.npy").exists()


def test_one_of_the_ranks_says_what_all_refuse(data: OracleDataset, tmp_path: Path) -> None:
    source = ["--data", str(tmp_path / "data.safetensors")]
    found = run_ranks(tmp_path, ["index", "build", *source, "--out", str(tmp_path / "index")])
    assert [status for status, _, _ in found] == [2, 2]
    assert "must run one of stages, velocity, sample, job" in found[0][2]
    assert found[1][2] == ""
    files = [str(tmp_path / name) for name in ("in.safetensors", "out.safetensors")]
    found = run_ranks(tmp_path, ["velocity", *files, *source, "--t", "1.0"])
    assert [(status, bool(said)) for status, _, said in found] == [(2, True), (2, False)]


def test_every_rank_is_a_worker_of_a_job(data: OracleDataset, tmp_path: Path) -> None:
    source = ["--data", str(tmp_path / "data.safetensors")]
    command = ["job", str(tmp_path / "in.safetensors"), str(tmp_path / "out.d"), *source, "--shards", "2"]
    assert [status for status, _, _ in run_ranks(tmp_path, command)] == [0, 0]
    asked, found = load_file(tmp_path / "in.safetensors"), load_file(tmp_path / "out.d" / "velocity.safetensors")
    true = OracleEngine(data).velocity(asked["x"], asked["t"], labels=asked["labels"])
    torch.testing.assert_close(found["velocity"], true, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_torchrun_runs_a_command(data: OracleDataset, tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("in.safetensors", "out.safetensors")]
    source = ["--data", str(tmp_path / "data.safetensors")]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*start, "-m", "oracle_engine", "velocity", *files, *source], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("velocity of 5 queries given their labels") == 1
    assert load_file(files[1])["velocity"].shape == (5, 6)
