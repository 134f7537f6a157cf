"""`oracle-engine job`: one file of answers, whoever found them, and what it says of what cannot be gone on with."""

from __future__ import annotations

import json
import re
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import assert_refused, run, run_json
from interruptions import interrupt_units
from safetensors.torch import load_file, save_file
from tolerances import assert_rows_close

from oracle_engine.cli.job_runs import anywhere
from oracle_engine.jobs.folder import JobFolder
from oracle_engine.jobs.records import Record

pytestmark = pytest.mark.usefixtures("here", "unchecked")

JOB = ("job", "in.safetensors", "out.d", "--data", "data.safetensors", "--batch", 8, "--shards", 4, "--threads", 1)
RESULT = Path("out.d/velocity.safetensors")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> Path:
    """Samples with labels, and queries, in the current folder."""
    monkeypatch.chdir(tmp_path)
    points = torch.randn(50, 3, 4, generator=generator)
    save_file({"points": points, "labels": torch.arange(50) % 3}, "data.safetensors")
    queries = {"x": torch.randn(23, 3, 4, generator=generator), "t": torch.rand(23, generator=generator) * 0.9}
    save_file(queries | {"labels": torch.arange(23) % 3}, "in.safetensors")
    return tmp_path


def test_a_job_writes_what_velocity_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("velocity", "in.safetensors", "exact.safetensors", "--data", "data.safetensors") == 0
    facts = run_json(capsys, *JOB)
    assert facts["out"] == str(RESULT)
    assert facts["shape"] == [23, 3, 4]
    found, exact = load_file(RESULT)["velocity"], load_file("exact.safetensors")["velocity"]
    assert found.dtype == exact.dtype
    assert_rows_close(found, exact, "bar")
    # what is not needed any more is gone
    assert sorted(entry.name for entry in Path("out.d").iterdir()) == ["claims", "job.json", "velocity.safetensors"]


def test_machines_of_ray_find_all_files_from_any_folder(here: Path) -> None:
    given = {"input": "in.safetensors", "job": "out.d", "data": "digits", "folder": None, "labels_file": "labels.csv"}
    found = vars(anywhere(Namespace(**given)))
    files = {name: str(here / given[name]) for name in ("input", "job", "labels_file")}  # type: ignore[operator]
    assert found == given | files


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_the_answers_are_in_a_file_like_that_of_the_queries(suffix: str) -> None:
    queries = load_file("in.safetensors")["x"].numpy()
    path = Path(f"in{suffix}")
    if suffix == ".npy":
        np.save(path, queries)
    else:
        np.savez(path, x=queries)
    assert run("job", path, "out.d", "--data", "data.safetensors", "--t", 0.5, "--what", "log_density") == 0
    found = np.load(f"out.d/log_density{suffix}")
    found = found if suffix == ".npy" else found["log_density"]
    assert (found.shape, found.dtype) == ((23,), np.float64)


def test_a_job_goes_on_where_it_was_interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*JOB[:2], "whole.d", *JOB[3:], "--guidance", 2.0) == 0
    with pytest.MonkeyPatch.context() as patch:
        interrupt_units(patch, call=7)
        assert run(*JOB, "--guidance", 2.0) == 130
    facts = run_json(capsys, "job", "status", "out.d")
    assert (facts["units"], facts["units_done"], facts["workers"], facts["result"]) == (12, 6, 0, None)
    assert_refused(capsys, "`OUT.d` must hold all answers; received 3 of 3 blocks", "job", "finish", "out.d")
    # the threads, which are not named now, are those of the job
    begun = interrupt_units(monkeypatch, call=99)
    assert run(*JOB[:-2], "--guidance", 2.0) == 0
    assert len(begun) == 6
    assert RESULT.read_bytes() == Path("whole.d/velocity.safetensors").read_bytes()
    # once more there is nothing to do
    written = RESULT.stat().st_mtime_ns
    assert run(*JOB, "--guidance", 2.0) == 0
    assert run("job", "finish", "out.d") == 0
    assert (len(begun), RESULT.stat().st_mtime_ns) == (6, written)


def test_status_tells_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        interrupt_units(patch, call=7)
        run(*JOB)
    assert run("job", "status", "out.d") == 0
    assert capsys.readouterr().out == "out.d: 0 of 23 queries, 6 of 12 units; nobody works on it\n"
    with Record.kept(Path("out.d")) as record:
        record.began -= 10.0
        record.units = 5
        record.write()
        facts = run_json(capsys, "job", "status", "out.d")
        # half a unit of 8 queries and one of 4 shards a second
        assert facts["workers"] == 1
        assert 0.9 < facts["rate"] <= 1.0
        assert 12.0 <= facts["seconds_left"] < 13.0
        run("job", "status", "out.d")
        assert re.search(r"; 1 at work, \d\.\d queries/s, 0:00:12 left\n$", capsys.readouterr().out)
    run(*JOB)
    run("job", "status", "out.d")
    assert capsys.readouterr().out.endswith("out.d: done: out.d/velocity.safetensors, 23 queries\n")


