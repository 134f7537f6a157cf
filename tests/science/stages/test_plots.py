from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from interruptions import interrupt_figures

from oracle_engine import MissingDependencyError, OracleDataset, OracleEngine
from oracle_engine.data.values import is_picture
from oracle_engine.science.pictures import Colours, sheet_of
from oracle_engine.science.stages.analysis import analyse
from oracle_engine.science.stages.frames import picture_frames, plane_frames
from oracle_engine.science.stages.plots import stages_figure
from oracle_engine.science.stages.report import StageReport


def report_of(shape: tuple[int, ...], generator: torch.Generator, times: list[float] | None = None) -> StageReport:
    data = OracleDataset(torch.randn(40, *shape, generator=generator))
    # most of the time of a figure goes into its small pictures
    return analyse(OracleEngine(data), times=times or [0.05, 0.2, 0.4, 0.7, 0.95], queries=12, strip_times=3)


@pytest.mark.parametrize(
    ("shape", "picture"),
    [
        ((8, 8), True),
        ((1, 8, 8), True),
        ((3, 8, 8), True),
        ((4, 8, 8), True),
        ((8, 8, 3), True),
        ((2,), False),
        ((), False),
    ],
)
def test_a_figure_of_every_kind_of_sample(
    shape: tuple[int, ...], picture: bool, generator: torch.Generator, tmp_path: Path
) -> None:
    assert is_picture(shape) == picture
    stages_figure(report_of(shape, generator), tmp_path / "stages.png")
    assert [file.name for file in tmp_path.iterdir()] == ["stages.png"]
    assert (tmp_path / "stages.png").read_bytes().startswith(b"\x89PNG")


def test_a_figure_of_one_time_and_of_a_single_sample(tmp_path: Path, generator: torch.Generator) -> None:
    stages_figure(report_of((2,), generator, [0.3]), tmp_path / "one.pdf")
    assert (tmp_path / "one.pdf").read_bytes().startswith(b"%PDF")
    single = analyse(OracleEngine(OracleDataset(torch.ones(1, 4, 4))), times=[0.1, 0.5], queries=3)
    stages_figure(single, tmp_path / "single.svg")
    assert b"<svg" in (tmp_path / "single.svg").read_bytes()


def test_pictures_fill_the_range_of_the_data(generator: torch.Generator) -> None:
    strip = report_of((3, 8, 8), generator).strip
    assert strip is not None
    frames = picture_frames(strip)
    assert frames.denoised.shape == (6, len(strip.times), 8, 8, 3)
    for part in (frames.noisy, frames.denoised, frames.samples):
        assert bool(((part >= 0) & (part <= 1)).all())
    assert float(frames.samples.min()) < 0.05
    assert float(frames.samples.max()) > 0.95


def test_pictures_with_channels_last_are_the_same_pictures(generator: torch.Generator) -> None:
    points = torch.rand(12, 3, 8, 6, generator=generator)
    sheets = [sheet_of(part[:4], part) for part in (points, points.movedim(1, 3))]
    assert torch.equal(sheets[0], sheets[1])
    shown = [Colours.of(part).shown(part[:4]) for part in (points, points.movedim(1, 3))]
    assert torch.equal(shown[0], shown[1])
    strip = report_of((8, 6, 3), generator).strip
    assert strip is not None
    assert picture_frames(strip).denoised.shape == (6, len(strip.times), 8, 6, 3)


def test_planes_show_the_directions_that_vary_most(generator: torch.Generator) -> None:
    points = torch.randn(200, 6, generator=generator) * torch.tensor([0.1, 5.0, 0.1, 0.1, 2.0, 0.1])
    strip = analyse(OracleEngine(OracleDataset(points)), times=[0.3, 0.9], queries=8).strip
    assert strip is not None
    frames = plane_frames(strip)
    assert frames.noisy.shape == (6, len(strip.times), 2)
    assert frames.context.std(0).tolist() == pytest.approx([5.0, 2.0], rel=0.2)


def test_a_figure_that_fails_leaves_nothing(
    tmp_path: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_figures(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        stages_figure(report_of((2,), generator), tmp_path / "stages.png")
    assert list(tmp_path.iterdir()) == []


def test_matplotlib_that_is_missing_is_named(
    tmp_path: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = report_of((2,), generator)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r'pip install -e "\.\[plot\]"'):
        stages_figure(report, tmp_path / "stages.png")
