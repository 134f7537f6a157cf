"""A packed folder starts at once and answers as before; what is missing, changed or new is refused by name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from closed_form import clusters, normal
from command_line import run, run_json
from safetensors.torch import load_file, save_file
from shard_cases import bytes_read, leave_in_files, write_shards

import oracle_engine as oe
from oracle_engine.base.outside.rows import OutsideRows
from oracle_engine.data.packs.manifest import MANIFEST

COUNT, DIM = 240, 16


@pytest.fixture
def folder(tmp_path: Path, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four shards of samples with labels in any order, which are left in their files."""
    leave_in_files(monkeypatch, 4096)
    points, labels = clusters(COUNT, DIM, generator).float(), torch.randint(-1, 5, (COUNT,), generator=generator)
    return write_shards(tmp_path / "data", points, labels, 4)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_packed_folder_is_the_data_set_that_it_was(folder: Path, generator: torch.Generator) -> None:
    before, plain = contents(folder), oe.load_dataset(folder)
    report = oe.pack(folder)
    assert (report.shards, report.measured, report.samples) == (4, 4, COUNT)
    after = contents(folder)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {MANIFEST, *(f"{name}.pack" for name in before)}
    packed = oe.load_dataset(folder)
    assert repr(packed) == repr(plain)
    assert torch.equal(packed[:], plain[:])
    assert packed.segments == plain.segments
    assert torch.equal(packed.rows.centre, plain.rows.centre)
    assert torch.equal(packed.rows.half_norms, plain.rows.half_norms)
    assert (packed.rows.radius, packed.rows.stored_radius) == (plain.rows.radius, plain.rows.stored_radius)
    assert packed.rows.copies == plain.rows.copies
    assert packed.variance_per_dim == pytest.approx(plain.variance_per_dim)
    x, t = normal(6, DIM, generator), torch.linspace(0.1, 0.9, 6)
    asked = {"labels": torch.arange(6) % 5}
    ours, theirs = (oe.OracleEngine(data, mode="exact").velocity(x, t, **asked) for data in (packed, plain))
    assert torch.equal(ours, theirs)


def test_labels_weights_and_the_range_may_be_others(folder: Path) -> None:
    def load() -> oe.OracleDataset:
        labels, weights = torch.arange(COUNT) % 3, 1.0 + torch.arange(COUNT)
        return oe.load_dataset(folder, labels=labels, weights=weights, value_map=oe.ValueMap(2.0, 1.0))

    plain = load()
    oe.pack(folder)
    packed = load()
    assert packed.fingerprint == plain.fingerprint
    assert torch.equal(packed.rows.half_norms, plain.rows.half_norms)
    # what needs copies of samples reads them as before
    assert len(oe.load_dataset(folder, count=20)) == 20


def test_the_second_start_reads_next_to_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_in_files(monkeypatch, 1 << 20)
    (tmp_path / "data").mkdir()
    for number in range(2):
        values = np.random.default_rng(number).integers(0, 256, (4000, 3072), dtype=np.uint8)
        np.save(tmp_path / "data" / f"{number}.npy", values)
    oe.pack(tmp_path / "data")
    before = bytes_read()
    data = oe.load_dataset(tmp_path / "data")
    assert isinstance(data.rows.stored, OutsideRows)
    assert len(repr(data)) > 0
    assert data.variance_per_dim > 0
    assert len(data.fingerprint) == 32
    # and 96 kilobytes of pages that are looked at to tell a change in place
    assert bytes_read() - before < 0.01 * data.rows.stored.nbytes


def test_only_new_shards_are_measured(folder: Path) -> None:
    late = folder / "shard3.safetensors"
    late.rename(folder.parent / "late")
    assert oe.pack(folder).measured == 3
    assert oe.pack(folder).measured == 0
    written = {path: path.stat().st_mtime_ns for path in folder.glob("*.pack")}
    (folder.parent / "late").rename(late)
    with pytest.raises(oe.DataFileError, match=r"shard3.safetensors: .*found one that was not.*reads only what is new"):
        oe.load_dataset(folder)
    assert oe.pack(folder).measured == 1
    assert all(path.stat().st_mtime_ns == modified for path, modified in written.items())
    assert len(oe.load_dataset(folder)) == COUNT


def flip(path: Path, place: int = -5) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def flip_unseen(path: Path, place: int = -5) -> None:
    """Flip a bit and set the time of the file back, as a failing disk would."""
    times = path.stat()
    flip(path, place)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def swap(folder: Path) -> None:
    """Give two shards of one size and time each other's name."""
    first, second = folder / "shard1.safetensors", folder / "shard2.safetensors"
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (lambda folder: flip(folder / "shard2.safetensors"), "shard2.safetensors: .*written to, or replaced, since"),
        (lambda folder: (folder / "shard2.safetensors").unlink(), "shard2.safetensors: .*found no file"),
        (swap, "shard1.safetensors: .*written to, or replaced, since"),
        (lambda folder: flip(folder / "shard0.safetensors.pack"), "shard0.safetensors.pack: expected .*"),
        (lambda folder: (folder / "shard0.safetensors.pack").unlink(), "shard0.safetensors.pack: .*found no file"),
        (lambda folder: flip(folder / MANIFEST), "manifest.json: expected the manifest .*"),
    ],
)
def test_a_start_names_what_is_not_as_it_was(folder: Path, harm: Callable[[Path], None], named: str) -> None:
    oe.pack(folder)
    harm(folder)
    with pytest.raises(oe.DataFileError, match=f"{named}.*Remedy: "):
        oe.load_dataset(folder)


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (lambda folder: flip(folder / "shard2.safetensors", -2500), "shard2.safetensors: .*found other content"),
        (lambda folder: (folder / "shard2.safetensors").unlink(), "shard2.safetensors: .*found no file"),
        (swap, "shard[12].safetensors: .*found other content"),
    ],
)
def test_another_pack_does_not_take_a_changed_shard_for_the_old_one(
    folder: Path, harm: Callable[[Path], None], named: str
) -> None:
    oe.pack(folder)
    harm(folder)
    for verify in (False, True):
        with pytest.raises(oe.DataFileError, match=f"{named}.*Remedy: "):
            oe.pack(folder, verify=verify)


