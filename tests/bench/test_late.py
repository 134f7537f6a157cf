from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from truth_cases import exact_velocity

from bench.late import __main__ as late
from bench.late.passages import late_passage
from bench.late.record import EXACT, LateRow, late_rows
from bench.late.split import HELD_OUT, Split
from bench.record import read_json
from oracle_engine import load_dataset
from oracle_engine.compare.floors import Rates
from oracle_engine.compare.peers import Centred
from oracle_engine.compare.peers.nearest import FLAT, faiss_peers
from oracle_engine.compare.truth import BAR, relative_error
from oracle_engine.compare.workloads import HELD, TRAINING


@pytest.fixture(scope="module")
def split() -> Split:
    return Split.load("digits", 1200)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("faiss")
    path = tmp_path_factory.mktemp("late") / "late.json"
    options = ["--data", "digits", "--count", "1200", "--batch", "8", "--t", ".9", "--budget", "0", "--steps", "3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rates, "measured", lambda: Rates(1e10, 1e11, "torch copy", "NumPy 64 x 64"))
        late.main([*options, "--json", str(path), "--cache", str(path.with_name("cache"))])
    return path


def test_held_out_samples_are_not_in_the_data(split: Split) -> None:
    full = load_dataset("digits", count=1200 + HELD_OUT)
    together = torch.cat([split.data[:], split.held]).flatten(1)
    assert len(split.data) == 1200
    # every sample of the set is in one of the two, as often as it was
    torch.testing.assert_close(together.sort(dim=0).values, full[:].flatten(1).sort(dim=0).values)
    source = split.workload(TRAINING, 5, 0.999999).draw().source
    assert source is not None
    torch.testing.assert_close(
        split.workload(TRAINING, 5, 0.999999).draw().x, split.data[source].float(), atol=1e-4, rtol=1e-4
    )
    assert split.workload(HELD, 5, 0.5).draw().source is None


def test_nearest_neighbours_give_the_velocity_where_they_hold_the_mass(split: Split) -> None:
    pytest.importorskip("faiss")
    batch = split.workload(HELD, 16, 0.9).draw()
    flat = faiss_peers(Centred.of(split.data), None, "digits")[FLAT]
    assert relative_error(flat.velocity(batch), exact_velocity(split.data, batch)) <= BAR


def test_every_side_is_measured_and_the_rows_survive_the_file(file: Path) -> None:
    rows = late_rows(json.loads(file.read_text()))
    assert [(row.queries, row.t) for row in rows] == [
        *((TRAINING, "mixed"), ("ode", "3 steps"), (HELD, "0.9"), (TRAINING, "0.9")),
    ]
    assert list(rows[2].sides) == [EXACT, "auto 1e-3", "auto 1e-6", FLAT, "faiss-ivf1024-16", "faiss-ivf1024-64"]
    assert list(rows[1].sides) == [EXACT, "auto 1e-3", "auto 1e-3 trajectory"]
    assert rows[3].sides["auto 1e-3 source"].rounds == 3
    for row in rows:
        check(row)


def check(row: LateRow) -> None:
    for name, side in row.sides.items():
        assert side.median_ms > 0
        assert side.ratio == 1.0 if name == EXACT else side.ratio > 0
        if name.startswith("auto") and side.stated_error is not None:
            assert side.stated_error <= float(name.split()[1])
            # both routes are rounded
            assert side.true_error <= side.stated_error + 2 * BAR
            assert sum(side.routes.values()) == pytest.approx(1.0)
        if side.recall is not None and side.recall_5 is not None:
            assert 0.0 <= side.recall_5 <= side.recall <= 1.0


def test_the_table_the_passage_and_the_figure_come_from_the_file(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late.main(["--table", str(file)])
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 1 + 5 + 3 + 6 + 5
    passage = " ".join(late_passage(read_json(file), file).split())
    assert "| digits, 1,200 x 64 uint8 | held out | " in passage
    assert "ODE of 3 steps through `trajectory`" in passage
    assert "The exact route has " in passage
    assert "faiss-flat" in passage
    late.main(["--figure", str(file), "--out", str(file.with_suffix(".png"))])
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
