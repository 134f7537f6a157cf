"""The command line speaks of its options and of the files it was given, and finds what fails before any work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import assert_refused, run, run_json
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from oracle_engine import OracleDataset, OracleEngine
from oracle_engine.base.errors import bad_file, invalid
from oracle_engine.cli.words import in_options


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator, unchecked: None) -> Path:
    monkeypatch.chdir(tmp_path)
    points = torch.randn(30, 3, 4, generator=generator)
    save_file({"points": points, "labels": torch.arange(30) % 3}, "data.safetensors")
    np.save("in.npy", points[:20].numpy())
    np.save("wide.npy", torch.randn(100, 60, generator=generator).numpy())
    np.save("numbers.npy", torch.randn(40, generator=generator).numpy())
    return tmp_path


def forbid_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where an engine or an index is made."""

    def fail(*arguments: object, **options: object) -> None:
        raise AssertionError("work began")

    monkeypatch.setattr(OracleEngine, "__init__", fail)
    monkeypatch.setattr("oracle_engine.search.index.build_index", fail)


OUTPUTS: dict[str, list[object]] = {
    "velocity": ["velocity", "in.npy", "OUT.npy", "--data", "data.safetensors", "--t", 0.5],
    "sample": ["sample", "--data", "data.safetensors", "--draw", 2, "--no-figure", "--save", "OUT.npy"],
    "sheet": ["sample", "--data", "data.safetensors", "--draw", 2, "--out", "OUT.png"],
    "index": ["index", "build", "--data", "wide.npy", "--out", "OUT.npy"],
    "stages": ["stages", "--data", "data.safetensors", "--queries", 2, "--out", "OUT"],
    "train": ["train-demo", "--data", "data.safetensors", "--steps", 1, "--out", "OUT"],
}