CHANGES: dict[str, tuple[str, tuple[object, ...]]] = {
    "batch": ("`--batch` must be as the job was begun, 8; received 9", ("--batch", 9)),
    "shards": ("`--shards` must be as", ("--shards", 8)),
    "threads": ("`--threads` must be as", ("--threads", 2)),
    "what": ("`--what` must be as the job was begun, velocity; received noise", ("--what", "noise")),
    "path": ("`--path` must be as", ("--path", "gvp")),
    "time": ("`the times of IN, or --t,` must be as", ("--t", 0.5)),
    "clamp": ("`--t-max` must be as", ("--t-max", 0.9)),
    "labels": ("`the labels of IN` must be as", ("--no-labels",)),
    "guidance": ("`--guidance` must be as the job was begun, None; received 2.0", ("--guidance", 2)),
    "samples": ("`--data` must be as", ("--count", 40)),
    "other data": ("`--data` must be as", ("--data", "data.npy", "--no-labels")),
    "queries": ("`IN` must be as", ("--key", "y")),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_job_is_not_gone_on_with_by_others(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    queries, points = load_file("in.safetensors"), load_file("data.safetensors")["points"]
    save_file(queries | {"y": queries["x"] + 1}, "in.safetensors")
    np.save("data.npy", points.numpy())
    with pytest.MonkeyPatch.context() as patch:
        interrupt_units(patch, call=3)
        run(*JOB)
    message, options = CHANGES[name]
    assert_refused(capsys, message, *JOB, *options)
    assert run_json(capsys, "job", "status", "out.d")["units_done"] == 2


REFUSALS: dict[str, tuple[str, tuple[object, ...]]] = {
    "no queries of a unit": ("`--batch` must lie in 1..", ("--batch", 0)),
    "no shards": ("`--shards` must lie in 1..", ("--shards", 0)),
    "no workers": ("`--workers` must lie in 1..", ("--workers", 0)),
    "guided density": ("`--guidance` has no meaning", ("--what", "log_density", "--guidance", 2)),
    "guidance to nowhere": ("`--guidance` needs labels to guide towards", ("--no-labels", "--guidance", 2)),
    "a time without noise": ("leave some noise", ("--t", 1)),
    "torchrun without ranks": ("`--engine` can be torchrun for processes that it started", ("--engine", "torchrun")),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message, options = REFUSALS[name]
    assert_refused(capsys, message, *JOB, *options)
    assert not Path("out.d").exists()


def test_other_folders_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Path("full").mkdir()
    Path("full/mine").touch()
    assert_refused(capsys, "`OUT.d` must be new, empty or that of a job; received full", *JOB[:2], "full", *JOB[3:])
    assert_refused(capsys, "`OUT.d` must be a folder; received the file in.safetensors", *JOB[:2], JOB[1], *JOB[3:])
    for action in ("status", "finish"):
        assert_refused(capsys, "`OUT.d` must be that of a job; received full", "job", action, "full")
    Path("full/job.json").write_text("{}")
    assert_refused(capsys, "full/job.json: expected what a job is", "job", "status", "full")
    assert [entry.name for entry in sorted(Path("full").iterdir())] == ["job.json", "mine"]


def test_queries_that_are_not_finite_are_found_by_their_row(capsys: pytest.CaptureFixture[str]) -> None:
    queries = load_file("in.safetensors")
    queries["x"][20, 1] = torch.nan
    save_file(queries, "in.safetensors")
    assert_refused(capsys, "in.safetensors: expected finite queries; found a NaN or an infinity in row 20", *JOB)
    assert not Path("out.d").exists()


def test_ranks_of_torchrun_share_the_units(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*JOB[:2], "alone.d", *JOB[3:]) == 0
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert_refused(capsys, "`--workers` is the number of ranks under torchrun", *JOB, "--workers", 2)
    monkeypatch.setenv("RANK", "1")
    begun = interrupt_units(monkeypatch, call=2)
    assert run(*JOB) == 130
    assert (begun[0].block, begun[0].shard) == (0, 2)
    monkeypatch.setenv("RANK", "0")
    with pytest.MonkeyPatch.context() as patch:
        again = interrupt_units(patch, call=2)
        assert run(*JOB) == 130
    assert (again[0].block, again[0].shard) == (0, 0)
    # whichever comes last writes the file
    monkeypatch.setenv("RANK", "1")
    assert run(*JOB) == 0
    assert RESULT.read_bytes() == Path("alone.d/velocity.safetensors").read_bytes()


def test_the_samples_may_be_a_packed_folder(capsys: pytest.CaptureFixture[str]) -> None:
    held = load_file("data.safetensors")
    for name, part in {"a": slice(20), "b": slice(20, 50)}.items():
        shard = {key: tensor[part].clone() for key, tensor in held.items()}
        Path("folder").mkdir(exist_ok=True)
        save_file(shard, f"folder/{name}.safetensors")
    assert run("pack", "folder") == 0
    assert run("velocity", "in.safetensors", "exact.safetensors", "--data", "data.safetensors") == 0
    assert run(*JOB[:4], "folder", *JOB[5:]) == 0
    exact = load_file("exact.safetensors")["velocity"]
    assert_rows_close(load_file(RESULT)["velocity"], exact, "bar")


def test_ray_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert_refused(capsys, 'pip install ray (or, in a checkout: pip install -e ".[ray]")', *JOB, "--engine", "ray")
    assert not Path("out.d").exists()


@pytest.mark.slow
def test_tasks_of_ray_find_the_same_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray", reason='needs pip install -e ".[ray]"')
    assert run(*JOB[:2], "alone.d", *JOB[3:]) == 0
    assert run(*JOB, "--workers", 2, "--engine", "ray") == 0
    assert RESULT.read_bytes() == Path("alone.d/velocity.safetensors").read_bytes()


@pytest.mark.slow
def test_workers_are_processes_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*JOB[:2], "alone.d", *JOB[3:]) == 0
    assert run(*JOB, "--workers", 2) == 0
    assert RESULT.read_bytes() == Path("alone.d/velocity.safetensors").read_bytes()
    folder = JobFolder.open(Path("out.d"))
    assert json.loads((folder.path / "job.json").read_text("utf-8"))["threads"] == 1
    assert folder.pending() == []
