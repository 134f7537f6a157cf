"""`oracle-engine bench` on a small set: rows, files, the closing sentence, and what is refused before any work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import assert_refused, run, run_json

from oracle_engine.compare import sweep
from oracle_engine.compare.floors import Rates
from oracle_engine.compare.sides import DEFAULT

SIDES = "ours,eager,difference-tensor,random-pool,fixed-200,keops"


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file, and a machine whose rates are known."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Rates, "measured", lambda: Rates(1e10, 1e11, "torch copy", "NumPy 64 x 64"))
    points = np.random.default_rng(0).normal(size=(700, 24)).astype(np.float32)
    np.save("my.npy", points)


def test_rows_a_figure_and_a_sentence_come_out(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", "my.npy", "--batch", "8", "--t", ".1,.95", "--sides", SIDES, "--budget", 0]
    facts = run_json(capsys, "bench", *options, "--out", "out")
    assert [(row["batch"], row["t"]) for row in facts["rows"]] == [(8, "0.1"), (8, "0.95")]
    first = facts["rows"][0]["sides"]
    assert first["ours"]["within"]
    assert first["ours"]["queries_per_second"] > 0
    assert first["random-pool"]["within"] is False
    assert first["random-pool"]["median_ms"] is None
    assert 0 < first["random-pool"]["missed"] < 1
    # late the 200 nearest hold everything
    assert facts["rows"][1]["sides"]["fixed-200"]["within"]
    assert facts["densities"][0]["sides"]["ours"]["within"]
    assert set(SIDES.split(",")) == {*first, *facts["left_out"]}
    assert "take " in facts["advice"]
    assert json.loads(Path("out/bench.json").read_text())["advice"] == facts["advice"]
    assert Path("out/bench.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_ends_in_the_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "BUDGET", 0.0)
    monkeypatch.setattr(sweep, "SWEPT_SHARES", (0.5, 1.0))
    monkeypatch.setattr(sweep, "SWEPT_BATCHES", (4,))
    monkeypatch.setattr(sweep, "SWEPT_TIMES", (0.5,))
    options = ["--t", ".5", "--batch", "4", "--sides", "ours,random-pool", "--budget", 0, "--no-figure", "--sweep"]
    assert run("bench", "--data", "my.npy", *options) == 0
    captured = capsys.readouterr().out
    assert "my, 700 x 24 float32" in captured
    table = next(line for line in captured.splitlines() if " random-pool " in line)
    assert "!" in table
    assert "exponent" in captured
    assert captured.splitlines()[-3].startswith("For a relative error below 1e-05 take ours everywhere")
    assert not Path("bench.png").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--t", "1.0"], "`--t` must lie in [0.001, 0.999]"),
        (["--batch", "99999999999999"], "`--batch` must need less memory"),
        (["--batch", "0"], "`--batch` must be whole numbers of at least 1"),
        (["--sides", "ours,magic"], "`--sides` must be some of ours"),
        (["--tolerance", "0"], "`--tolerance` must lie in"),
        (["--budget", "-1"], "`--budget` must be seconds"),
        (["--data", "absent.npy"], "absent.npy"),
    ],
)
def test_what_cannot_be_measured_is_refused(capsys: pytest.CaptureFixture[str], options: list[str], words: str) -> None:
    assert_refused(capsys, words, "bench", *(["--data", "my.npy"] if "--data" not in options else []), *options)


def test_a_word_that_is_no_number_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("bench", "--data", "my.npy", "--t", "early")
    assert "must be comma-separated numbers" in capsys.readouterr().err


def test_every_side_that_runs_by_default_can_be_named() -> None:
    assert len(set(DEFAULT)) == len(DEFAULT) > 12