@pytest.mark.parametrize("command", OUTPUTS)
@pytest.mark.parametrize("place", ["a file in place of a folder", "a folder", "a device"])
def test_where_nothing_can_be_written_is_found_before_any_work(
    command: str, place: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(part) for part in OUTPUTS[command]]
    suffix = next(part for part in arguments if part.startswith("OUT"))[3:]
    report = command in ("stages", "train")
    if place == "a folder":
        (here / "out" / f"{command}.json").mkdir(parents=True)
        target = "out" if report else f"out{suffix}"
        (here / target).mkdir(exist_ok=True)
        message = f"must name a file; received {target}"
    elif place == "a device":
        if report:
            pytest.skip("writes into a folder")
        (here / f"out{suffix}").symlink_to("/dev/null")
        target, message = f"out{suffix}", "must name a file; received"
    else:
        (here / "file").touch()
        target, message = f"file/out{suffix}", "must name a file that can be written; received file/out"
    forbid_work(monkeypatch)
    before = sorted(here.rglob("*"))
    assert_refused(capsys, message, *(target if part.startswith("OUT") else part for part in arguments))
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["velocity", "in.npy", "data.safetensors", "--t", 0.5], "`OUT` must be another file than --data"),
        (["velocity", "in.npy", "./in.npy", "--t", 0.5], "`OUT` must be another file than IN"),
        (["sample", "--no-figure", "--save", "data.safetensors"], "`--save` must be another file than --data"),
    ],
)
def test_no_file_that_is_read_is_written(
    arguments: list[Any], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path("data.safetensors").read_bytes()
    assert_refused(capsys, message, *arguments, "--data", "data.safetensors")
    assert Path("data.safetensors").read_bytes() == before


@pytest.mark.parametrize("device", ["meta", "mps", "xyz", "cuda:99", "", "opengl"])
@pytest.mark.parametrize("command", OUTPUTS)
def test_devices_that_cannot_be_used(command: str, device: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(here.rglob("*"))
    message = f"`--device` must name a device that holds numbers; received {device!r}" if device == "meta" else (
        f"`--device` must name a device torch can compute on here; received {device!r}"
    )  # fmt: skip
    assert_refused(capsys, message, *OUTPUTS[command], "--device", device)
    assert sorted(here.rglob("*")) == before


def test_one_value_a_sample(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    facts = run_json(capsys, "sample", "--data", "numbers.npy", "--draw", 5, "--steps", 40, "--save", "drawn.npy")
    assert facts["landed"] == 5
    drawn, known = np.load("drawn.npy"), np.load("numbers.npy")
    assert drawn.shape == (5,)
    # 40 steps of Euler in one dimension
    assert np.abs(drawn - known[facts["nearest"]]).max() < 0.02
    sizes = ("--steps", 3, "--batch", 4, "--width", 4, "--references", 3, "--bins", 2, "--draws", 2)
    assert run_json(capsys, "train-demo", "--data", "numbers.npy", *sizes, "--out", "out")["data"]["dim"] == 1
    assert sorted(file.name for file in Path("out").iterdir()) == ["train.json", "train.png"]


@pytest.mark.parametrize("dtype", [">f4", ">f8", "<f8", "f2", "longdouble"])
def test_times_and_labels_in_any_byte_order(dtype: str, here: Path) -> None:
    held = load_file("data.safetensors")
    times, labels = np.linspace(0.1, 0.8, 20).astype(dtype), (np.arange(20) % 3).astype(">i4")
    np.savez("in.npz", x=np.load("in.npy").astype(">f4"), t=times, labels=labels)
    assert run("velocity", "in.npz", "out.npy", "--data", "data.safetensors") == 0
    engine = OracleEngine(OracleDataset(held["points"], held["labels"]))
    t = torch.from_numpy(times.astype(np.float64))
    wanted = engine.velocity(held["points"][:20], t, labels=torch.arange(20) % 3)
    torch.testing.assert_close(torch.from_numpy(np.load("out.npy").astype("<f4")), wanted, rtol=1e-5, atol=1e-5)


def test_a_query_that_is_not_finite_is_named_by_its_row(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.load("in.npy")
    x[5, 1, 2] = np.nan
    np.save("nan.npy", x)
    options = ("--data", "data.safetensors", "--t", 0.5, "--batch", 4)
    assert_refused(
        capsys,
        "nan.npy: expected finite queries; found a NaN or an infinity in row 5.",
        "velocity",
        "nan.npy",
        "out.npy",
        *options,
    )
    assert not Path("out.npy").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--t", 1.0], "pass --t from 0 to 1, and --t-max 0.999"),
        (["--t", 2.0], "pass --t from 0 to 1, and --t-max 0.999"),
        (["--t", 0.5, "--t-max", 2.0], "`--t-max` must lie in [0, 1]; received 2.0. Remedy: pass --t-max 0.999"),
        (["--t", 0.5, "--t-max", "nan"], "`--t-max` must lie in [0, 1]; received nan"),
        (
            ["--t", 0.5, "--tolerance", 0],
            "`--tolerance` must lie in (0, 1); received 0.0. Remedy: pass --tolerance 1e-4",
        ),
        (["--t", 0.5, "--data-key", "x"], "Remedy: pass --data-key with one of these names."),
        (["--t", 0.5, "--count", 99], "`--count` must lie in 1..30"),
        (
            ["--t", 0.5, "--folder", "x"],
            "`--folder` has no meaning for a path; received 'x'. Remedy: leave --folder out.",
        ),
        (["--t", 0.5, "--range", "0,1"], "`--range` can be a range where floats are stored in"),
        (
            ["--t", 0.5, "--key", "x"],
            "`--key` names an array of an .npz or .safetensors file; received 'x' for in.npy.",
        ),
    ],
)
def test_remedies_name_options(
    arguments: list[Any], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(capsys, message, "velocity", "in.npy", "out.npy", "--data", "data.safetensors", *arguments)


def test_the_range_is_set_and_stated(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_json(capsys, "plan", "--data", "digits", "--range", "0,1")["values"].startswith(
        "uint8 -> x/16, values in [0, 1]"
    )
    for text in ("--range=-1,1", "--range -1,1"):
        values = run_json(capsys, "plan", "--data", "digits", *text.split())["values"]
        assert values.startswith("uint8 -> x/8 - 1, values in [-1, 1], variance per dimension 0.2")


@pytest.mark.parametrize("text", ["1,-1", "0", "0,1,2", "a,b", "0,inf", "nan,1", ""])
def test_ranges_that_are_none(text: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("plan", "--data", "digits", "--range", text)
    captured = capsys.readouterr()
    assert (ended.value.code, captured.out, captured.err.count("\n")) == (2, "", 1)
    assert "argument --range: must be two numbers LOW,HIGH" in captured.err


@pytest.mark.parametrize("name", ["int64", "float8"])
def test_dtypes_that_are_not_stored_are_named(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dtype, remedy = {
        "int64": (
            torch.int64,
            "found dtype int64. Remedy: convert to uint8 if the values lie in 0..255, else to float32",
        ),
        "float8": (torch.float8_e4m3fn, "found dtype float8_e4m3fn. Remedy: convert to float16"),
    }[name]
    save_file({"x": torch.zeros(4, 3).to(dtype), "labels": torch.arange(4)}, "odd.safetensors")
    assert_refused(capsys, remedy, "plan", "--data", "odd.safetensors")
    np.savez("odd.npz", x=np.zeros((4, 3), np.int64))
    assert_refused(capsys, "found dtype int64", "plan", "--data", "odd.npz")


def test_labels_of_another_name_are_not_dropped(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"x": torch.zeros(4, 3), "targets": torch.arange(4)}, "odd.safetensors")
    assert_refused(
        capsys, "call it 'labels', or pass --data-key x for the samples", "plan", "--data", "odd.safetensors"
    )
    assert run("plan", "--data", "odd.safetensors", "--data-key", "x") == 0


@pytest.mark.parametrize("option", ["--draw", "--steps"])
def test_more_than_memory_holds(option: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = f"`{option}` must need less memory than the "
    assert_refused(capsys, message, "sample", "--data", "data.safetensors", "--no-figure", option, 10**12)


def test_memory_that_runs_out_is_one_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(OracleEngine, "plan", fail)
    assert_refused(capsys, "the memory of this machine is too small", "plan", "--data", "data.safetensors")


def test_what_the_system_refuses_is_one_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device", "out.npy")

    monkeypatch.setattr("oracle_engine.cli.query_files._append", fail)
    options = ("--data", "data.safetensors", "--t", 0.5)
    assert_refused(capsys, "out.npy: No space left on device. Remedy: ", "velocity", "in.npy", "new/out.npy", *options)
    assert not Path("new").exists()


def test_an_index_that_cannot_be_saved_is_one_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    assert_refused(capsys, "No space left on device", "index", "build", "--data", "wide.npy", "--out", "i.index")
    assert not Path("i.index").exists()


def test_warnings_are_one_line_after_the_work(tmp_path: Path, here: Path) -> None:
    np.save("img-mean-std-00000000.npy", np.zeros((2, 8, 8), np.float32))
    np.save("img-mean-std-00000001.npy", np.ones((2, 8, 8), np.float32))
    for name in ("data.safetensors", "in.npy", "wide.npy", "numbers.npy"):
        Path(name).unlink()
    root = Path(__file__).resolve().parents[2]
    code = f"import sys; sys.path.insert(0, {str(root)!r}); from oracle_engine.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "plan", "--data", ".", "--batch", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.startswith("oracle-engine: warning: . is read as it is stored")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no full device")
def test_an_output_that_is_full_is_one_line() -> None:
    root = Path(__file__).resolve().parents[2]
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "oracle_engine", "info"]
        done = subprocess.run(command, cwd=root, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


def test_parameters_become_options_in_one_place() -> None:
    error = bad_file("a.npz", "one array", "x, y", "pass key= with the name of the one to use", parameter="key")
    assert str(in_options(error, "plan")).endswith("Remedy: pass --data-key with the name of the one to use.")
    assert str(in_options(error, "IN")).endswith("Remedy: pass --key with the name of the one to use.")
    known = invalid("--batch", "must be at least 1", 0, "leave it out for 256")
    assert str(in_options(known, "velocity")) == str(known)
    backend = invalid(
        "precision", "can be half with Triton only", "torch", "pass backend='triton', or precision='full'"
    )
    assert "ORACLE_BACKEND=triton" in str(in_options(backend, "plan"))
