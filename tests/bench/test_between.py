"""A velocity is timed after whatever a process may have done before."""

from __future__ import annotations

import json

import pytest

from bench import between


def test_every_case_is_timed_after_each_kind_of_work(capsys: pytest.CaptureFixture[str]) -> None:
    between.main(["--data", "digits", "--batch", "3,9", "--t", ".1,.6", "--rounds", "1"])
    rows = json.loads(capsys.readouterr().out)
    assert [(row["batch"], row["t"]) for row in rows] == [(3, 0.1), (3, 0.6), (9, 0.1), (9, 0.6)]
    for row in rows:
        assert set(row["ms"]) == {"velocity", "network", "pause of 5 ms", "pause of 50 ms"}
        assert min(row["ms"].values()) > 0.0


def test_a_set_that_is_not_there_is_named() -> None:
    with pytest.raises(SystemExit, match=r"absent\.npy"):
        between.main(["--data", "absent.npy"])
