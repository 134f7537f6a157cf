"""The commands `paper` and `copies`: files, words, and what they refuse before any work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import assert_refused, run, run_json
from safetensors.torch import save_file


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator, unchecked: None) -> Path:
    monkeypatch.chdir(tmp_path)
    points = torch.randn(60, 1, 4, 4, generator=generator)
    save_file({"points": points, "labels": torch.arange(60) % 3}, "data.safetensors")
    np.save("unseen.npy", torch.randn(10, 1, 4, 4, generator=generator).numpy())
    np.save("drawn.npy", torch.cat([points[:5], torch.randn(15, 1, 4, 4, generator=generator)]).numpy())
    (tmp_path / "mine.py").write_text("def model(x, t):\n    return -x\n")
    return tmp_path


def test_a_table_of_a_file_of_data(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = run_json(capsys, "paper", "table2", "--quick", "--data", "data.safetensors", "--out", "out")
    assert facts["files"] == ["out/table2.json"]
    assert json.loads(Path("out/table2.json").read_text()) == facts["table2"]
    assert facts["table2"]["facts"]["N"] == 60


def test_a_figure_of_a_model_of_ones_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    options = ("--quick", "--data", "data.safetensors", "--model", "mine:model", "--format", "svg")
    facts = run_json(capsys, "paper", "fig7", *options, "--held-out", "unseen.npy")
    assert {row["model"] for row in facts["fig7"]["rows"]} == {"mine:model"}
    assert b"<svg" in Path("fig7.svg").read_bytes()
    assert_refused(capsys, "`--held-out` must be given", "paper", "fig6", *options)
    assert_refused(capsys, "`--model` must", "paper", "fig5", "--data", "data.safetensors", "--model", "mine:none")
    foreign = ("--data", "data.safetensors", "--model", "mine:model", "--convention", "dit")
    assert_refused(capsys, "DDPM", "paper", "fig5", *foreign)
    assert sorted(path.name for path in here.glob("fig*")) == ["fig7.json", "fig7.svg"]


def test_checkpoints_by_their_numbers_and_a_metric_of_ones_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "other.py").write_text("def step_20(x, t):\n    return x\ndef mean(x, data):\n    return float(x.mean())\n")
    data = ("--quick", "--data", "data.safetensors", "--no-figure")
    models = ("--model", "other:step_20", "mine:model")
    facts = run_json(capsys, "paper", "fig8", *data, *models, "--held-out", "unseen.npy")
    assert [row["step"] for row in facts["fig8"]["rows"]] == [1, 20]
    facts = run_json(capsys, "paper", "table3", *data, "--metric", "other:mean")
    assert facts["table3"]["rows"][0]["+-"] is None
    assert_refused(capsys, "`--metric` must", "paper", "table3", *data, "--metric", "other:none")


def test_copies_are_counted_and_shown(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    facts = run_json(capsys, "copies", "drawn.npy", "--data", "data.safetensors", "--out", "out")
    assert facts["copy_rate"] == 0.25
    assert facts["nearest"][:5] == [0, 1, 2, 3, 4]
    assert Path("out/copies.png").read_bytes().startswith(b"\x89PNG")
    assert (
        run("sample", "--data", "data.safetensors", "--draw", 4, "--steps", 20, "--save", "s.npz", "--no-figure") == 0
    )
    drawn = run_json(capsys, "copies", "s.npz", "--data", "data.safetensors", "--no-figure")
    assert drawn["copy_rate"] == 1.0
    assert_refused(capsys, "`--threshold`", "copies", "drawn.npy", "--data", "data.safetensors", "--threshold", 0)
    np.save("other.npy", np.zeros((3, 5), np.float32))
    assert_refused(capsys, "`IN` must hold samples like", "copies", "other.npy", "--data", "data.safetensors")


def test_copies_among_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str], generator: torch.Generator) -> None:
    pillow = pytest.importorskip("PIL.Image")
    pixels = torch.randint(0, 256, (20, 8, 8, 3), generator=generator).to(torch.uint8).numpy()
    for folder, numbers in {"data": range(16), "drawn": (3, 5, 18, 19)}.items():
        (tmp_path / folder).mkdir()
        for number in numbers:
            pillow.fromarray(pixels[number]).save(tmp_path / folder / f"{number:02d}.png")
    data = ("--data", tmp_path / "data", "--no-figure", "--out", tmp_path)
    facts = run_json(capsys, "copies", tmp_path / "drawn", *data)
    assert (facts["copy_rate"], facts["nearest"][:2]) == (0.5, [3, 5])
    pillow.fromarray(pixels[0, :4]).save(tmp_path / "drawn" / "20.png")
    assert_refused(capsys, "pass --size 64", "copies", tmp_path / "drawn", *data)
    assert_refused(capsys, "`IN` must be a path that exists", "copies", tmp_path / "none", *data)
    pillow.fromarray(pixels[3]).save(tmp_path / "data" / "twice.png")
    facts = run_json(capsys, "copies", tmp_path / "drawn", *data, "--size", 8)
    assert [facts[name] for name in ("generated", "equal", "hidden")] == [5, 2, 1]
    assert_refused(capsys, "`--samples-key`", "copies", tmp_path / "drawn", *data, "--size", 8, "--samples-key", "x")
