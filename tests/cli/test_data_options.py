"""What every command says of its data: pictures, their size and labels, by the same options."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("PIL")

from command_line import assert_refused, run, run_json
from picture_files import by_class, encoded, pixels, write_folder
from tolerances import assert_close

import oracle_engine as oe
from oracle_engine.cli.serve_models import named_engines
from oracle_engine.data import picture_cache


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of 12 pictures in three classes, in the current folder, and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORACLE_CACHE", str(tmp_path / "cache"))
    return write_folder(tmp_path / "photos", by_class(pixels())[0])


def test_a_folder_of_600_pictures_becomes_a_figure(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    many = write_folder(tmp_path / "many", by_class(pixels(600))[0])
    command = ["stages", "--data", many, "--queries", 4, "--times", 0.1, 0.5, "--out"]
    assert run(*command, "one") == 0
    said = capsys.readouterr().out
    assert "many: N = 600 samples, D = 192 (3 x 8 x 8, uint8), from a folder of pictures" in said
    assert "uint8 -> 2 x/255 - 1, values in [-1, 1]" in said
    assert Path("one/stages.png").read_bytes().startswith(b"\x89PNG")

    def fail(*arguments: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(picture_cache, "decode", fail)
    assert run(*command, "two", "--no-figure") == 0
    first, second = (json.loads(Path(name, "stages.json").read_text()) for name in ("one", "two"))
    assert first["data"]["fingerprint"] == second["data"]["fingerprint"]
    assert first["points"][0]["top_weight"] == second["points"][0]["top_weight"]


def test_size_gray_and_labels_are_options(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("labels.npy", np.arange(12) % 4)
    facts = run_json(capsys, "plan", "--data", photos, "--size", "4x6", "--gray", "--labels-file", "labels.npy")
    assert "a folder of pictures, 12 x [1, 4, 6] uint8" in facts["data"]
    assert "4 classes" in facts["data"]


def test_held_out_pictures_get_the_same_form(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(Path("unseen"), [(f"{n}.png", encoded(picture)) for n, picture in enumerate(pixels(4, side=16))])
    command = ["stages", "--data", photos, "--queries", 4, "--times", 0.1, 0.5, "--no-figure", "--size", 4]
    assert run_json(capsys, *command, "--held-out", "unseen")["held_out"] is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "mixed"], "found a picture of 4 x 4, and 2 sizes in all. Remedy: pass --size 64, which crops"),
        (["--data", "digits", "--size", "8"], "`--size` has no meaning for the built-in set 'digits'"),
        (["--data", "photos", "--labels-file", "no.txt"], "no.txt: expected a readable file; found No such file"),
        (["--data", "photos", "--labels-file", "bad.txt"], "bad.txt: expected 12 labels, one a sample"),
    ],
)
def test_what_cannot_be_read_is_said_in_options(
    arguments: list[str], message: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(Path("mixed"), [("a.png", encoded(pixels(1)[0])), ("b.png", encoded(pixels(1, side=4)[0]))])
    Path("bad.txt").write_text("1\n")
    assert_refused(capsys, message, "plan", *arguments)


@pytest.mark.parametrize("text", ["0", "axb", "4x4x4", "-3", ""])
def test_sizes_that_are_none(text: str, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("plan", "--data", photos, f"--size={text}")
    assert "argument --size: must be a whole number, or HEIGHTxWIDTH" in capsys.readouterr().err


def test_gaussians_of_latents_are_answered_by_a_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], generator: torch.Generator
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("latents").mkdir()
    moments = torch.rand(4, 2, 3, 3, generator=generator)
    for number, part in enumerate(moments):
        np.save(f"latents/img-mean-std-{number:08d}.npy", part.numpy())
    x = torch.randn(5, 1, 3, 3, generator=generator)
    np.save("x.npy", x.numpy())
    command = ["velocity", "x.npy", "v.npy", "--data", "latents", "--t", 0.5, "--gaussians"]
    assert "PointGaussians(4 x [1, 3, 3]" in run_json(capsys, *command)["data"]
    wanted = oe.PointGaussians.from_moments(moments).velocity(x, 0.5)
    assert np.array_equal(np.load("v.npy"), wanted.numpy())
    assert_refused(capsys, "`--count` has no meaning with --gaussians", *command, "--count", 2)
    assert_refused(capsys, "x.npy: expected latents with means and widths", *command[:4], "x.npy", *command[5:])


def test_the_models_of_a_server_name_size_and_labels(photos: Path, unchecked: None) -> None:
    np.save("labels.npy", np.arange(12) % 2)
    text = '[models.a]\ndata = "photos"\nsize = [4, 4]\ngray = true\nlabels_file = "labels.npy"\n'
    Path("models.toml").write_text(text)
    arguments = Namespace(config="models.toml", seed=0)
    engine = named_engines(arguments)["a"][0]
    assert engine.data.sample_shape == (1, 4, 4)
    assert sorted(engine.data.segments) == [0, 1]
    for wrong, found in (("gray = 1", "gray = 1"), ("size = true", "size = True"), ("size = [1, 2, 3]", "size")):
        Path("models.toml").write_text(f'[models.a]\ndata = "photos"\n{wrong}\n')
        with pytest.raises(oe.OracleError, match=found):
            named_engines(arguments)


def test_a_job_answers_over_pictures(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("x.npy", np.zeros((3, 3, 4, 4), np.float32))
    options = ("--data", photos, "--size", 4, "--t", 0.5, "--shards", 2)
    assert run("job", "x.npy", "out.d", *options) == 0
    answers = next(path for path in Path("out.d").iterdir() if path.suffix in (".npy", ".safetensors"))
    found = np.load(answers) if answers.suffix == ".npy" else load_file(answers)["velocity"].numpy()
    wanted = oe.OracleEngine(oe.load_dataset(photos, size=4)).velocity(torch.zeros(3, 3, 4, 4), 0.5)
    assert_close(torch.as_tensor(found), wanted, "bar")


def test_pictures_need_no_packing(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(capsys, "Remedy: leave pictures as they are: they are packed below ORACLE_CACHE", "pack", photos)
