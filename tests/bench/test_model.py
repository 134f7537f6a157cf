from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from bench.gate.kept import Kept, read
from bench.gpu_cases import Case
from bench.model import __main__ as model
from bench.model.from_cache import from_cache
from bench.model.launches import Card, Launch, together
from bench.model.prediction import Prediction, predicted, predicted_once
from bench.record import read_json
from oracle_engine.kernels.gpu.core.tiles import ScoreConfig
from oracle_engine.kernels.gpu.tools.jobs import Job

KEPT = read()
CARD = model.card_of(None)


def seconds_of(case: Case, batch: int, *, early: bool = True, card: Card = CARD, kept: Kept = KEPT) -> Prediction:
    return predicted(case, batch, kept, card, early=early)


def test_predictions_follow_what_they_are_made_of() -> None:
    case = Case(200_000, 4096, torch.float16, (64,))
    early, late = seconds_of(case, 64), seconds_of(case, 64, early=False)
    # all rows weigh: they are read once more
    assert set(early.kernels) - set(late.kernels) == {"dense"}
    assert early.floor <= early.seconds
    assert late.floor <= late.seconds < early.seconds
    slow = Card(CARD.machine, CARD.read / 10, CARD.product)
    assert seconds_of(case, 64, card=slow).kernels["score"][1] == "memory"
    assert seconds_of(case, 64, card=slow).seconds > early.seconds
    weak = Card(CARD.machine, CARD.read, CARD.product / 10)
    assert seconds_of(case, 256, card=weak).kernels["score"][1] in ("unit", "waits")


def test_one_read_takes_half_the_time_where_memory_sets_the_pace() -> None:
    case = Case(1_280_000, 4096, torch.float16, (1,))
    once = predicted_once(case, KEPT, CARD)
    assert once is not None
    assert once.seconds < 0.65 * seconds_of(case, 1).seconds
    assert predicted_once(Case(1_280_000, 12_288, torch.float16, (1,)), KEPT, CARD) is None
    assert predicted_once(Case(50_000, 3072, torch.uint8, (1,)), KEPT, CARD) is None


def test_a_persistent_kernel_pays_for_each_block_what_it_saves_of_memory() -> None:
    case = Case(1_280_000, 4096, torch.float16, (16, 64))
    few, many = (from_cache(case, batch, KEPT, CARD) for batch in case.batches)
    # few queries leave time to wait for each other, and many do not
    assert few.once < few.today
    assert many.once > many.today
    for found in (few, many):
        assert (found.block < found.allowed) == (found.once < found.today)
    # a card with less memory bandwidth gains more
    slow = Card(CARD.machine, CARD.read / 3, CARD.product)
    assert from_cache(case, 16, KEPT, slow).once < 0.65 * from_cache(case, 16, KEPT, slow).today


def test_a_launch_counts_what_its_tile_multiplies() -> None:
    launch = Launch(Job("sm_90", "score", torch.float16, ScoreConfig(128, 64, 64, 4, 4)), 10, 64, 1e6)
    # two parts of a query
    assert launch.operations == 2 * 2 * 128 * 64 * 64
    assert launch.cached == 64 * (128 + 2 * 64) * 2
    seconds, bound = together({"memory": 1.0, "unit": 0.1})
    assert bound == "memory"
    assert 1.0 < seconds < 1.01


def test_the_table_names_predictions_beside_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert model.main([]) == 0
    text = capsys.readouterr().out
    assert "predicted ms" in text
    assert "predicted / measured: " in text
    assert "in one read" in text
    document = read_json(model.MEASURED)
    ratios = [float(cells[5]) for cells in model.lines(KEPT, document) if cells[5] != "-"]
    # what was measured with these kernels; others would have to be measured again
    assert len(ratios) > 40
    assert 0.8 < sorted(ratios)[len(ratios) // 2] < 1.25


def test_without_a_results_file_all_are_predictions(capsys: pytest.CaptureFixture[str]) -> None:
    assert model.main(["--results", "nowhere.json"]) == 0
    assert "nothing was measured" in capsys.readouterr().out
