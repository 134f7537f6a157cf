"""The command line: what each command writes, prints and returns, and what it says of bad input."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import assert_refused, run, run_json
from interruptions import interrupt_engine
from safetensors.torch import load_file, save_file

from oracle_engine import OracleDataset, OracleEngine, __version__
from oracle_engine.base.progress import progress_bar
from oracle_engine.cli.main import build_parser, main


@pytest.fixture
def data(tmp_path: Path, generator: torch.Generator) -> Path:
    path = tmp_path / "data.safetensors"
    save_file({"points": torch.randn(50, 3, 4, generator=generator), "labels": torch.arange(50) % 3}, path)
    return path


@pytest.fixture
def queries(generator: torch.Generator) -> dict[str, torch.Tensor]:
    return {
        "x": torch.randn(23, 3, 4, generator=generator),
        "t": torch.rand(23, generator=generator, dtype=torch.float64),
    }


@pytest.fixture
def engine(data: Path) -> OracleEngine:
    tensors = load_file(data)
    return OracleEngine(OracleDataset(tensors["points"], tensors["labels"]))


def write(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    if path.suffix == ".npy":
        np.save(path, tensors["x"].numpy())
    elif path.suffix == ".npz":
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
        np.savez_compressed(path, **arrays)
    else:
        save_file(tensors, path)
    return path


def read(path: Path, name: str) -> torch.Tensor:
    if path.suffix == ".safetensors":
        return load_file(path)[name]
    held = np.load(path)
    return torch.from_numpy(held if path.suffix == ".npy" else held[name])


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("target", [".npy", ".npz", ".safetensors"])
def test_velocity_goes_through_every_kind_of_file(
    suffix: str, target: str, data: Path, queries: dict[str, torch.Tensor], engine: OracleEngine, tmp_path: Path
) -> None:
    source, out = write(tmp_path / f"in{suffix}", queries), tmp_path / f"out{target}"
    # blocks of 5 leave a last one of 3
    assert run("velocity", source, out, "--data", data, "--data-key", "points", "--batch", 5) == 0
    result = read(out, "velocity")
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, engine.velocity(queries["x"], queries["t"]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("what", ["velocity", "denoiser", "score", "noise", "log_density"])
def test_streaming_equals_memory(
    what: str, data: Path, queries: dict[str, torch.Tensor], engine: OracleEngine, tmp_path: Path
) -> None:
    source, out = write(tmp_path / "in.npy", queries), tmp_path / "out.npz"
    assert run("velocity", source, out, "--data", data, "--what", what, "--t", 0.4, "--batch", 4) == 0
    whole = getattr(engine, what)(queries["x"], 0.4)
    result = read(out, what)
    assert (result.dtype, result.shape) == (whole.dtype, whole.shape)
    torch.testing.assert_close(result, whole, rtol=1e-5, atol=1e-5)


def test_labels_in_the_file_condition_and_can_be_ignored(
    data: Path, queries: dict[str, torch.Tensor], engine: OracleEngine, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    labels = torch.arange(23) % 3
    source = write(tmp_path / "in.safetensors", queries | {"labels": labels})
    facts = run_json(capsys, "velocity", source, tmp_path / "given.npy", "--data", data, "--data-key", "points")
    assert facts["conditional"] is True
    given = engine.velocity(queries["x"], queries["t"], labels=labels)
    torch.testing.assert_close(read(tmp_path / "given.npy", ""), given, rtol=1e-5, atol=1e-5)
    assert run("velocity", source, tmp_path / "free.npy", "--data", data, "--no-labels") == 0
    free = engine.velocity(queries["x"], queries["t"])
    torch.testing.assert_close(read(tmp_path / "free.npy", ""), free, rtol=1e-5, atol=1e-5)


def test_bfloat16_stays_bfloat16_or_is_refused(
    data: Path, queries: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "in.safetensors", {"x": queries["x"].bfloat16(), "t": queries["t"]})
    assert run("velocity", source, tmp_path / "out.safetensors", "--data", data) == 0
    assert read(tmp_path / "out.safetensors", "velocity").dtype == torch.bfloat16
    assert run("velocity", source, tmp_path / "out.npy", "--data", data) == 2
    assert "must be .safetensors for torch.bfloat16" in capsys.readouterr().err


def test_t_max_clamps_what_is_refused_without_it(
    data: Path, queries: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = write(tmp_path / "in.npy", queries), tmp_path / "out.npy"
    assert run("velocity", source, out, "--data", data, "--t", 1.0) == 2
    assert "--t-max 0.999" in capsys.readouterr().err
    assert not out.exists()
    assert run("velocity", source, out, "--data", data, "--t", 1.0, "--t-max", 0.99) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in.npy", "out.npy"], "`--t` is needed"),
        (["in.npy", "out.txt", "--t", "0.5"], "`OUT` must end in .npy, .npz, .safetensors"),
        (["in.csv", "out.npy", "--t", "0.5"], "`IN` must end in .npy, .npz, .safetensors"),
        (["none.npy", "out.npy", "--t", "0.5"], "none.npy"),
        (["in.npy", "in.npy", "--t", "0.5"], "must be another file than IN"),
        (["in.npy", "out.npy", "--t", "0.5", "--batch", "0"], "`--batch` must be at least 1"),
        (["in.npy", "out.npy", "--t", "1.5"], "`t` must lie in [0, 1]"),
        (["in.npy", "out.npy", "--t", "0.5", "--device", "nowhere"], "`--device` must name a device"),
        (["in.npy", "out.npy", "--t", "0.5", "--labels", "y"], "`--labels` must name a tensor of the file"),
        (["in.npz", "out.npy", "--key", "q"], "an array called 'q'"),
        (["wide.npy", "out.npy", "--t", "0.5"], "`IN` must have shape [B, 3, 4]"),
        (["int.npy", "out.npy", "--t", "0.5"], "queries of a floating dtype"),
        (["times.npz", "out.npy"], "`t` must hold one time, or one for each of 23 queries"),
        (["labels.npz", "out.npy"], "`the labels of IN` must be classes of the data"),
    ],
)
def test_a_wrong_input_is_one_line_and_status_2(
    arguments: list[str], message: str, data: Path, queries: dict[str, torch.Tensor], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write(Path("in.npy"), queries)
    write(Path("in.npz"), queries)
    write(Path("wide.npy"), {"x": torch.zeros(4, 9)})
    write(Path("int.npy"), {"x": torch.zeros(4, 3, 4, dtype=torch.uint8)})
    write(Path("times.npz"), queries | {"t": torch.zeros(5)})
    write(Path("labels.npz"), queries | {"labels": torch.arange(23)})
    before = sorted(tmp_path.iterdir())
    assert_refused(capsys, message, "velocity", *arguments, "--data", data)
    assert sorted(tmp_path.iterdir()) == before


def test_an_interrupted_velocity_leaves_nothing(
    data: Path, queries: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, calls = OracleEngine.velocity, []

    def velocity(self: OracleEngine, *arguments: Any, **options: Any) -> torch.Tensor:
        calls.append(len(list((tmp_path / "out").iterdir())))
        if len(calls) == 3:
            raise KeyboardInterrupt
        found: torch.Tensor = exact(self, *arguments, **options)
        return found

    monkeypatch.setattr(OracleEngine, "velocity", velocity)
    source = write(tmp_path / "in.npz", queries)
    for suffix in (".npy", ".npz", ".safetensors"):
        calls.clear()
        assert run("velocity", source, tmp_path / f"out/v{suffix}", "--data", data, "--batch", 4) == 130
        # the temporary file was there
        assert calls == [1, 1, 1]
        # it goes again, and so does the folder that was made for it
        assert not (tmp_path / "out").exists()


def test_stages_writes_its_table_its_numbers_and_its_figure(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "folder"
    assert run("stages", "--data", data, "--data-key", "points", "--queries", 8, "--times", 0.1, 0.5, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "data: N = 50 samples, D = 12 (3 x 4, float32)" in printed
    assert "median ESS = 2" in printed
    assert sorted(file.name for file in out.iterdir()) == ["stages.json", "stages.png"]
    assert [point["t"] for point in json.loads((out / "stages.json").read_text())["points"]] == [0.1, 0.5]


def test_stages_in_the_current_folder_as_json(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--queries", 8, "--count", 20, "--seed", 5, "--path", "vp", "--no-figure")
    facts = run_json(capsys, "stages", "--data", data, *options)
    assert (facts["data"]["samples"], facts["seed"], facts["queries"]) == (20, 5, 8)
    assert facts["path"].startswith("VP(")
    assert facts["files"] == ["stages.json"]
    assert json.loads(Path("stages.json").read_text())["points"] == facts["points"]
    assert not Path("stages.png").exists()


def test_interrupted_stages_leave_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = interrupt_engine(monkeypatch, "posterior", 5)
    assert run("stages", "--data", data, "--out", tmp_path / "out") == 130
    assert len(calls) == 5
    assert not (tmp_path / "out").exists()


def test_stages_says_what_is_missing_before_any_work(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run("stages", "--data", data, "--out", tmp_path / "out") == 2
    assert 'pip install matplotlib (or, in a checkout: pip install -e ".[plot]")' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unexpected_error_is_not_hidden(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("oracle_engine.science.stages.analysis.analyse", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        run("stages", "--data", data, "--out", tmp_path)


def test_info_and_plan(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_json(capsys, "info")["version"] == __version__
    assert run("info") == 0
    assert "torch uses" in capsys.readouterr().out
    facts = run_json(capsys, "plan", "--data", data, "--data-key", "points", "--batch", 32)
    assert (facts["batch"], facts["route"]) == (32, "exact")
    assert run("plan", "--data", data) == 0
    assert "reason" in capsys.readouterr().out


COMMANDS = [
    ["stages"],
    ["velocity", "in.npy", "out.npy", "--data", "data.npz"],
    ["sample"],
    ["plan"],
    ["index", "build", "--data", "data.npz", "--out", "data.index"],
    ["index", "info", "data.index"],
    ["train-demo"],
    ["bench"],
    ["pack", "folder"],
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_the_array_of_samples_by_data_key(command: list[str]) -> None:
    assert build_parser().parse_args([*command, "--data-key", "points"]).data_key == "points"


@pytest.mark.parametrize("command", [command for command in COMMANDS if command[0] != "velocity"])
@pytest.mark.parametrize("option", [["--key", "points"], ["--key=points"]])
def test_key_is_refused_where_there_are_no_queries_to_name(
    command: list[str], option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(capsys, "`--key` is an option of `oracle-engine velocity` only", *command, *option)
    assert_refused(capsys, "name the array of the samples by --data-key points", *command, *option)
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    assert "--key" not in capsys.readouterr().out.replace("--data-key", "")


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["velocity", "in.npy"], ["stages", "--path", "winding"]])
def test_wrong_arguments_are_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "oracle-engine" in capsys.readouterr().err


def test_an_output_that_nobody_reads_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Closed(io.TextIOWrapper):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with (tmp_path / "stdout").open("wb") as file:
        monkeypatch.setattr("sys.stdout", Closed(file))
        assert run("info") == 0


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "oracle_engine", "velocity", "none.npy", "out.npy", "--data", "digits", "--t", "1"]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("oracle-engine: error: none.npy: ")
    assert done.stderr.count("\n") == 1


# what was imported is printed when the program ends, which is by SystemExit
HELP_PROBE = """
import runpy, sys
try:
    runpy.run_module("oracle_engine", run_name="__main__")