@pytest.mark.parametrize("place", [-5, 3000, 9])
def test_verify_finds_a_flipped_bit_wherever_it_is(folder: Path, place: int) -> None:
    oe.pack(folder)
    assert oe.pack(folder, verify=True).verified == 4
    flip_unseen(folder / "shard3.safetensors", place)
    with pytest.raises(oe.DataFileError, match=r"shard3.safetensors: .*(samples \d+ to \d+|before or after|damaged)"):
        oe.pack(folder, verify=True)


def test_swapped_shards_of_one_size_and_time_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_in_files(monkeypatch)
    for number in range(2):
        np.save(tmp_path / f"shard{number}.npy", np.random.default_rng(number).random((50, 8)))
        os.utime(tmp_path / f"shard{number}.npy", ns=(10**18, 10**18))
    oe.pack(tmp_path)
    for name, other in (("shard0.npy", "x"), ("shard1.npy", "shard0.npy"), ("x", "shard1.npy")):
        (tmp_path / name).rename(tmp_path / other)
    with pytest.raises(oe.DataFileError, match=r"shard[01].npy: expected the content that was packed"):
        oe.load_dataset(tmp_path)


def test_a_copied_folder_is_read_once_more_and_keeps_what_holds(folder: Path, tmp_path: Path) -> None:
    oe.pack(folder)
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    with pytest.raises(oe.DataFileError, match="whether its content changed"):
        oe.load_dataset(tmp_path / "copy")
    assert oe.pack(tmp_path / "copy").measured == 4
    assert oe.load_dataset(tmp_path / "copy").fingerprint == oe.load_dataset(folder).fingerprint


def test_a_meant_change_is_packed_anew(folder: Path) -> None:
    oe.pack(folder)
    before = oe.load_dataset(folder).fingerprint
    shard = folder / "shard1.safetensors"
    save_file({name: tensor.flip(0) for name, tensor in load_file(shard).items()}, shard)
    (folder / "shard1.safetensors.pack").unlink()
    assert oe.pack(folder).measured == 1
    assert oe.load_dataset(folder).fingerprint != before


SLOW_PACK = """
import sys, time
import oracle_engine as oe
from oracle_engine.data.packs import pack as packing

measured = packing.measured_side

def slowly(*arguments):
    time.sleep(0.15)
    return measured(*arguments)

packing.measured_side = slowly
print("ready", flush=True)
oe.pack(sys.argv[1], workers=1)
"""


def test_a_pack_that_is_killed_loses_nothing_that_was_written(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "whole")
    oe.pack(tmp_path / "whole")
    with subprocess.Popen([sys.executable, "-c", SLOW_PACK, folder], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        deadline = time.monotonic() + 60
        while len(list(folder.glob("shard?.safetensors.pack"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("shard?.safetensors.pack")}
    assert 2 <= len(kept) < 4
    assert oe.pack(folder).measured == 4 - len(kept)
    assert all(path.stat().st_mtime_ns == modified for path, modified in kept.items())
    assert (folder / MANIFEST).read_bytes() == (tmp_path / "whole" / MANIFEST).read_bytes()


def test_what_cannot_be_packed_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", points=np.zeros((4, 2), np.float32))
    with pytest.raises(oe.DataFileError, match=r"a.npz: expected samples that can be mapped"):
        oe.pack(tmp_path)
    (tmp_path / "a.npz").unlink()
    np.save(tmp_path / "a.npy", np.array([[1.0], [np.nan]]))
    with pytest.raises(oe.DataFileError, match=r"a.npy: expected finite numbers .* sample 1"):
        oe.pack(tmp_path)
    with pytest.raises(oe.InputError, match="`workers` must be at least 1"):
        oe.pack(tmp_path, workers=0)
    (tmp_path / MANIFEST).write_text("{}")
    with pytest.raises(oe.DataFileError, match="a file of another program"):
        oe.pack(tmp_path)


def test_the_command_line_packs_and_verifies(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = run_json(capsys, "pack", folder)
    assert (facts["shards"], facts["measured"]) == (4, 4)
    assert run("pack", folder, "--verify") == 0
    assert "0 measured now, 4 verified" in capsys.readouterr().out
    assert run("pack", folder, "--workers", 0) == 2
    assert "`--workers` must be at least 1" in capsys.readouterr().err
