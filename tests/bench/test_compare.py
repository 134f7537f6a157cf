"""Two commits: what noise alone does is no change, and what is more than noise is one."""

from __future__ import annotations

import random
import subprocess
from argparse import Namespace
from pathlib import Path

import pytest

from bench.compare import AGAIN, FASTER, NEW, NOISE, OLD, ROOT, SLOWER, asked, band, change_of, measured, native


def rounds(factor: float, spread: float, count: int = 15, seed: int = 0) -> dict[str, list[float]]:
    """Return seconds of sides of which NEW takes `factor` times as long, each off by up to a share `spread`."""
    draw = random.Random(seed)
    factors = {OLD: 1.0, AGAIN: 1.0, NEW: factor}
    return {
        name: [value * (1 + draw.uniform(-spread, spread)) for _ in range(count)] for name, value in factors.items()
    }


@pytest.mark.parametrize(("factor", "verdict"), [(0.8, FASTER), (1.0, NOISE), (1.25, SLOWER)])
def test_a_change_beyond_the_noise_is_told(factor: float, verdict: str) -> None:
    change = change_of(64, 0.5, rounds(factor, 0.05))
    assert change.verdict == verdict
    assert change.ratio == pytest.approx(factor, rel=0.06)
    assert change.cells[-1] == verdict


def test_two_equal_commits_are_hardly_ever_told_apart() -> None:
    told = [change_of(1, 0.5, rounds(1.0, 0.3, seed=seed)).verdict for seed in range(20)]
    assert told.count(NOISE) >= 17


def test_the_band_grows_with_the_noise() -> None:
    quiet, loud = ([spread * value for value in (-1.0, 0.4, -0.2, 0.9, 0.1)] for spread in (0.01, 0.1))
    assert 0 < band(quiet) < band(loud)
    assert band([0.0] * 5) == 0.0


def test_sides_take_turns_in_rotated_order() -> None:
    order: list[str] = []

    class Told:
        def __init__(self, name: str) -> None:
            self.name = name

        def seconds(self, work: object) -> float:
            order.append(self.name)
            return 1.0

    change = measured({name: Told(name) for name in (OLD, AGAIN, NEW)}, {"batch": 2, "t": 0.5}, 2)
    assert order == [OLD, AGAIN, NEW, AGAIN, NEW, OLD]
    assert (change.verdict, change.band) == (NOISE, 1.0)


def test_a_process_answers_with_the_package_of_its_folder() -> None:
    with asked(ROOT, Namespace(data="digits", count=200)) as side:
        assert side.said()["backend"] in ("native", "torch")
        assert 0 < side.seconds({"batch": 2, "t": 0.5, "clock": "cpu"}) < 60


def test_native_kernels_of_equal_sources_are_taken_as_they_are(tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", str(ROOT / "kernels"), str(tmp_path / "kernels")], check=True)
    lib = tmp_path / "kernels" / "native" / "lib"
    subprocess.run(["rm", "-rf", str(lib)], check=True)
    native(tmp_path)
    assert lib.exists() == (ROOT / "kernels" / "native" / "lib").exists()