finally:
    print("imported:", sorted({"torch", "numpy"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "arguments", [["--version"], *([*command, "--help"] for command in ([], ["info"], ["index"], *COMMANDS))]
)
def test_help_and_version_import_no_torch(arguments: list[str]) -> None:
    command = [sys.executable, "-c", HELP_PROBE, *arguments]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(("usage: oracle-engine", f"oracle-engine {__version__}"))
    assert done.stdout.endswith("imported: []\n")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("package", ["rich", "plain"])
def test_progress_is_drawn_on_a_terminal(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    if package == "plain":
        monkeypatch.setitem(sys.modules, "rich.progress", None)
    with progress_bar("stages of data") as report:
        report(0, 4)
        report(4, 4)
    assert "stages of data" in terminal.getvalue()
    # the plain line ends by clearing itself
    assert package == "rich" or terminal.getvalue().endswith("\r\x1b[K")


def test_no_progress_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("stages") as report:
        report(1, 2)
    assert capsys.readouterr().err == ""


def test_an_unknown_option_points_to_the_help_of_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("velocity", "x.npz", "y.npz", "--data", "digits", "--guidance", 2)
    assert (
        "unrecognized arguments: --guidance 2. Remedy: see `oracle-engine velocity --help`" in capsys.readouterr().err
    )
