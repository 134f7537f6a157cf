from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from bench.gate import __main__ as gate
from bench.gate import calls, host, kept
from bench.gate.table import faults
from oracle_engine import DataFileError, OracleDataset, OracleEngine
from oracle_engine.kernels.gpu.jit.interpreter import INTERPRET
from oracle_engine.kernels.gpu.tools import jobs, listed_jobs, waves
from oracle_engine.kernels.gpu.tools.compilation import compile_job

compiles = pytest.mark.skipif(INTERPRET, reason="the interpreter is on: nothing is compiled")

KEPT = kept.read()


def worse(section: str, found: kept.Section) -> list[str]:
    """Return what of the figures found is worse than the committed ones, in words."""
    if not KEPT.comparable:
        pytest.skip(f"figures are kept of Triton {KEPT.compiler}")
    return [str(change) for change in kept.changes(KEPT.sections[section], found) if change.worse]


@compiles
@pytest.mark.parametrize("job", listed_jobs.subset(), ids=str)
def test_configurations_pass_the_gate_and_are_no_worse(job: jobs.Job) -> None:
    result = compile_job(job)
    assert faults(result) == []
    assert str(job) in KEPT.sections[gate.CONFIGURATIONS]
    assert worse(gate.CONFIGURATIONS, {str(job): result.figures}) == []


def test_every_listed_configuration_is_kept_and_fills_the_card() -> None:
    listed = {str(job) for job in listed_jobs.jobs(list(jobs.TARGETS))}
    assert listed <= set(KEPT.sections[gate.CONFIGURATIONS])
    found = waves.waves(KEPT.sections[gate.CONFIGURATIONS])
    assert waves.empty(found) == []
    assert worse(gate.WAVES, found) == []


@compiles
def test_calls_ask_no_more_of_a_card_than_they_did() -> None:
    found = calls.calls(["fp16"])
    assert calls.costly(found) == []
    assert worse(gate.CALLS, found) == []


def test_answers_ask_no_more_of_the_host_than_they_did() -> None:
    found = host.host()
    assert all(min(figures.values()) > 0 for figures in found.values())
    # python -m bench.gate.host --write keeps fewer; --accept REASON in its place keeps more
    before = kept.read(host.PATH).sections[host.SECTION]
    assert host.larger(kept.changes(before, found)) == []
    more = {name: {"python_calls": 2.0 * figures["python_calls"]} for name, figures in before.items()}
    assert len(host.larger(kept.changes(before, more))) == 2 * len(before)


def test_calls_and_operations_are_counted_once_caches_are_full() -> None:
    engine = OracleEngine(OracleDataset(torch.randn(6, 3)))
    before = host.counted(lambda: (engine.data.row_of(torch.arange(2)), torch.zeros(2).add_(1)))
    assert before["operations"] == 3.0
    assert before["python_calls"] >= 1.0


def test_a_worse_figure_is_told_from_a_better_one() -> None:
    before = {"a kernel": {"registers": 120.0, "programs": 2.0, "spills": 0.0}}
    after = {"a kernel": {"registers": 121.0, "programs": 1.0, "spills": 3.0}}
    found = kept.changes(before, after)
    assert [str(change) for change in found if change.worse] == [
        "a kernel: registers was 120, is 121",
        "a kernel: programs was 2, is 1",
        "a kernel: spills was 0, is 3",
    ]
    # registers are given eight at a time
    assert not kept.Change("a kernel", "registers", 121, 128).worse
    assert not any(change.worse for change in kept.changes({}, after))
    assert kept.changes(before, {"another": {}}) == []


def test_the_file_takes_what_is_better_and_what_is_worse_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, section = tmp_path / "figures.json", gate.CALLS
    monkeypatch.setattr(gate, "read", lambda: kept.read(path))
    monkeypatch.setattr(kept.Kept.write, "__defaults__", (path,))

    def counted(*now: float, reason: str | None = None) -> dict[str, float]:
        figures = dict(zip(("device_calls", "waits"), now, strict=True))
        gate.rewrite(kept.read(path), {section: {"a call": figures}}, whole=True, reason=reason)
        return kept.read(path).sections[section]["a call"]

    assert counted(40, 2) == {"device_calls": 40, "waits": 2}
    assert counted(50, 1) == {"device_calls": 40, "waits": 1}
    assert counted(50, 1, reason="top rows come along") == {"device_calls": 50, "waits": 1}
    assert kept.read(path).accepted == {"a call: device_calls was 40, is 50": "top rows come along"}
    path.write_text("{}")
    with pytest.raises(DataFileError, match="restore it with git"):
        kept.read(path)
