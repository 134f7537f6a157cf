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
