"""`oracle-engine sample` draws what it says, writes what it was asked for, and nothing when it fails."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import assert_refused, run, run_json
from interruptions import interrupt_engine
from safetensors.torch import load_file, save_file

from oracle_engine import OracleDataset, OracleEngine
from oracle_engine.paths.time_grids import sampling_times
from oracle_engine.samplers.runs import initial_noise, sample
from oracle_engine.science.pictures import sheet_of
from oracle_engine.science.sample_plots import samples_figure


@pytest.fixture
def data(tmp_path: Path, generator: torch.Generator) -> Path:
    path = tmp_path / "data.safetensors"
    save_file({"points": torch.randn(50, 3, 4, 5, generator=generator), "labels": torch.arange(50) % 3}, path)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_the_numbers_are_those_of_the_sampler_and_land_on_samples(
    suffix: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / f"out/drawn{suffix}"
    options = ("--draw", 7, "--steps", 15, "--method", "heun", "--shift", 0.5, "--seed", 4, "--labels", 2, 0)
    files = ("--data", data, "--data-key", "points", "--save", saved, "--no-figure")
    facts = run_json(capsys, "sample", *files, *options, "--guidance", 1.5)
    tensors = load_file(data)
    engine = OracleEngine(OracleDataset(tensors["points"], tensors["labels"]))
    x = initial_noise(engine, 7, generator=torch.Generator().manual_seed(4))
    labels = torch.tensor([2, 0, 2, 0, 2, 0, 2])
    expected = sample(engine, x, sampling_times(15, shift=0.5), method="heun", labels=labels, guidance=1.5).x
    held = {
        ".npy": lambda: torch.from_numpy(np.load(saved)),
        ".npz": lambda: torch.from_numpy(np.load(saved)["samples"]),
        ".safetensors": lambda: load_file(saved)["samples"],
    }[suffix]()
    torch.testing.assert_close(held, expected)
    assert facts["landed"] == 7
    assert torch.equal(tensors["labels"][facts["nearest"]], labels)
    torch.testing.assert_close(held, tensors["points"][facts["nearest"]], rtol=1e-5, atol=1e-5)
    assert (facts["files"], facts["method"], len(facts["times"])) == ([str(saved)], "heun", 16)


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_a_sheet_of_pictures_is_written(
    suffix: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"new/folder/drawn{suffix}"
    options = ("--draw", 5, "--steps", 10, "--path", "edm")
    assert run("sample", "--data", data, "--data-key", "points", *options, "--out", out) == 0
    assert "5 of 5 runs end on a sample of the data" in capsys.readouterr().out
    assert [file.name for file in out.parent.iterdir()] == [out.name]
    assert out.read_bytes()[:200].lstrip().startswith({".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}[suffix])


def test_a_sheet_shows_each_picture_in_its_place() -> None:
    context = torch.linspace(-1, 1, 50)[:, None, None, None].expand(50, 3, 4, 6)
    pictures = torch.stack([torch.full((3, 4, 6), value) for value in (-1.0, 0.0, 1.0)])
    sheet = sheet_of(pictures, context)
    # two rows of two, with a white line between
    assert sheet.shape == (11, 15, 3)
    assert sheet[2, 2].tolist() == [0, 0, 0]
    assert sheet[2, 9].tolist() == pytest.approx([0.5] * 3, abs=0.01)
    assert sheet[7, 2].tolist() == [1, 1, 1]
    assert sheet[0].min() == sheet[5].min() == 1.0


def test_points_are_drawn_in_the_plane(tmp_path: Path, generator: torch.Generator) -> None:
    points = torch.randn(40, 6, generator=generator)
    samples_figure(points[:5], points, tmp_path / "points.png")
    assert (tmp_path / "points.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--draw", 0), "`--draw` must be at least 1"),
        (("--steps", 1), "`--steps` must be at least 2"),
        (("--shift", 0), "`--shift` must be positive"),
        (("--out", "drawn.npz"), "`--out` must end in .png, .pdf, .svg; received drawn.npz. Remedy: numbers"),
        (("--save", "drawn.png"), "must end in .npy, .npz, .safetensors"),
        (("--guidance", 2), "`--guidance` needs classes"),
        (("--labels", 7), "`--labels` must be classes of the data"),
    ],
)
def test_a_wrong_argument_is_one_line_and_leaves_nothing(
    options: tuple[object, ...], message: str, data: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert_refused(capsys, message, "sample", "--data", data, "--data-key", "points", *options)
    assert [file.name for file in tmp_path.iterdir()] == ["data.safetensors"]


def test_an_interrupted_run_leaves_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    calls = interrupt_engine(monkeypatch, "velocity", 3)
    assert run("sample", "--data", data, "--data-key", "points", "--save", "x.npz") == 130
    assert len(calls) == 3
    assert [file.name for file in tmp_path.iterdir()] == ["data.safetensors"]


def test_what_is_missing_is_said_before_any_work(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run("sample", "--data", data, "--data-key", "points") == 2
    assert 'pip install -e ".[plot]"' in capsys.readouterr().err
    assert run("sample", "--data", data, "--data-key", "points", "--draw", 2, "--steps", 3, "--no-figure") == 0
    assert "nothing written" in capsys.readouterr().out
