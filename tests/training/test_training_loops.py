"""Targets fit any training loop: data-loader workers, wrapped and compiled students, autocast and grad modes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import refused
from student import Student
from target_cases import TIMES, pictures
from tolerances import assert_close, assert_rows_close
from torch import Tensor

from oracle_engine import Exact, Flip, OracleDataset, OracleEngine, OracleTarget, PosteriorDraw, References, path_sample


class Batches(torch.utils.data.Dataset[Tensor]):
    """Noisy samples and their targets, computed where the item is asked for."""

    def __init__(self, target: OracleTarget) -> None:
        self.target = target

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        x = torch.full((2, 2, 3), float(index))
        return torch.stack([x, self.target(x, 0.5), torch.full_like(x, torch.get_num_threads())])


def test_a_cpu_target_answers_in_workers_on_one_thread(generator: torch.Generator) -> None:
    target = OracleTarget(OracleEngine(pictures(20, generator)))
    for x, found, threads in torch.utils.data.DataLoader(Batches(target), batch_size=None, num_workers=2):
        assert_rows_close(found, target(x, 0.5), "bar")
        assert bool((threads == 1).all())


def test_another_device_is_refused_in_workers(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    target = OracleTarget(OracleEngine(pictures(6, generator)))
    monkeypatch.setattr(OracleDataset, "device", torch.device("cuda", 0))

    class Worker:
        id = 3

    monkeypatch.setattr("torch.utils.data.get_worker_info", Worker)
    with refused("`engine` must be on the CPU inside a DataLoader worker; received an engine on cuda:0 in .* worker 3"):
        target(torch.zeros(2, 2, 3), 0.5)


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def gradients(step: Any, student: torch.nn.Module) -> list[Tensor]:
    student.zero_grad()
    step().backward()
    found = [parameter.grad for parameter in student.parameters()]
    return [
        (grad.full_tensor() if hasattr(grad, "full_tensor") else grad).clone() for grad in found if grad is not None
    ]


@pytest.mark.parametrize("wrap", ["ddp", "fsdp"])
@pytest.mark.usefixtures("process_group")
def test_wrapped_students_train_with_the_target_inside_and_outside(wrap: str, generator: torch.Generator) -> None:
    target = OracleTarget(OracleEngine(pictures(20, generator)))
    x, t = torch.randn(4, 2, 3, generator=generator), TIMES.float()
    plain, inside = Student(), Student(target)
    inside.load_state_dict(plain.state_dict())
    expected = gradients(lambda: (plain(x, t) - target(x, t)).square().mean(), plain)
    outside = Student()
    outside.load_state_dict(plain.state_dict())
    for student in (inside, outside):
        wrapped = wrapped_by(wrap, student)
        steps = {
            inside: lambda wrapped=wrapped: wrapped(x, t),
            outside: lambda wrapped=wrapped: (wrapped(x, t) - target(x, t)).square().mean(),
        }
        for found, wanted in zip(gradients(steps[student], wrapped), expected, strict=True):
            assert_close(found, wanted, "float32 output")
    assert not list(target.parameters())
    assert not list(target.buffers())
    assert list(inside.state_dict()) == list(plain.state_dict())


# each of two processes takes half of the batch; the barrier is there because one that leaves takes the store along
RANK = """
import os, sys, torch
rank, folder = int(sys.argv[1]), sys.argv[2]
os.environ["GLOO_SOCKET_IFNAME"] = "lo"
torch.distributed.init_process_group("gloo", f"file://{folder}/group", rank=rank, world_size=2)
held = torch.load(f"{folder}/held.pt", weights_only=False)
wrapped = torch.nn.parallel.DistributedDataParallel(held["student"])
part = slice(2 * rank, 2 * rank + 2)
wrapped(held["x"][part], held["t"][part]).backward()
torch.save([parameter.grad for parameter in held["student"].parameters()], f"{folder}/gradients{rank}.pt")
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def test_two_processes_train_as_one(tmp_path: Path, generator: torch.Generator) -> None:
    x, t = torch.randn(4, 2, 3, generator=generator), TIMES.float()
    torch.manual_seed(0)
    student = Student(OracleTarget(OracleEngine(pictures(20, generator))))
    torch.save({"student": student, "x": x, "t": t}, tmp_path / "held.pt")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(tmp_path)], env=environment) for rank in range(2)
    ]
    try:
        # a rank that waits for one that died would wait for ever
        assert [rank.wait(timeout=240) for rank in ranks] == [0, 0]
    finally:
        for process in ranks:
            process.kill()
    expected = gradients(lambda: student(x, t), student)
    for rank in range(2):
        for found, wanted in zip(torch.load(tmp_path / f"gradients{rank}.pt"), expected, strict=True):
            assert_close(found, wanted, "float32 sums")


def wrapped_by(wrap: str, student: torch.nn.Module) -> torch.nn.Module:
    if wrap == "ddp":
        return torch.nn.parallel.DistributedDataParallel(student)
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    torch.distributed.fsdp.fully_shard(student, mesh=mesh)
    return student


def test_a_compiled_student_trains_on_the_target(generator: torch.Generator) -> None:
    data = pictures(20, generator)
    target = OracleTarget(OracleEngine(data), estimate=References(4, generator))
    student, source = Student(), torch.tensor([0, 3, 4, 5])
    x, t = path_sample("rectified_flow", data[source], torch.ones(4, 2, 3).double(), TIMES).float(), TIMES.float()
    wanted = target(x, t, source=source)
    expected = gradients(lambda: (student(x, t) - wanted).square().mean(), student)
    compiled = torch.compile(student, fullgraph=True, backend="aot_eager")
    for found, grad in zip(
        gradients(lambda: (compiled(x, t) - wanted).square().mean(), student), expected, strict=True
    ):
        assert_close(found, grad, "float32 output")


@pytest.mark.parametrize("estimate", [Exact(), References(4), PosteriorDraw()])
def test_autocast_and_grad_modes_change_no_target(estimate: Any, generator: torch.Generator) -> None:
    data = pictures(40, generator, storage=torch.float32)
    x, source = torch.randn(4, 2, 3, generator=generator), torch.tensor([0, 3, 4, 5])

    def ask() -> Tensor:
        torch.manual_seed(3)
        target = OracleTarget(OracleEngine(data), estimate=estimate, augmentation=Flip())
        return target.forward(x, TIMES, source=source)

    expected = ask()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ask(), expected)
    with torch.inference_mode():
        assert torch.equal(ask(), expected)
