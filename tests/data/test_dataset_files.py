"""A saved data set is loaded unchanged, or an error says what is wrong with its file."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from dataset_cases import LABELS, make_points

from oracle_engine import DataFileError, OracleDataset, OracleEngine, ValueMap
from oracle_engine.base.arrays import STORAGE_DTYPES


@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
@pytest.mark.parametrize("labels", [None, LABELS, LABELS.sort().values])
@pytest.mark.parametrize("weights", [None, torch.arange(6.0)])
def test_a_saved_data_set_comes_back_whole(
    tmp_path: Path, dtype: torch.dtype, labels: torch.Tensor | None, weights: torch.Tensor | None
) -> None:
    data = OracleDataset(make_points(dtype), labels, weights, name="six", value_map=ValueMap(0.1, 0.3))
    data.save(tmp_path / "new" / "six.safetensors")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["six.safetensors"]
    back = OracleDataset.load(tmp_path / "new" / "six.safetensors")
    assert repr(back) == repr(data)
    assert torch.equal(back[:], data[:])
    assert back.fingerprint == data.fingerprint
    # what the file says about itself is what its content says
    del back.__dict__["fingerprint"]
    assert back.fingerprint == data.fingerprint
    x = torch.zeros(2, 2, 2, dtype=torch.float64)
    ours, theirs = (OracleEngine(one).posterior(x, 0.7, top_k=6) for one in (data, back))
    assert torch.equal(ours.mean, theirs.mean)
    assert torch.equal(ours.top_indices, theirs.top_indices)


def save_six(folder: Path) -> Path:
    OracleDataset(make_points(), LABELS).save(folder / "six.safetensors")
    return folder / "six.safetensors"


def test_a_loaded_data_set_is_mapped_from_the_file_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    OracleDataset(torch.zeros(2000, 4096, dtype=torch.uint8).bernoulli_(0.5)).save(path)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("only Linux lists what a process has mapped")
    data = OracleDataset.load(path, verify=False)
    assert str(path) in maps.read_text()
    assert len(data) == 2000


def test_saving_over_a_loaded_file_leaves_the_loaded_data_alone(tmp_path: Path) -> None:
    path = save_six(tmp_path)
    loaded = OracleDataset.load(path)
    before = loaded[:].clone()
    OracleDataset(make_points() + 1, LABELS).save(path)
    assert torch.equal(loaded[:], before)
    assert torch.equal(OracleDataset.load(path)[:], before + 1)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.7, 0.99])
def test_damage_anywhere_in_the_file_is_noticed(tmp_path: Path, share: float) -> None:
    path = save_six(tmp_path)
    content = bytearray(path.read_bytes())
    place = int(share * len(content))
    # digits of the header as well as bits of the tensors
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataFileError, match=rf"{path.name}: expected .*Remedy: .*write it again"):
        OracleDataset.load(path)


def rewrite_facts(path: Path, **changes: Any) -> None:
    """Change what a saved file says of its samples, and leave a well-formed file."""
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    metadata["facts"] = json.dumps(json.loads(metadata["facts"]) | changes)
    safetensors.torch.save_file(tensors, path, metadata=metadata)


@pytest.mark.parametrize(
    "changes", [{"value_map": [0.5, 0.0]}, {"sample_shape": [4]}, {"radius": 0.0}, {"stored_radius": 1e-3}]
)
def test_changed_facts_are_noticed_like_changed_samples(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = save_six(tmp_path)
    rewrite_facts(path, **changes)
    with pytest.raises(DataFileError, match="checksum"):
        OracleDataset.load(path)


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = save_six(tmp_path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(
        DataFileError, match=r"expected a file of kind 'oracle-dataset-1'; found .*damaged or incomplete"
    ):
        OracleDataset.load(path, verify=False)


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    safetensors.torch.save_file({"stored": torch.zeros(3)}, tmp_path / "other.safetensors")
    (tmp_path / "text.txt").write_text("no tensors here")
    assert not OracleDataset.is_saved(tmp_path / "other.safetensors")
    assert not OracleDataset.is_saved(tmp_path / "text.txt")
    assert not OracleDataset.is_saved(tmp_path / "missing")
    assert OracleDataset.is_saved(save_six(tmp_path))
    with pytest.raises(
        DataFileError, match=r"other\.safetensors: expected a file of kind 'oracle-dataset-1'; found kind None"
    ):
        OracleDataset.load(tmp_path / "other.safetensors")
    with pytest.raises(DataFileError, match=r"text\.txt: expected"):
        OracleDataset.load(tmp_path / "text.txt")
    with pytest.raises(FileNotFoundError, match="missing: no such file"):
        OracleDataset.load(tmp_path / "missing")


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_while_writing_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = save_six(tmp_path)
    before = path.read_bytes()

    def write_half(tensors: Any, target: Path, metadata: Any) -> None:
        Path(target).write_bytes(b"half")
        raise error

    monkeypatch.setattr(safetensors.torch, "save_file", write_half)
    for target in (path, tmp_path / "new.safetensors"):
        with pytest.raises(type(error)):
            OracleDataset(make_points() + 1).save(target)
    assert [entry.name for entry in tmp_path.iterdir()] == ["six.safetensors"]
    assert path.read_bytes() == before


def test_a_kill_while_writing_leaves_no_file_under_the_name(tmp_path: Path) -> None:
    script = """
import os, signal, sys
import safetensors.torch, torch
from oracle_engine import OracleDataset

def write_half(tensors, target, metadata):
    with open(target, "wb") as file:
        file.write(b"half")
    os.kill(os.getpid(), signal.SIGKILL)

safetensors.torch.save_file = write_half
OracleDataset(torch.ones(3, 2)).save(sys.argv[1])
"""
    path = tmp_path / "killed.safetensors"
    done = subprocess.run([sys.executable, "-c", script, str(path)], cwd=Path.cwd(), check=False)
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()
    OracleDataset(make_points()).save(path)
    assert len(OracleDataset.load(path)) == 6
