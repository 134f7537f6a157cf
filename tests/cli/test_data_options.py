"""What every command says of its data: pictures, their size and labels, by the same options."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL")

from command_line import assert_refused, run, run_json
from picture_files import by_class, encoded, pixels, write_folder

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
